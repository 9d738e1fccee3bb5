"""Decisions as policies return them and as they are cached."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zstandard import ZstdDecompressor

from sark.errors import EvaluationError
from sark.policy import Decision
from sark.policy.decision import (
    BEGAN_FRAME,
    MAX_ENTRY_BYTES,
    began_at,
    decode_entry,
    encode_entry,
    encode_withdrawal,
    is_compressed,
    is_withdrawal,
    spell_moment,
)
from sark.policy.evaluators import decision_from_json
from sark.policy.found import judge
from sark.policy.generations import fresh_nonce, stamp_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TOKENS = [b"1-a", b"2-b", b"3-c"]


def returned(**members: Any) -> Decision:
    return decision_from_json("authz", msgspec.json.encode({"allow": True, **members}))


@pytest.mark.parametrize(
    ("ttl", "kept"),
    [(1, 1), (1.0, 1), (1.99, 1), (60, 60), (59.9999, 59), (1e9, 10**9), (10**12, 10**12)],
)
def test_a_ttl_is_rounded_down(ttl: float, kept: int) -> None:
    decision = returned(ttl=ttl)
    assert (decision.ttl, decision.cacheable) == (kept, True)


@pytest.mark.parametrize("ttl", [0, -1, 0.5, 0.999, -0.5, -0.0, -1e300])
def test_a_ttl_below_a_second_is_not_kept(ttl: float) -> None:
    assert returned(ttl=ttl).cacheable is False


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9))
def test_no_ttl_lets_a_decision_live_longer_than_it_says(ttl: float) -> None:
    decision = returned(ttl=ttl)
    if decision.cacheable:
        assert decision.ttl is not None
        assert 1 <= decision.ttl <= ttl
    else:
        assert ttl < 1


def test_the_rest_is_taken_as_it_is() -> None:
    assert returned() == Decision(allow=True)
    assert returned(ttl=None) == Decision(allow=True)
    assert returned(reason="why", cacheable=False) == Decision(
        allow=True, reason="why", cacheable=False
    )
    assert returned(allow=False, ttl=5, cacheable=False).cacheable is False
    assert returned(explanation=[1, 2], matched={"rule": 1}) == Decision(allow=True)


@pytest.mark.parametrize(
    "document",
    [
        b"null", b"true", b"1", b'"allow"', b"[]", b"{}", b"", b"{", b"\xff",
        b'{"allow":null}', b'{"allow":1}', b'{"allow":"true"}', b'{"allow":[true]}',
        b'{"Allow":true}', b'{"reason":"no allow"}',
        b'{"allow":true,"ttl":"5"}', b'{"allow":true,"ttl":true}', b'{"allow":true,"ttl":[5]}',
        b'{"allow":true,"reason":1}', b'{"allow":true,"reason":null}',
        b'{"allow":true,"cacheable":0}', b'{"allow":true,"cacheable":null}',
    ],
)  # fmt: skip
def test_another_form_is_a_failure_that_names_the_policy(document: bytes) -> None:
    with pytest.raises(EvaluationError, match=r"^data\.sark\.authz\.decision: "):
        decision_from_json("authz", document)


MOMENTS = st.integers(0, 36**10 - 1)


@given(
    st.booleans(),
    TEXT | TEXT.map(lambda text: text * 50),
    MOMENTS,
    st.none() | st.integers(1, 10**8),
)
def test_an_entry_is_read_as_it_was_written(
    allow: bool, reason: str, began: int, life: int | None
) -> None:
    value = encode_entry(Decision(allow, reason), "stamp", began=began, life=life)
    entry = decode_entry(value)
    assert entry is not None
    assert (entry.allow, entry.reason, entry.stamp) == (allow, reason, "stamp")
    assert (entry.began, entry.life) == (began, life)
    assert began_at(value) == began


def test_an_entry_is_the_guides_json_with_a_version_a_moment_and_a_stamp() -> None:
    value = encode_entry(Decision(allow=True, reason="why"), "s", began=17)
    stored = msgspec.json.decode(value)
    assert stored == {"v": "2000000000hs", "allow": True, "reason": "why"}
    assert value.startswith(b'{"v":"2'), "the script looks for it there"
    life = encode_entry(Decision(allow=True, reason="why"), "s", began=17, life=300)
    assert msgspec.json.decode(life)["v"] == "2000000000hs:300"


def test_a_compressed_entry_is_two_frames_that_any_reader_knows() -> None:
    value = encode_entry(Decision(allow=True, reason="because " * 100), "s", began=17)
    assert is_compressed(value)
    assert value[:8] == BEGAN_FRAME
    assert value[8:18] == b"000000000h"
    assert ZstdDecompressor().decompress(value[18:]).startswith(b'{"v":"2000000000hs"')


def test_what_could_not_be_read_back_is_refused() -> None:
    around = len(encode_entry(Decision(allow=True), "s"))
    most = "x" * (MAX_ENTRY_BYTES - around)
    entry = decode_entry(encode_entry(Decision(allow=True, reason=most), "s"))
    assert entry is not None
    assert entry.reason == most
    with pytest.raises(ValueError, match=r"got 1048577 bytes, expected at most 1048576"):
        encode_entry(Decision(allow=True, reason=most + "x"), "s")


def test_a_moment_that_is_too_late_to_be_told_is_the_last_one() -> None:
    assert spell_moment(1_793_000_000_000_000) == "hnkctu40zk"
    assert spell_moment(0) == "0" * 10
    assert spell_moment(10**17) == spell_moment(36**10 - 1) == "z" * 10


@given(MOMENTS)
def test_a_withdrawal_is_no_entry_and_tells_its_moment(began: int) -> None:
    value = encode_withdrawal(began)
    assert is_withdrawal(value)
    assert began_at(value) == began
    assert decode_entry(value) is None
    found = judge([*TOKENS, value, 1500, began + 5], "run", "rev")
    assert (found.result, found.decision, found.seen) == ("absent", None, began)
    assert found.began == began + 5


@pytest.mark.parametrize(("seen", "at", "began"), [(5, 0, 6), (5, 9, 9), (9, 5, 10), (0, 7, 7)])
def test_what_follows_a_look_up_begins_later_than_what_it_saw(
    seen: int, at: int, began: int
) -> None:
    """Also when the server's clock was set back, or was not asked."""
    found = judge([*TOKENS, encode_entry(Decision(allow=True), "s", began=seen), 1, at], "r", "r")
    assert found.began == began


