"""Key names: no two ids share one, no id forges another key, and every key is in the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from valkey.crc import key_slot

from sark.errors import InvalidRequestError
from sark.keyspace import (
    MAX_ENCODED_BYTES,
    TABLE,
    KeyPattern,
    Keyspace,
    Role,
    classify,
    encode_id,
    is_permanent,
)

ENCODED = re.compile(r"[A-Za-z0-9\-_.~@+=,/%]{1,200}|#[0-9a-f]{64}")
# Rich in what could break an encoding: separators, braces, its own marks, and what looks escaped.
TRICKY = st.text(alphabet=":{}#%*[] ?\n\t\r\0\\/25Aaé🔑\u00a0\u2028\u0301", min_size=1, max_size=20)
IDS = TRICKY | st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=300)
LONG_IDS = st.builds(
    lambda head, filler, tail: head + filler * 5000 + tail,
    st.text(alphabet="ab:%#", max_size=3),
    st.sampled_from(["a", "é", "%", "{}"]),
    st.text(alphabet="ab:%#", max_size=3),
)
ORDINARY = st.from_regex(r"[A-Za-z0-9\-_.~@+=,/]{1,200}", fullmatch=True)

# Each builder that takes ids from outside, made to take exactly one.
Builder = Callable[[Keyspace, str], str]
BUILDERS: dict[str, list[Builder]] = {
    "session_user": [
        lambda keys, value: keys.session_user(value, "s"),
        lambda keys, value: keys.session_user("u", value),
    ],
    "session_token": [lambda keys, value: keys.session_token("u", value)],
    "session_index": [lambda keys, value: keys.session_index(value)],
    "session_not_before": [lambda keys, value: keys.session_not_before(value)],
    "policy_version": [lambda keys, value: keys.policy_version(value)],
    "policy_user_version": [lambda keys, value: keys.policy_user_version(value)],
    "ratelimit": [
        lambda keys, value: keys.ratelimit("user", value, 60),
        lambda keys, value: keys.ratelimit("ip", value, 60),
        lambda keys, value: keys.ratelimit("apikey", value, 3600),
    ],
    "ratelimit_rule": [
        lambda keys, value: keys.ratelimit_rule("user", value, 60, "pro"),
    ],
    "siem_inflight": [lambda keys, value: keys.siem().inflight(value)],
    "siem_sink_event_queue": [lambda keys, value: keys.siem(value).queue],
    "siem_sink_failed_events": [lambda keys, value: keys.siem(value).failed],
    "siem_sink_leases": [lambda keys, value: keys.siem(value).leases],
    "siem_sink_account": [lambda keys, value: keys.siem(value).account],
    "siem_sink_expiries": [lambda keys, value: keys.siem(value).expiries],
    "siem_sink_inflight": [
        lambda keys, value: keys.siem(value).inflight("w"),
        lambda keys, value: keys.siem("s").inflight(value),
    ],
    "breaker_state": [lambda keys, value: keys.breaker_state(value)],
    "breaker_failure_count": [lambda keys, value: keys.breaker_failure_count(value)],
    "breaker_last_failure": [lambda keys, value: keys.breaker_last_failure(value)],
}
FIXED = {
    row.name: row for row in TABLE if row.name not in BUILDERS and row.name != "policy_decision"
}
# The keys of one sink are built together.
OF_MAIN_SINK = {
    "siem_event_queue": "queue",
    "siem_failed_events": "failed",
    "siem_leases": "leases",
    "siem_account": "account",
    "siem_expiries": "expiries",
}


def fixed_key(keys: Keyspace, name: str) -> str:
    key = getattr(keys.siem(), OF_MAIN_SINK[name]) if name in OF_MAIN_SINK else getattr(keys, name)
    assert isinstance(key, str)
    return key


class TestEncoding:
    @given(st.lists(IDS | LONG_IDS, min_size=2, max_size=6, unique=True))
    @example(["a:b", "a%3Ab"])
    @example(["%", "%25"])
    @example(["#", "%23"])
    @example(["é", "e\u0301"])
    @example(["x" * MAX_ENCODED_BYTES, "x" * (MAX_ENCODED_BYTES + 1)])
    @example(["x" * 10_240, "x" * 10_239 + "y"])
    def test_different_ids_have_different_forms(self, ids: list[str]) -> None:
        assert len({encode_id(value) for value in ids}) == len(ids)

    @given(IDS)
    def test_the_hash_of_a_long_id_is_no_id_of_its_own(self, value: str) -> None:
        hashed = encode_id(value * (MAX_ENCODED_BYTES + 1))
        assert hashed.startswith("#")
        assert encode_id(hashed) != hashed

    @given(IDS | LONG_IDS)
    def test_the_form_is_safe_and_bounded(self, value: str) -> None:
        form = encode_id(value)
        assert ENCODED.fullmatch(form), form
        assert len(form.encode()) <= MAX_ENCODED_BYTES

    @given(ORDINARY)
    def test_ordinary_ids_stay_as_they_are(self, value: str) -> None:
        assert encode_id(value) == value

    @given(IDS | LONG_IDS)
    def test_the_form_is_always_the_same(self, value: str) -> None:
        assert encode_id(value) == encode_id(value)

    @given(st.text(max_size=5), st.characters(categories=["Cs"]), st.text(max_size=5))
    @example("x" * 500, "\ud800", "")
    def test_lone_surrogates_are_refused(self, before: str, surrogate: str, after: str) -> None:
        with pytest.raises(InvalidRequestError) as refused:
            encode_id(before + surrogate + after, field="user_id")
        assert refused.value.field == "user_id"

    def test_an_empty_id_is_refused_and_named(self) -> None:
        with pytest.raises(InvalidRequestError, match=r"^session_id: "):
            encode_id("", field="session_id")

    def test_known_forms(self) -> None:
        # Written down, because a change of encoding orphans everything that is stored.
        assert encode_id("user-0001@example.com") == "user-0001@example.com"
        assert encode_id("2001:db8::1") == "2001%3Adb8%3A%3A1"
        assert encode_id("a b\n{é}*#%") == "a%20b%0A%7B%C3%A9%7D%2A%23%25"
        assert encode_id("x" * 201) == (
            "#84a0678c90937f5dcf9994d5866668da6b995109c8ad845410559b48a4ecafed"
        )


class TestTable:
    def test_names_and_patterns_are_unique(self) -> None:
        assert len({row.name for row in TABLE}) == len(TABLE)
        assert len({row.pattern for row in TABLE}) == len(TABLE)

    def test_every_row_has_its_builder(self) -> None:
        built = {*BUILDERS, *OF_MAIN_SINK, "policy_decision"}
        missing = {row.name for row in TABLE if not hasattr(Keyspace(), row.name)} - built
        assert missing == set()

    def test_every_builder_has_its_row(self) -> None:
        builders = {name for name in dir(Keyspace()) if not name.startswith("_")}
        no_keys = {"cluster", "generation_prefixes", "policy_changes", "ratelimit_parts", "siem"}
        of_sinks = {*OF_MAIN_SINK, *(name for name in BUILDERS if name.startswith("siem_"))}
        assert builders - no_keys == {row.name for row in TABLE} - of_sinks

    @pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
    def test_rows_are_filled_in(self, row: KeyPattern) -> None:
        assert row.type in {"string", "hash", "list", "zset"}
        assert row.ttl
        assert row.owner
        assert row.value
        variables = re.findall(r"<(\w+)>", row.pattern)
        # A cluster's name of a token has its user in front.
        variables += ["user_id"] if row.name == "session_token" else []
        assert not row.tag or row.tag in variables or row.pattern.startswith(f"{row.tag}:")

    def test_only_the_cache_may_be_lost(self) -> None:
        lost = {row.name for row in TABLE if row.role is Role.CACHE}
        assert lost == {"policy_decision", "policy_hot_requests"}


@pytest.mark.parametrize("cluster", [False, True], ids=["single", "cluster"])
class TestClassification:
    @given(value=IDS | LONG_IDS)
    @example(value="a:b:state")
    @example(value="{siem}:event_queue")
    @example(value="x\n")
    def test_built_keys_are_of_their_own_row(self, cluster: bool, value: str) -> None:
        keys = Keyspace(cluster=cluster)
        for name, builders in BUILDERS.items():
            for build in builders:
                key = build(keys, value)
                for form in (key, key.encode()):
                    row = classify(form)
                    assert row is not None, key
                    assert row.name == name, key

    @pytest.mark.parametrize("name", FIXED)
    def test_fixed_keys_are_of_their_own_row(self, cluster: bool, name: str) -> None:
        key = fixed_key(Keyspace(cluster=cluster), name)
        assert classify(key) is FIXED[name]
        assert classify(key.encode()) is FIXED[name]
        assert key.replace("{", "").replace("}", "") == FIXED[name].pattern

    def test_decisions_are_of_their_own_row(self, cluster: bool) -> None:
        row = classify(Keyspace(cluster=cluster).policy_decision("0f" * 16))
        assert row is not None
        assert row.name == "policy_decision"

    @given(ids=st.lists(IDS, min_size=2, max_size=4, unique=True))
    def test_no_two_inputs_give_one_key(self, cluster: bool, ids: list[str]) -> None:
        assume(not {"s", "u", "w", "main"} & {*ids})  # what the builders put beside an id
        keys = Keyspace(cluster=cluster)
        built = [
            build(keys, value) for value in ids for many in BUILDERS.values() for build in many
        ]
        built += [keys.session_user(a, b) for a in ids for b in ids]
        built += [fixed_key(keys, name) for name in FIXED]
        assert len(set(built)) == len(built)

    def test_tags_change_nothing_but_braces(self, cluster: bool) -> None:
        plain, keys = Keyspace(), Keyspace(cluster=cluster)
        for name, many in BUILDERS.items():
            if name == "session_token":
                continue  # its tag is a part of its own
            for build in many:
                bare = build(keys, "user:{1}").replace("{", "").replace("}", "")
                assert bare == build(plain, "user:{1}")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "foo",
        "session",
        "session:user:a",
        "session:user:a:b:c",
        "session:user::b",
        "policy:generation:x",
        "ratelimit:user:a",
        "siem:event_queue2",
        "xsiem:event_queue",
        "circuit_breaker:siem:states",
        b"policy:decision:",
        b"\xff\xfe",
    ],
)
def test_foreign_keys_have_no_row(key: bytes | str) -> None:
    assert classify(key) is None
    assert not is_permanent(key)


class TestSlots:
    """What one script touches shares a slot, whatever the ids are."""

    @given(IDS | LONG_IDS, IDS, IDS)
    @example("{", "}", "{}")
    @example("}{", "a", "b")
    def test_a_users_sessions(self, user: str, first: str, second: str) -> None:
        keys = Keyspace(cluster=True)
        assert_one_slot(
            keys.session_index(user),
            keys.session_user(user, first),
            keys.session_user(user, second),
            keys.session_token(user, first),
        )

    def test_a_token_has_the_guides_name_without_a_cluster(self) -> None:
        assert Keyspace().session_token("u", "j:1") == "session:token:j%3A1"
        assert Keyspace(cluster=True).session_token("u", "j") == "session:token:{u}.j"

    @given(IDS)
    def test_the_audit_queue(self, worker: str) -> None:
        keys = Keyspace(cluster=True)
        fixed = [fixed_key(keys, name) for name in FIXED if name.startswith("siem_")]
        assert len(fixed) >= 8
        other = keys.siem(worker)
        assert_one_slot(*fixed, keys.siem().inflight(worker), other.queue, other.inflight(worker))

    @given(IDS)
    def test_a_breaker(self, name: str) -> None:
        keys = Keyspace(cluster=True)
        assert_one_slot(
            keys.breaker_state(name),
            keys.breaker_failure_count(name),
            keys.breaker_last_failure(name),
        )

    def test_users_are_spread(self) -> None:
        keys = Keyspace(cluster=True)
        slots = {key_slot(keys.session_index(f"user-{n}").encode()) for n in range(1000)}
        assert len(slots) > 900

    def test_without_a_cluster_no_key_has_braces(self) -> None:
        keys = Keyspace()
        built = [build(keys, "u{1}") for many in BUILDERS.values() for build in many]
        assert not [key for key in built if "{" in key or "}" in key]


def assert_one_slot(*keys: str) -> None:
    for one, other in combinations(keys, 2):
        assert key_slot(one.encode()) == key_slot(other.encode()), (one, other)


def test_what_is_permanent() -> None:
    permanent = {row.name for row in TABLE if row.permanent}
    assert permanent == {
        "policy_generation",
        "policy_version",
        "siem_event_queue",
        "siem_failed_events",
        "siem_inflight",
        "siem_leases",
        "siem_account",
        *(
            name
            for name in BUILDERS
            if name.startswith("siem_sink_") and name != "siem_sink_expiries"
        ),
        "siem_refusals",
        "siem_refusal_counts",
        "siem_refusals_due",
        "breaker_state",
        "breaker_failure_count",
        "breaker_last_failure",
    }
    assert {row.name for row in TABLE if row.evictable} == {r.name for r in TABLE} - permanent
    for cluster in (False, True):
        keys = Keyspace(cluster=cluster)
        assert is_permanent(keys.siem().queue)
        assert is_permanent(keys.policy_version("authz").encode())
        assert is_permanent(keys.breaker_state("siem"))
        assert not is_permanent(keys.policy_user_version("u"))
        assert not is_permanent(keys.session_index("u"))
        assert not is_permanent(keys.ratelimit("user", "u", 60))
