"""Freshness tokens: what is signed is read back, what is not signed is nothing."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sark.policy.freshness import (
    MAX_TOKEN_BYTES,
    Freshness,
    FreshnessSigner,
    Scope,
    generation_time,
)

SIGNER = FreshnessSigner(b"k" * 32)
SCOPES: list[Scope] = ["all", "policy", "user"]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
GENERATIONS = st.builds(
    "{}-{}".format,
    st.integers(0, 10**17),
    st.text(string.ascii_letters + string.digits + "_-", max_size=24),
)
TOKENS = st.builds(Freshness, st.sampled_from(SCOPES), NAMES, GENERATIONS)
SAMPLE = Freshness("user", "alice", "1700000000000000-abc")


@given(TOKENS)
def test_a_token_is_read_as_it_was_signed(freshness: Freshness) -> None:
    token = SIGNER.sign(freshness)
    assert SIGNER.verify(token) == freshness
    assert token.isascii()
    assert len(token) <= MAX_TOKEN_BYTES


def test_the_longest_ids_fit() -> None:
    token = SIGNER.sign(Freshness("user", "é" * 128, f"{10**16}-{'n' * 40}"))
    assert len(token) <= MAX_TOKEN_BYTES


@given(TOKENS, st.binary(min_size=1, max_size=40))
def test_another_key_signs_nothing_of_ours(freshness: Freshness, key: bytes) -> None:
    assert SIGNER.verify(FreshnessSigner(key).sign(freshness)) is None


@given(TOKENS, st.data())
def test_a_token_with_any_character_changed_is_none(
    freshness: Freshness, data: st.DataObject
) -> None:
    token = SIGNER.sign(freshness)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda c: c != token[place]))
    assert SIGNER.verify(token[:place] + other + token[place + 1 :]) is None


@given(TOKENS, st.data())
def test_a_part_of_a_token_is_none(freshness: Freshness, data: st.DataObject) -> None:
    token = SIGNER.sign(freshness)
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, len(token)))
    if (start, end) != (0, len(token)):
        assert SIGNER.verify(token[start:end]) is None


@given(st.text())
@example("\ud800")
@example("all..1-a.\ud800")
@example("é.é.é.é")
@example("....")
def test_anything_else_is_none_and_never_breaks(text: str) -> None:
    assert SIGNER.verify(text) is None


def test_the_parts_of_a_token_cannot_be_shifted() -> None:
    """A name with the separator in it, and a MAC from one token on another."""
    tricky = Freshness("user", "a.b.1-x", "2-y")
    assert SIGNER.verify(SIGNER.sign(tricky)) == tricky
    mac = SIGNER.sign(SAMPLE).rpartition(".")[2]
    body = SIGNER.sign(Freshness("user", "bob", SAMPLE.generation)).rpartition(".")[0]
    assert SIGNER.verify(f"{body}.{mac}") is None


@pytest.mark.parametrize("text", ["all.x", "all", "none..1-a", "user._w.1-a", ".."])
def test_what_we_would_never_sign_is_none_even_when_signed(text: str) -> None:
    assert SIGNER.verify(f"{text}.{SIGNER._mac(text)}") is None


@pytest.mark.parametrize(
    ("scope", "name", "concerned"),
    [
        ("all", "", True),
        ("policy", "authz", True),
        ("policy", "alice", False),
        ("user", "alice", True),
        ("user", "alice2", False),
        ("user", "authz", False),
    ],
)
def test_a_change_concerns_its_scope(scope: Scope, name: str, concerned: bool) -> None:
    assert Freshness(scope, name, "1-a").concerns("authz", "alice") is concerned


@pytest.mark.parametrize(
    ("current", "covered"),
    [
        (b"1700000000000000-abc", True),
        (b"1700000000000001-xyz", True),
        (b"1699999999999999-abc", False),
        (b"99-z", False),
        (b"", False),
        (b"garbage", False),
        (b"-5-a", False),
    ],
)
def test_only_an_equal_or_later_generation_covers(current: bytes, covered: bool) -> None:
    assert SAMPLE.is_covered_by(current) is covered


@given(st.binary(max_size=64))
def test_a_time_is_read_from_anything(token: bytes) -> None:
    assert generation_time(token) >= 0


def test_times_are_ordered_as_numbers() -> None:
    assert generation_time(b"1000-a") > generation_time(b"999-b")
