"""The sample policies: their Rego tests, and what holds for every request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
import regorus
from hypothesis import given, settings
from hypothesis import strategies as st

POLICIES = Path(__file__).parents[2] / "examples" / "policies"
MODULES = sorted(POLICIES.rglob("*.rego"))
TESTS = [
    f"data.{package}.{name}"
    for path in MODULES
    if path.name.endswith("_test.rego")
    for package in re.findall(r"^package (\S+)", path.read_text(), re.MULTILINE)
    for name in re.findall(r"^(test_\w+)", path.read_text(), re.MULTILINE)
]
CLOCK = """
package clock
import rego.v1
decision := result if {
    result := data.sark.authz.decision with input as input.request with time.now_ns as input.now
}
"""
NANOSECONDS = 1_000_000_000
# What org/data.json says of its schedules, told apart from it.
BOUNDARIES = {
    "office": (time(7), time(19)),
    "maintenance": (time(20, 30), time(23)),
}
WORKDAYS = {"office": {0, 1, 2, 3, 4}, "maintenance": {1, 3, 5}}


def data_document(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_bytes())
    for name in reversed(path.parent.relative_to(POLICIES).parts):
        document = {name: document}
    return dict(document)


ORGANISATION = data_document(POLICIES / "org" / "data.json")["org"]
DIRECTORY = data_document(POLICIES / "org" / "directory" / "data.json")["org"]["directory"]
USERS = list(DIRECTORY["users"])
RESOURCES = list(DIRECTORY["resources"])
ACTIONS = list(ORGANISATION["actions"])


class Engine:
    """The policies in regorus, with the tests and a clock that can be set."""

    def __init__(self) -> None:
        self.engine = regorus.Engine()
        for path in MODULES:
            self.engine.add_policy(str(path.relative_to(POLICIES)), path.read_text())
        self.engine.add_policy("clock.rego", CLOCK)
        for path in sorted(POLICIES.rglob("data.json")):
            self.engine.add_data_json(json.dumps(data_document(path)))

    def value(self, query: str, question: Any) -> Any:
        """Return the value of a query; an undefined one fails."""
        self.engine.set_input_json(json.dumps(question))
        answer = json.loads(self.engine.eval_query_as_json(query))
        assert answer, f"{query} is undefined"
        return answer["result"][0]["expressions"][0]["value"]

    def decide(self, question: Any, now: datetime | None = None) -> dict[str, Any]:
        """Return the decision, at a given moment or now, having checked its form."""
        if now is None:
            decision = self.value("data.sark.authz.decision", question)
        else:
            wrapped = {"request": question, "now": round(now.timestamp()) * NANOSECONDS}
            decision = self.value("data.clock.decision", wrapped)
        check_form(decision)
        return dict(decision)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def check_form(decision: dict[str, Any]) -> None:
    assert set(decision) <= {"allow", "reason", "ttl", "cacheable"}
    assert isinstance(decision["allow"], bool)
    assert re.fullmatch(r"[a-z][a-z:' -]{5,60}", decision["reason"])
    assert decision.get("ttl", 1) >= 1
    assert decision.get("cacheable", False) is False
    assert not {"ttl", "cacheable"} <= set(decision)


def request(user_id: Any, action: Any, resource: Any, context: Any) -> dict[str, Any]:
    return {"user_id": user_id, "action": action, "resource": resource, "context": context}


def test_rego_tests_are_found() -> None:
    assert len(TESTS) > 30
    assert len(TESTS) == len(set(TESTS))


@pytest.mark.parametrize("name", TESTS)
def test_rego(engine: Engine, name: str) -> None:
    assert engine.value(name, {}) is True


garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = {
    "environment": st.sampled_from(["production", "staging", "development", "moon"]),
    "mfa": st.booleans(),
    "break_glass": st.booleans(),
    "ticket": st.sampled_from(["INC-2041", "SEC-100", "", "INC-1"]),
    "colour": garbage,
}
contexts = st.fixed_dictionaries({}, optional=fields)
odd_contexts = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, garbage)) | garbage
requests = st.builds(
    request,
    st.sampled_from(USERS),
    st.sampled_from(ACTIONS),
    st.sampled_from(RESOURCES),
    contexts,
)
odd_requests = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.sampled_from(USERS) | garbage,
        "action": st.sampled_from(ACTIONS) | garbage,
        "resource": st.sampled_from(RESOURCES) | garbage,
        "context": contexts | odd_contexts,
    },
)
# A leap year with every weekday, in UTC.
moments = st.datetimes(
    datetime(2024, 1, 1),  # noqa: DTZ001  (hypothesis takes naive bounds and adds the zone)
    datetime(2025, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
).map(lambda moment: moment.replace(microsecond=0))


@given(question=odd_requests | requests | garbage)
@settings(max_examples=400, deadline=None)
def test_every_input_has_a_decision(engine: Engine, question: Any) -> None:
    engine.decide(question)


@given(question=odd_requests, now=moments)
@settings(max_examples=200, deadline=None)
def test_every_rule_bears_every_input(engine: Engine, question: Any, now: datetime) -> None:
    """Under ``with`` regorus evaluates all rules of the package, also unused ones."""
    engine.decide(question, now)


def flips(name: str, around: datetime) -> Iterator[datetime]:
    """Yield the moments at which a schedule opens and closes in the days around a moment."""
    for offset in range(-1, 9):
        day = around.date() + timedelta(days=offset)
        if day.weekday() in WORKDAYS[name]:
            for moment in BOUNDARIES[name]:
                yield datetime.combine(day, moment, UTC)


def test_schedules_are_those_of_this_test() -> None:
    names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    for name, schedule in ORGANISATION["hours"].items():
        assert schedule["zone"] == "UTC"
        assert {names.index(day) for day in schedule["days"]} == WORKDAYS[name]
        assert (time(*schedule["opens"]), time(*schedule["closes"])) == BOUNDARIES[name]


timed_questions = st.sampled_from(
    [
        request(user, action, resource, {"mfa": True})
        for user, person in DIRECTORY["users"].items()
        if {"operator", "admin", "deployer"} & set(person["roles"])
        for action, resource in (
            ("server:write", "server/web-001"),
            ("server:delete", "server/api-001"),
            ("admin:rotate-keys", "key/signing"),
        )
    ],
)


@given(question=timed_questions, now=moments)
@settings(max_examples=300, deadline=None)
def test_a_ttl_crosses_no_boundary(engine: Engine, question: dict[str, Any], now: datetime) -> None:
    decision = engine.decide(question, now)
    end = now + timedelta(seconds=decision.get("ttl", 0))
    later = engine.decide(question, end)
    assert (later["allow"], later["reason"]) == (decision["allow"], decision["reason"])
    if decision["reason"] == "outside the permitted hours" and "ttl" in decision:
        crossed = [flip for name in WORKDAYS for flip in flips(name, now) if now < flip <= end]
        assert all(not engine.decide(question, flip)["allow"] for flip in crossed)


@pytest.mark.parametrize("seconds", range(-4, 3))
def test_around_closing(engine: Engine, seconds: int) -> None:
    question = request("svc-ci", "server:write", production_server(), {})
    now = datetime(2024, 1, 8, 19, tzinfo=UTC) + timedelta(seconds=seconds)
    decision = engine.decide(question, now)
    assert decision["allow"] is (seconds < 0)
    assert decision.get("ttl", 0) <= (-seconds if seconds < 0 else 5 * 3600)


def production_server() -> str:
    denied = ORGANISATION["denies"]["resources"]
    return next(
        str(name)
        for name, each in DIRECTORY["resources"].items()
        if each.get("environment") == "production" and name not in denied
    )


@given(question=requests, now=moments, ticket=fields["ticket"])
@settings(max_examples=200, deadline=None)
def test_break_glass_is_never_cacheable(
    engine: Engine, question: dict[str, Any], now: datetime, ticket: str
) -> None:
    question["context"] |= {"break_glass": True, "ticket": ticket}
    decision = engine.decide(question, now)
    assert decision["cacheable"] is False
    assert "ttl" not in decision


@given(question=requests, data=st.data())
@settings(max_examples=200, deadline=None)
def test_explicit_denies_beat_everything(
    engine: Engine, question: dict[str, Any], data: st.DataObject
) -> None:
    denies = ORGANISATION["denies"]
    field, kind = data.draw(st.sampled_from([("user_id", "users"), ("resource", "resources")]))
    question[field] = data.draw(st.sampled_from(list(denies[kind])))
    reasons = {each["reason"] for names in denies.values() for each in names.values()}
    question["context"] |= {"break_glass": True, "ticket": "INC-2041", "mfa": True}
    decision = engine.decide(question)
    assert not decision["allow"]
    assert decision["reason"] in reasons


def test_denied_names_exist() -> None:
    for kind, names in ORGANISATION["denies"].items():
        assert set(names) <= set(DIRECTORY[kind])


def test_roles_actions_and_schedules_exist() -> None:
    conditions = {"environments", "owned", "self", "sensitivity", "mfa", "hours"}
    for role in ORGANISATION["roles"].values():
        assert set(role) <= set(ACTIONS)
        for grant in (grant for grants in role.values() for grant in grants):
            assert set(grant) <= conditions
            assert grant.get("hours", "office") in ORGANISATION["hours"]
            assert set(grant.get("environments", [])) <= set(ORGANISATION["environments"])
    assert all(
        set(user["roles"]) <= set(ORGANISATION["roles"]) for user in DIRECTORY["users"].values()
    )


def test_lines_fit_the_embedded_engine() -> None:
    longest = max(len(line) for path in MODULES for line in path.read_text().splitlines())
    assert longest <= 100, longest
