"""What becomes of a group of events after its command: which the spill store has to take.

Nothing here does I/O: the queue sends a group, says by ``Left`` what each sink did not surely take,
and learns from here which rows to spill and who has to be told what.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sark.errors import (
    AuditError,
    QueueFullError,
    ReplicationError,
    StoreError,
    StoreUnavailableError,
)
from sark.siem.spilling import SpillRow, next_key

__all__ = ["Left", "Reason", "left_after", "left_by", "queue_full", "refusal_of", "rows_of"]

Reason = Literal["full", "unavailable", "late", "replication", "behind"]

FULL_RETRY_AFTER_SECONDS = 5.0


class Left(NamedTuple):
    """What one sink's queue did not surely take of a group.

    Attributes:
        sink: Which.
        first: Index of the first such event; the rest follow.
        reason: Why.
        copy: Whether they may be in the queue all the same.
        detail: What the server said; empty when there was room for none.
    """

    sink: str
    first: int
    reason: Reason
    copy: bool = False
    detail: str = ""


def left_by(sinks: Sequence[str], taken: Sequence[int], group: int) -> list[Left]:
    """Tell what is left when the server has answered.

    Args:
        sinks: The sinks that were asked.
        taken: How many events each of them took.
        group: How many events there are.
    """
    return [
        Left(sink, count, "full") for sink, count in zip(sinks, taken, strict=True) if count < group
    ]


def left_after(error: StoreError, sinks: Sequence[str]) -> list[Left]:
    """Tell what is left when the server has not answered, or not with what was hoped for."""
    if isinstance(error, ReplicationError):
        return [Left(sink, 0, "replication", copy=True, detail=str(error)) for sink in sinks]
    sent = not isinstance(error, StoreUnavailableError)
    return [Left(sink, 0, "unavailable", copy=sent, detail=str(error)) for sink in sinks]


def rows_of(left: Left, events: Sequence[bytes | None]) -> list[SpillRow]:
    """Make the rows to spill.

    Args:
        left: What a sink did not take.
        events: The group; None where nobody waits for the event any more.
    """
    return [
        SpillRow(left.sink, event, left.copy, next_key())
        for event in events[left.first :]
        if event is not None
    ]


def refusal_of(lefts: Sequence[Left]) -> AuditError:
    """Make the error for an event that nothing took."""
    for left in lefts:
        if left.detail:
            return AuditError(f"the audit event was not accepted: {left.detail}")
    return queue_full()


def queue_full() -> QueueFullError:
    """Say that the queue is at its bound."""
    return QueueFullError(
        "the audit queue is full: drain it or raise SARK_SIEM_MAX_EVENTS or SARK_SIEM_MAX_BYTES",
        retry_after=FULL_RETRY_AFTER_SECONDS,
    )
