"""Closing the windows of refused identities by way of the spill store.

A window is closed in the queues of all sinks at once. So one sink that is down until its queue is
full would keep the counts from all others, and the records of ended windows would pile up. What has
been due for a while is therefore claimed by one process, which spills the closing events for every
sink, behind what waits there. A process that is killed between the two tells a count again, under
another id; none is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sark.events import AuditSpilled
from sark.siem.event import closing_event
from sark.siem.spilling import SpillRow, SpillStore, next_key
from sark.store import Store, load_script

__all__ = ["OverdueRefusals"]

CLAIM_BATCH = 100
OVERDUE_MS = 5_000
"""Whatever the queues have room for is closed in them by then."""
CLAIM_MS = 30_000

_CLAIM = load_script(
    "siem.overdue_refusals", ("sark.store", "clock.lua"), ("sark.siem", "overdue.lua")
)
_TOLD = load_script("siem.told_refusals", ("sark.siem", "told.lua"))


class OverdueRefusals:
    """See the module's description.

    Args:
        store: Where the records are.
        sinks: Who gets the closing events.
        spill: Takes them.
    """

    def __init__(self, store: Store, sinks: Sequence[str], spill: SpillStore) -> None:
        self._store = store
        self._sinks = sinks
        self._spill = spill
        keys = store.keys
        self._records = [keys.siem_refusals, keys.siem_refusal_counts, keys.siem_refusals_due]

    async def close(self) -> int:
        """Spill the closing events of overdue windows; returns how many records were ended.

        Raises:
            AuditError: The spill store does not take them; they are tried again.
            StoreError: The server did not answer.
        """
        total = 0
        while self._spill.has_room():
            reply = await self._store.state.run(
                _CLAIM, self._records, [CLAIM_BATCH, OVERDUE_MS, CLAIM_MS]
            )
            claimed: list[Any] = reply.value
            counted: list[tuple[bytes, int]] = list(zip(claimed[1::3], claimed[2::3], strict=True))
            if not counted:
                break
            await self._put([closing_event(head, n - 1) for head, n in counted if head and n > 1])
            total += (await self._store.state.run(_TOLD, self._records, claimed)).value
            if len(counted) < CLAIM_BATCH:
                break
        return total

    async def _put(self, events: Sequence[bytes]) -> None:
        if not events:
            return
        await self._spill.put(
            [
                SpillRow(sink, event, copy=False, key=next_key())
                for sink in self._sinks
                for event in events
            ]
        )
        for sink in self._sinks:
            self._store.hub.emit(AuditSpilled(sink, len(events), "behind"))
