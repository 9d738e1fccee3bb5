"""What answers tell of rate limits in header fields."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.http.ratelimit_fields import Fields, LimitFields, check_policy_name, told
from sark.http.ratelimit_openapi import admitted_headers, refused_headers
from sark.ratelimit import LimitState
from sark.settings import load
from tests.support.structured_fields import parse_list

USER = LimitState("user", 1000, 998, 41, 60, "user")
BURST = LimitState("ip", 20, 49, 3, 1, "uploads", burst=50)
EMPTY = LimitState("apikey", 5, 0, 3000, 3600, 'odd "name" \\ here')
SHADOW = LimitState("user", 1, 0, 60, 60, "trial", shadow=True)
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=256)


def decoded(fields: Fields) -> dict[str, str]:
    assert len({name for name, _ in fields}) == len(fields)
    assert all(name == name.lower() for name, _ in fields)
    return {name.decode(): value.decode("ascii") for name, value in fields}


def test_every_enforced_limit_is_told() -> None:
    fields = decoded(LimitFields().admitted((USER, BURST, EMPTY, SHADOW)))
    assert parse_list(fields.pop("ratelimit-policy")) == {
        "user": {"q": 1000, "w": 60},
        "uploads": {"q": 20, "w": 1, "sark-burst": 50},
        EMPTY.policy: {"q": 5, "w": 3600},
    }
    assert parse_list(fields.pop("ratelimit")) == {
        "user": {"r": 998, "t": 41},
        "uploads": {"r": 49, "t": 3},
        EMPTY.policy: {"r": 0, "t": 3000},
    }
    assert fields == {}


def test_a_refusal_tells_who_refused_and_when_to_come_back() -> None:
    """No window in it is longer than ``Retry-After``, which the draft asks for in section 6."""
    fields = decoded(LimitFields().refused((USER, BURST, EMPTY, SHADOW), "uploads", 2))
    assert fields["retry-after"] == "2"
    assert parse_list(fields["ratelimit"]) == {
        "uploads": {"r": 49, "t": 2},
        EMPTY.policy: {"r": 0, "t": 2},
    }
    assert [*parse_list(fields["ratelimit-policy"])] == ["user", "uploads", EMPTY.policy]


def test_a_name_stands_there_once_for_the_identity_with_the_least_left() -> None:
    ann, acme = (
        LimitState("user", 10, left, reset, 60, "both") for left, reset in ((3, 20), (1, 50))
    )
    later = LimitState("user", 10, 1, 55, 60, "both")
    for states in ((ann, acme), (acme, ann)):
        fields = decoded(LimitFields().admitted(states))
        assert fields["ratelimit"] == '"both";r=1;t=50'
        assert fields["ratelimit-policy"] == '"both";q=10;w=60'
    assert told((SHADOW, ann, acme, USER, later)) == [later, USER]
    fields = decoded(LimitFields().refused((ann, acme), "both", 9))
    assert fields["ratelimit"] == '"both";r=1;t=9'


def test_which_answers_carry_them() -> None:
    refused = LimitFields("refused")
    assert refused.admitted((USER,)) == []
    assert [*decoded(refused.refused((USER,), "user", 1))] == [
        "retry-after",
        "ratelimit-policy",
        "ratelimit",
    ]
    off = LimitFields("off", "seconds")
    assert off.admitted((USER,)) == []
    assert decoded(off.refused((USER,), "user", 1)) == {"retry-after": "1"}


def test_without_limits_there_is_nothing_to_tell() -> None:
    for fields in (LimitFields(), LimitFields(legacy="seconds")):
        assert fields.admitted(()) == []
        assert fields.admitted((SHADOW,)) == []
        assert fields.refused((), "", 0) == []


def test_the_old_fields_tell_the_tightest_limit() -> None:
    tight = LimitState("ip", 10, 1, 30, 60, "ip")
    fields = decoded(LimitFields(legacy="seconds").admitted((USER, tight)))
    old = {name: value for name, value in fields.items() if name.startswith("x-")}
    assert old == {
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset": "30",
    }
    refused = decoded(LimitFields(legacy="seconds").refused((USER, tight, EMPTY), "ip", 7))
    assert refused["x-ratelimit-remaining"] == "0"
    assert refused["x-ratelimit-reset"] == refused["retry-after"] == "7"
    before = int(time.time())
    epoch = decoded(LimitFields(legacy="epoch").admitted((tight,)))
    assert before + 30 <= int(epoch["x-ratelimit-reset"]) <= int(time.time()) + 30


@given(
    st.lists(
        st.builds(
            LimitState,
            st.sampled_from(["user", "ip", "apikey"]),
            st.integers(1, 10**9),
            st.integers(0, 10**9),
            st.integers(0, 31 * 86_400),
            st.integers(1, 31 * 86_400),
            NAMES,
            st.integers(0, 10**9),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda state: state.policy,
    ),
    st.integers(1, 31 * 86_400),
)
def test_they_are_structured_fields(states: list[LimitState], retry_after: int) -> None:
    fields = decoded(LimitFields().admitted(states))
    policies, limits = parse_list(fields["ratelimit-policy"]), parse_list(fields["ratelimit"])
    for state in states:
        assert (policies[state.policy]["q"], policies[state.policy]["w"]) == (
            state.limit,
            state.window,
        )
        assert limits[state.policy] == {"r": state.remaining, "t": state.reset}
    refused = decoded(LimitFields().refused(states, states[-1].policy, retry_after))
    items = parse_list(refused["ratelimit"])
    assert items.keys() >= {states[-1].policy}
    assert all(item["t"] <= retry_after for item in items.values())  # type: ignore[operator]


@pytest.mark.parametrize("name", ["", "a\nb", "café", "x" * 257, "\x7f"])
def test_names_that_cannot_stand_in_them(name: str) -> None:
    with pytest.raises(ValueError, match="got the name"):
        check_policy_name(name)


@pytest.mark.parametrize("sent", ["always", "refused", "off"])
@pytest.mark.parametrize("legacy", ["off", "seconds", "epoch"])
def test_the_document_describes_what_is_sent(sent: Any, legacy: Any) -> None:
    fields = LimitFields(sent, legacy)
    for described, sent_fields in (
        (admitted_headers(fields), fields.admitted((USER,))),
        (refused_headers(fields), fields.refused((USER,), "user", 1)),
    ):
        assert {name.lower() for name in described} == {*decoded(sent_fields)}


def test_settings() -> None:
    assert LimitFields.of(load({})) == LimitFields("always", "off")
    environ = {"SARK_RATELIMIT_HEADERS": "refused", "SARK_LEGACY_RATELIMIT_HEADERS": "epoch"}
    assert LimitFields.of(load(environ)) == LimitFields("refused", "epoch")
