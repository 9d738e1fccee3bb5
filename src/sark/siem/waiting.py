"""The callers of an append: who waits for which event, and until when.

Plain functions on lists; nothing here sends anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sark.siem.appending import MAX_GROUP_EVENTS
from sark.siem.late_copies import LateCopy

__all__ = ["Waiting", "late_of", "take_group", "tell_late"]

Waiting = tuple[bytes, asyncio.Future[LateCopy | None], float]
"""An event, what becomes of it, and by when that has to be known (on the event loop's clock)."""


def take_group(pending: list[Waiting], max_bytes: int) -> tuple[list[Waiting], list[Waiting]]:
    """Take what one command may carry, oldest first.

    Args:
        pending: Who waits.
        max_bytes: Largest size of the events of a group; a lone event may be larger.

    Returns:
        The group, without those who gave up, and who still waits.
    """
    size = count = 0
    for event, _, _ in pending[:MAX_GROUP_EVENTS]:
        size += len(event)
        if count and size > max_bytes:
            break
        count += 1
    group = [waiting for waiting in pending[:count] if not waiting[1].done()]
    return group, pending[count:]


def tell_late(group: Sequence[Waiting], now: float, *, sent: bool) -> tuple[list[LateCopy], float]:
    """Tell those whose time is up.

    Args:
        group: Who waits.
        now: The time.
        sent: Whether their events were sent.

    Returns:
        What they were told, and the earliest deadline of the others; infinity without any.
    """
    told, earliest = [], float("inf")
    for _, waiter, deadline in group:
        if waiter.done():
            continue
        if deadline <= now:
            told.append(LateCopy(sent=sent))
            waiter.set_result(told[-1])
        else:
            earliest = min(earliest, deadline)
    return told, earliest


def late_of(group: Sequence[Waiting]) -> list[LateCopy]:
    """Find what the late callers of a group were told."""
    done = [w for _, w, _ in group if w.done() and not w.cancelled() and w.exception() is None]
    return [late for waiter in done if (late := waiter.result()) is not None]
