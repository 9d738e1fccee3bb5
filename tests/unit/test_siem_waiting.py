"""Who shares a command, who is told that it is late, and what has to be spilled."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import (
    AuditError,
    ConnectionLostError,
    QueueFullError,
    ReplicationError,
    StoreCommandError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.siem.handover import Left, left_after, left_by, refusal_of, rows_of
from sark.siem.late_copies import LateCopy
from sark.siem.waiting import Waiting, late_of, take_group, tell_late


def waiting(size: int = 1, deadline: float = 10.0) -> Waiting:
    return b"x" * size, asyncio.get_running_loop().create_future(), deadline


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_a_group_is_the_oldest_that_fit(sizes: list[int], most: int) -> None:
    async def run() -> None:
        pending = [waiting(size) for size in sizes]
        group, rest = take_group(pending, most)
        assert [*group, *rest] == pending
        taken = sum(sizes[: len(group)])
        assert len(group) <= 1 or taken <= most
        assert not rest or taken + sizes[len(group)] > most
        assert bool(group) == bool(sizes)

    asyncio.run(run())


async def test_a_group_has_a_thousand_events_and_nobody_who_gave_up() -> None:
    pending = [waiting() for _ in range(1500)]
    pending[3][1].cancel()
    group, rest = take_group(pending, 10**6)
    assert (len(group), len(rest)) == (999, 500)
    assert all(not waiter.done() for _, waiter, _ in group)


async def test_whoever_is_late_is_told_once() -> None:
    group = [waiting(deadline=deadline) for deadline in (5.0, 7.0, 6.0, 9.0)]
    group[2][1].set_result(None)
    told, earliest = tell_late(group, 7.0, sent=True)
    assert (len(told), earliest) == (2, 9.0)
    assert late_of(group) == told
    assert [late.sent for late in told] == [True, True]
    assert tell_late(group, 8.0, sent=True) == ([], 9.0)
    assert tell_late(group, 9.0, sent=False)[1] == float("inf")


async def test_failures_and_cancellations_are_not_late() -> None:
    group = [waiting() for _ in range(3)]
    group[0][1].set_exception(AuditError("no"))
    group[1][1].cancel()
    late = LateCopy(sent=False)
    group[2][1].set_result(late)
    assert late_of(group) == [late]


@pytest.mark.parametrize(
    ("error", "reason", "copy"),
    [
        (StoreUnavailableError("x"), "unavailable", False),
        (StoreTimeoutError("x"), "unavailable", True),
        (ConnectionLostError("x"), "unavailable", True),
        (StoreCommandError("x"), "unavailable", True),
        (ReplicationError("x"), "replication", True),
    ],
)
def test_only_what_surely_was_not_sent_is_no_copy(
    error: StoreError, reason: str, copy: bool
) -> None:
    lefts = left_after(error, ["a", "b"])
    assert [(left.sink, left.first, left.reason, left.copy) for left in lefts] == [
        ("a", 0, reason, copy),
        ("b", 0, reason, copy),
    ]
    assert type(refusal_of(lefts)) is AuditError
    assert str(error) in str(refusal_of(lefts))


def test_what_a_queue_had_no_room_for_is_left() -> None:
    lefts = left_by(["a", "b", "c"], [3, 5, 0], 5)
    assert lefts == [Left("a", 3, "full"), Left("c", 0, "full")]
    assert type(refusal_of(lefts)) is QueueFullError
    rows = rows_of(lefts[0], [b"0", b"1", b"2", None, b"4"])
    assert [(row.sink, row.event, row.copy) for row in rows] == [("a", b"4", False)]
    keys = [row.key for left in lefts for row in rows_of(left, [b"x"] * 5)]
    assert len(set(keys)) == len(keys) == 7
