"""How long a decision may be kept: what is not known to be harmless is kept for the shortest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.policy import Sensitivity, TtlTiers
from sark.policy.policy_file import PolicyFile

RULES = PolicyFile()

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
    assert RULES.sensitivity(action) is expected


@given(st.text())
def test_what_the_table_does_not_know_is_kept_for_the_shortest(verb: str) -> None:
    known = RULES.sensitivity(f"thing:{verb}") is not Sensitivity.HIGH
    assert (RULES.ttl(f"thing:{verb}", TIERS) == TIERS.high) is not known
    assert RULES.ttl(f"admin:{verb}", TIERS) == TIERS.high
    assert RULES.ttl(verb.replace(":", ""), TIERS) == TIERS.high


def test_tiers_have_the_guides_seconds() -> None:
    tiers = TtlTiers()
    assert (tiers.high, tiers.medium, tiers.low) == (300, 900, 3600)
    assert RULES.ttl("user:grant", tiers) == 300
    assert RULES.ttl("server:write", tiers) == 900
    assert RULES.ttl("server:read", tiers) == 3600


def test_the_longest_tier_is_found_whatever_the_order() -> None:
    assert TtlTiers(high=9, medium=5, low=7).longest == 9
    assert TtlTiers(high=1, medium=5, low=3).longest == 5
