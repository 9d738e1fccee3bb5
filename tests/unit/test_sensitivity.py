"""How long a decision may be kept: what is not known to be harmless is kept for the shortest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.policy import Sensitivity, TtlTiers, sensitivity_of
from sark.policy.sensitivity import _LOW_VERBS, _MEDIUM_VERBS

TIERS = TtlTiers(high=3, medium=5, low=7)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("server:read", Sensitivity.LOW),
        ("server:list", Sensitivity.LOW),
        ("org:team:server:get", Sensitivity.LOW),
        ("tool:invoke", Sensitivity.MEDIUM),
        ("server:create", Sensitivity.MEDIUM),
        ("server:update", Sensitivity.MEDIUM),
        ("server:delete", Sensitivity.MEDIUM),
        ("user:grant", Sensitivity.HIGH),
        ("user:revoke", Sensitivity.HIGH),
        ("server:shutdown", Sensitivity.HIGH),
        ("admin:read", Sensitivity.HIGH),
        ("admin:users:list", Sensitivity.HIGH),
        ("read", Sensitivity.HIGH),
        ("server", Sensitivity.HIGH),
        ("", Sensitivity.HIGH),
        (":", Sensitivity.HIGH),
        ("server:", Sensitivity.HIGH),
        ("server:READ", Sensitivity.HIGH),
        ("server:read ", Sensitivity.HIGH),
        ("server:read:", Sensitivity.HIGH),
        ("server:read\n", Sensitivity.HIGH),
        ("server:re\u0430d", Sensitivity.HIGH),
        ("server:readonly", Sensitivity.HIGH),
        ("*:*", Sensitivity.HIGH),
    ],
)
def test_actions_are_classified_by_their_verb(action: str, expected: Sensitivity) -> None:
    assert sensitivity_of(action) is expected


@given(st.text())
def test_what_the_table_does_not_know_is_kept_for_the_shortest(verb: str) -> None:
    known = verb in _LOW_VERBS | _MEDIUM_VERBS
    assert (TIERS.for_action(f"thing:{verb}") == TIERS.high) is not known or ":" in verb
    assert TIERS.for_action(f"admin:{verb}") == TIERS.high
    assert TIERS.for_action(verb.replace(":", "")) == TIERS.high


def test_no_verb_has_two_tiers() -> None:
    assert not _LOW_VERBS & _MEDIUM_VERBS


def test_tiers_have_the_guides_seconds() -> None:
    tiers = TtlTiers()
    assert (tiers.high, tiers.medium, tiers.low) == (300, 900, 3600)
    assert tiers.for_action("user:grant") == 300
    assert tiers.for_action("server:write") == 900
    assert tiers.for_action("server:read") == 3600


def test_the_longest_tier_is_found_whatever_the_order() -> None:
    assert TtlTiers(high=9, medium=5, low=7).longest == 9
    assert TtlTiers(high=1, medium=5, low=3).longest == 5
