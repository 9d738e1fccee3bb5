"""Names of limits that a program writes into its code."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sark.http.ratelimit_fields import check_policy_name
from sark.ratelimit.limit import Limit
from sark.ratelimit.named import NAME, NamedLimits, check_name, derive_name, identities_of, qualify

PARTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), max_size=4)


def test_a_derived_name_shows_what_it_is_of() -> None:
    name = derive_name("shop", "GET", "/items/{item_id}", "20/minute")
    assert name.startswith("shop-get-items-item_id-20-minute-")


@given(PARTS, PARTS)
def test_derived_names_are_usable_and_differ_as_their_parts_do(
    one: list[str], two: list[str]
) -> None:
    first, second = derive_name(*one), derive_name(*two)
    assert NAME.fullmatch(first)
    assert check_policy_name(first) == first
    assert (first == second) == (one == two)
    assert derive_name(*one, also=["more"]) != first


@pytest.mark.parametrize(
    "name", ["", "a:b", "a b", "A", "-a", "{a}", "a" * 65, "ä", "a\n", "ip", "deny"]
)
def test_names_that_could_be_mistaken_in_a_key_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="got the name"):
        check_name(name)


NAMES = st.from_regex(NAME, fullmatch=True).filter(
    lambda name: name not in ("ip", "user", "apikey")
)


@given(NAMES, NAMES, NAMES, NAMES)
@example("a", "b-c", "a-b", "c")
def test_namespace_and_name_are_told_apart(a: str, b: str, c: str, d: str) -> None:
    assert (qualify(a, b) == qualify(c, d)) == ((a, b) == (c, d))
    assert NamedLimits(["1/minute"], name=qualify(a, b)).name == f"{a}.{b}"
    assert qualify("", b) == b


@pytest.mark.parametrize(("namespace", "name"), [("a.b", "c"), ("a", "b.c"), ("A", "b"), ("a", "")])
def test_neither_holds_a_dot(namespace: str, name: str) -> None:
    with pytest.raises(ValueError, match="got the name"):
        qualify(namespace, name)


@pytest.mark.parametrize("limits", [(), ("1/minute", "9/60 seconds"), ("1/minute", Limit(9))])
def test_limits_that_make_no_sense_together_are_refused(limits: tuple[str | Limit, ...]) -> None:
    with pytest.raises(ValueError, match="got "):
        NamedLimits(limits, name="name")


def test_a_cost_is_within_every_limit() -> None:
    assert NamedLimits(["5/second burst 9", "20/day"], name="name", cost=9).cost == 9
    for cost in (0, -1, 10):
        with pytest.raises(ValueError, match=f"got a cost of {cost}, expected 1 to 9"):
            NamedLimits(["5/second burst 9", "20/day"], name="name", cost=cost)


def test_one_identity_is_a_list_of_one() -> None:
    assert identities_of(("user", "ann")) == [("user", "ann")]
    assert identities_of([("user", "ann"), ("ip", "::1")]) == [("user", "ann"), ("ip", "::1")]
    assert identities_of([]) == []


def test_who_is_named_twice_is_one() -> None:
    twice: list[tuple[str, str]] = [("user", "ann"), ("ip", "::1"), ("user", "ann")]
    assert identities_of(twice) == [("user", "ann"), ("ip", "::1")]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (object(), TypeError, "gave a object"),
        ("ann", TypeError, "gave a str"),
        (["acme", "ann"], TypeError, "gave a str among identities"),
        ([["user", "ann"]], TypeError, "gave a list among identities"),
        (("user", 5), TypeError, r"gave a tuple of \(str, int\)"),
        (("user", "ann", "bob"), TypeError, r"gave a tuple of \(str, str, str\)"),
        (("acme", "ann"), ValueError, "of kind 'acme', expected one of: user, ip, apikey"),
        ([("user", "ann"), ("user:x", "y")], ValueError, "of kind 'user:x'"),
    ],
)
def test_what_is_no_identity_is_refused(given: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        identities_of(given)
