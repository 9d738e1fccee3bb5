"""Which values of a context are kept out of the audit trail."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.settings import load
from sark.siem.redaction import COMMON_SECRETS, REDACTED, Redaction

NAMES = st.sampled_from(["a", "b", "otp", "card", "x.otp", "", "Password"]) | st.text(max_size=4)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
CONTEXTS = st.dictionaries(NAMES, VALUES, max_size=4)
PATTERNS = st.lists(
    st.sampled_from(["otp", "*word", "a", "a.b", "card.*", "*.otp", "*", "common"]), max_size=4
)


def redact(context: dict[str, Any], *patterns: str) -> dict[str, Any]:
    return Redaction(patterns).apply(context)


@pytest.mark.parametrize(
    ("pattern", "context", "expected"),
    [
        ("otp", {"otp": "1", "otp2": "2"}, {"otp": REDACTED, "otp2": "2"}),
        ("otp", {"OTP": 1}, {"OTP": REDACTED}),
        ("otp", {"a": {"b": {"otp": 1}}}, {"a": {"b": {"otp": REDACTED}}}),
        ("otp", {"a": [1, [{"otp": 1}]]}, {"a": [1, [{"otp": REDACTED}]]}),
        ("otp", {"otp": {"a": 1}}, {"otp": REDACTED}),
        ("otp", {"login.otp": 1}, {"login.otp": REDACTED}),
        ("*_token", {"x_token": 1, "token": 2}, {"x_token": REDACTED, "token": 2}),
        ("api_key", {"API-Key": 1}, {"API-Key": REDACTED}),
        ("card.number", {"card": {"number": 1}}, {"card": {"number": REDACTED}}),
        ("card.number", {"number": 1, "a": {"card": {"number": 1}}}, None),
        ("card.number", {"card": [{"number": 1}, 2]}, {"card": [{"number": REDACTED}, 2]}),
        ("card.*", {"card": {"a": 1, "b": []}}, {"card": {"a": REDACTED, "b": REDACTED}}),
        ("*.pin", {"a": {"b": {"pin": 1}}, "pin": 2}, {"a": {"b": {"pin": REDACTED}}, "pin": 2}),
        ("otp", {"not": "otp"}, None),
    ],
)
def test_a_pattern_finds_names_and_paths(
    pattern: str, context: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert redact(context, pattern) == (context if expected is None else expected)


@given(CONTEXTS, PATTERNS)
def test_a_callers_context_is_never_changed(context: dict[str, Any], patterns: list[str]) -> None:
    before = copy.deepcopy(context)
    redacted = redact(context, *patterns)
    assert context == before
    assert (redacted is context) == (redacted == context) or REDACTED in str(context)


@given(CONTEXTS, PATTERNS)
def test_doing_it_twice_changes_nothing_more(context: dict[str, Any], patterns: list[str]) -> None:
    once = redact(context, *patterns)
    assert redact(once, *patterns) == once
    assert [*once] == [*context]


@given(CONTEXTS)
def test_no_value_of_the_name_is_left_at_any_depth(context: dict[str, Any]) -> None:
    def values(value: Any) -> list[Any]:
        if isinstance(value, dict):
            named = [inner for name, inner in value.items() if name.lower() == "otp"]
            return named + [found for inner in value.values() for found in values(inner)]
        return [found for inner in value for found in values(inner)] if type(value) is list else []

    assert all(value == REDACTED for value in values(redact(context, "otp")))


@given(CONTEXTS)
def test_without_patterns_nothing_is_replaced(context: dict[str, Any]) -> None:
    assert redact(context) is context


@pytest.mark.parametrize(
    "name",
    [
        *("password", "userPassword", "old_passwd", "client_secret", "clientSecret", "Secret-Key"),
        *("token", "accessToken", "X-Auth-Token", "Authorization", "Proxy-Authorization", "Cookie"),
        *("Set-Cookie", "x-api-key", "apiKey", "private_key", "privateKey", "credentials", "PWD"),
    ],
)
def test_the_default_finds_what_secrets_are_called(name: str) -> None:
    assert redact({name: 1}, *load({}).siem_redact) == {name: REDACTED}


@pytest.mark.parametrize(
    "name", ["user", "api_key_id", "token_type", "password_changed_at", "secretary", "tokens", "ip"]
)
def test_the_default_leaves_what_only_looks_like_it(name: str) -> None:
    context = {name: 1}
    assert redact(context, *load({}).siem_redact) is context


def test_the_list_of_secrets_can_be_extended() -> None:
    context = {"otp": 1, "password": 2, "a": 3}
    assert redact(context, "common", "otp") == {"otp": REDACTED, "password": REDACTED, "a": 3}
    assert redact(context, *COMMON_SECRETS) == redact(context, "common")


def test_names_that_are_long_or_many_are_judged_and_not_kept() -> None:
    redaction = Redaction(["*otp"])
    long = "x" * 10_000 + "otp"
    assert redaction.apply({long: 1}) == {long: REDACTED}
    for number in range(10_000):
        redaction.apply({f"{number}": 1, f"{number}otp": 1})
    info = redaction._is_hidden.cache_info()
    assert info.currsize <= 4096
    assert info.misses == 20_000
