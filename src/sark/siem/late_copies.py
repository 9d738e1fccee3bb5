"""Copies of events whose callers could not wait for their group.

Such a caller spills its event, since whether Valkey has accepted it is not known yet. When it turns
out that it has, the copy is taken out of the spill store again, unless it was replayed meanwhile:
then the receiver gets the event twice, with the same id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from sark.errors import AuditError
from sark.events import AuditSpilled, Hub
from sark.siem.spilling import SpillRow, SpillStore, next_key

__all__ = ["LateCopy", "forget_copies", "spill_copies"]


class LateCopy:
    """What a caller is told whose time is up.

    Attributes:
        sent: Whether its event was sent, so that it may be in the queue as well.
        accepted: Whether every queue turned out to have it.
        keys: Its rows, once they are in the spill store.
    """

    __slots__ = ("accepted", "keys", "sent")

    def __init__(self, *, sent: bool) -> None:
        self.sent = sent
        self.accepted = False
        self.keys: Sequence[int] = ()


async def spill_copies(
    late: Sequence[tuple[bytes, LateCopy]], sinks: Sequence[str], spill: SpillStore, hub: Hub
) -> None:
    """Spill events for all sinks; returns when they are safe.

    Args:
        late: The events, each with what its caller was told.
        sinks: Who gets them.
        spill: Takes them.
        hub: Hears of it.

    Raises:
        AuditError: The spill store does not take them.
    """
    rows = [
        [SpillRow(sink, event, copy.sent, next_key()) for sink in sinks] for event, copy in late
    ]
    await spill.put([row for each in rows for row in each])
    for sink in sinks:
        hub.emit(AuditSpilled(sink, len(late), "late"))
    for (_, copy), each in zip(late, rows, strict=True):
        copy.keys = [row.key for row in each]
    # Those whose group has ended while they were being written.
    await forget_copies((copy for _, copy in late if copy.accepted), spill)


async def forget_copies(copies: Iterable[LateCopy], spill: SpillStore) -> None:
    """Take copies of events that are in the queues out of the spill store."""
    keys: list[int] = []
    for copy in copies:
        copy.accepted = True
        keys += copy.keys
    if keys:
        # A copy that stays is a duplicate, which is allowed.
        with contextlib.suppress(AuditError):
            await spill.forget(keys)