def test_an_entry_that_is_cut_short_is_none() -> None:
    whole = encode_entry(Decision(allow=True, reason="why"), "stamp")
    assert all(decode_entry(whole[:length]) is None for length in range(len(whole)))


@pytest.mark.parametrize(
    "stored",
    [
        b"", b"null", b"[]", b"1", b"allow", b"\x28\xb5\x2f\xfd", b'"\xff"', b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        b'{"allow":true,"reason":""}',
        b'{"v":"0s","allow":true,"reason":""}',
        b'{"v":"2s","allow":true,"reason":""}',
        b'{"v":"200000001","allow":true,"reason":""}',
        b'{"v":"2000000001XXX","allow":true,"reason":""}',
        b'{"v":"20000000001s:","allow":true,"reason":""}',
        b'{"v":"20000000001s:x","allow":true,"reason":""}',
        b'{"v":"10000000001s","allow":true,"reason":""}',
        b'{"v":"","allow":true,"reason":""}',
        b'{"v":1,"allow":true,"reason":""}',
        b'{"v":"20000000001s","allow":1,"reason":""}',
        b'{"v":"20000000001s","allow":true}',
        b'{"v":"20000000001s","allow":true,"reason":"\xff"}',
        b'{"v":null,"allow":true,"reason":""}',
    ],
)  # fmt: skip
def test_what_is_no_entry_of_this_version_is_none(stored: bytes) -> None:
    assert decode_entry(stored) is None


@given(st.binary(max_size=200))
def test_any_other_bytes_are_none(stored: bytes) -> None:
    assert decode_entry(stored) is None


def test_a_stamp_hangs_on_every_part() -> None:
    base = stamp_of(TOKENS, "run", "rev")
    assert base == stamp_of([*TOKENS, b"ignored"], "run", "rev")
    others = {
        stamp_of([b"9-x", *TOKENS[1:]], "run", "rev"),
        stamp_of([TOKENS[0], b"9-x", TOKENS[2]], "run", "rev"),
        stamp_of([*TOKENS[:2], b"9-x"], "run", "rev"),
        stamp_of([TOKENS[1], TOKENS[0], TOKENS[2]], "run", "rev"),
        stamp_of(TOKENS, "run2", "rev"),
        stamp_of(TOKENS, "run", "rev2"),
        stamp_of(TOKENS, "", "runrev"),
    }
    assert len(others | {base}) == 8


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, "absent"),
        (b"{", "corrupt"),
        (encode_entry(Decision(allow=True), "another stamp"), "stale"),
        (encode_entry(Decision(allow=True), stamp_of(TOKENS, "run", "rev")), "hit"),
    ],
)
def test_only_the_current_stamp_is_a_hit(value: bytes | None, result: str) -> None:
    found = judge([*TOKENS, value, 1500], "run", "rev")
    assert found.result == result
    assert (found.decision is not None) is (result == "hit")
    assert found.stamp == stamp_of(TOKENS, "run", "rev")


@pytest.mark.parametrize(("left", "ttl"), [(1, 1), (1000, 1), (1001, 2), (3_600_000, 3600)])
def test_the_time_left_is_rounded_up(left: int, ttl: int) -> None:
    stored = encode_entry(Decision(allow=True), stamp_of(TOKENS, "run", "rev"))
    found = judge([*TOKENS, stored, left], "run", "rev")
    assert found.decision is not None
    assert found.decision.ttl == ttl


def test_nonces_never_repeat() -> None:
    nonces = [fresh_nonce() for _ in range(10_000)]
    assert len(set(nonces)) == len(nonces)


@pytest.mark.parametrize(("life", "most"), [(None, 228), (300, 244), (86_400, 244)])
def test_what_is_added_fits_the_allocation_class_that_was_measured(
    life: int | None, most: int
) -> None:
    """Together with the compact key 334 bytes for a decision of 200, 350 with a life of its own."""
    plain = msgspec.json.encode({"allow": True, "reason": "x" * 174})
    assert len(plain) == 200
    stamp = stamp_of(TOKENS, "run", "rev")
    value = encode_entry(Decision(allow=True, reason="x" * 174), stamp, life=life)
    assert len(value) <= most
