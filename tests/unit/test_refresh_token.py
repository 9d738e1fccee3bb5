"""Refresh tokens: derivable, unforgeable, never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import TokenError
from sark.sessions.refresh_token import RefreshClaims, RefreshTokens, token_hash

TOKENS = RefreshTokens(b"a key of the tests, 32 bytes long")
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)
SESSION = "01a2177c-c003-71cc-9673-7ac9c1b34f30"
CLAIMS = RefreshClaims("alice", SESSION, 3)


@given(user_id=IDS, counter=st.integers(0, 10**12 - 1))
def test_what_was_issued_is_read(user_id: str, counter: int) -> None:
    claims = RefreshClaims(user_id, SESSION, counter)
    token = TOKENS.issue(claims)
    assert TOKENS.read(token) == claims
    assert TOKENS.issue(claims) == token
    assert len(token) < 1024


@given(index=st.integers(0, 200), character=st.sampled_from("A-_.1é\x00"))
def test_no_changed_character_passes(index: int, character: str) -> None:
    token = TOKENS.issue(CLAIMS)
    index %= len(token)
    changed = token[:index] + character + token[index + 1 :]
    if changed == token:
        return
    with pytest.raises(TokenError) as caught:
        TOKENS.read(changed)
    assert changed not in str(caught.value)


@given(st.text(max_size=300))
def test_no_text_is_anything_but_refused(text: str) -> None:
    with pytest.raises(TokenError):
        TOKENS.read(text)


def test_another_key_makes_other_tokens() -> None:
    others = RefreshTokens(b"another key of the tests, 32 bytes")
    with pytest.raises(TokenError):
        others.read(TOKENS.issue(CLAIMS))
    assert others.access_token_id(CLAIMS) != TOKENS.access_token_id(CLAIMS)


def test_a_mac_of_ours_over_another_form_is_refused() -> None:
    """Nothing but what was issued is read, even if it should ever get a MAC."""
    for text in ("", "r1", "r2.YQ.s.1", "r1.YQ.s.x", "r1.YQ.s.-1", "r1.a.s.1", "r1._w.s.1",
                 f"r1.YQ.s.{10**12}", "r1.YQ.s.1.1"):  # fmt: skip
        with pytest.raises(TokenError):
            TOKENS.read(f"{text}.{_mac(text)}")


def test_access_token_ids_follow_from_the_counter() -> None:
    ids = {TOKENS.access_token_id(RefreshClaims("alice", SESSION, n)) for n in range(100)}
    assert len(ids) == 100
    assert {len(each) for each in ids} == {22}
    assert TOKENS.access_token_id(CLAIMS.successor()) == TOKENS.access_token_id(
        RefreshClaims("alice", SESSION, 4)
    )


def test_what_is_stored_of_a_token() -> None:
    token = TOKENS.issue(CLAIMS)
    assert len(token_hash(token)) == 43
    assert token_hash(token) != token_hash(token + " ")


def _mac(text: str) -> str:
    return TOKENS.active._mac(text)
