"""Audit events of what has happened already: kept in this process until Valkey takes them.

An answer can be withheld until its event is accepted. The end of a session can't: a full queue must
not keep a stolen token alive. So its event is the one that waits. What waits is lost when the
process is killed; who was told so asks again, which is an event too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from sark.errors import AuditError, StoreError
from sark.events import AuditDropped, Hub
from sark.siem.event import AuditEvent
from sark.siem.queue import EventQueue

__all__ = ["LateEvents"]

MAX_WAITING = 10_000
AT_ONCE = 1000
TIMEOUT_SECONDS = 1.0


class LateEvents:
    """Appends events now, or else later. Safe to share between tasks of one event loop.

    Args:
        queue: Takes them.
        hub: Hears of events that are given up: beyond 10,000, and when the process ends.
    """

    def __init__(self, queue: EventQueue, hub: Hub) -> None:
        self._queue = queue
        self._hub = hub
        self._waiting: list[AuditEvent] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def append(self, events: Sequence[AuditEvent], *, deadline: float) -> None:
        """Append events; those that are not accepted are kept for later.

        Args:
            events: The events.
            deadline: On the event loop's clock, in seconds.

        Raises:
            AuditError: Not all of them were accepted; the others wait.
        """
        left = {event.id: event for event in events}

        async def append(event: AuditEvent) -> None:
            await self._queue.append(event, deadline=deadline)
            del left[event.id]

        try:
            outcomes = await asyncio.gather(*map(append, events), return_exceptions=True)
        finally:
            self.keep([*left.values()])
        for failure in outcomes:
            if failure is not None:
                raise failure

    def keep(self, events: Sequence[AuditEvent]) -> None:
        """Keep events for later."""
        room = MAX_WAITING - len(self._waiting)
        self._waiting += events[:room]
        self._drop(len(events[room:]))

    async def append_waiting(self) -> None:
        """Append what waits, as far as there is room.

        Raises:
            AuditError: Not all of it was accepted.
            StoreError: The server did not answer.
        """
        while self._waiting:
            deadline = asyncio.get_running_loop().time() + TIMEOUT_SECONDS
            await self._queue.require_room(deadline=deadline)
            events, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            await self.append(events, deadline=deadline)

    async def append_forever(self, *, interval: float) -> None:
        """Append what waits, until cancelled.

        Args:
            interval: Seconds between two attempts.
        """
        while True:
            await asyncio.sleep(interval)
            # What failed still waits, and the queue and the store have reported why.
            with contextlib.suppress(AuditError, StoreError):
                await self.append_waiting()

    async def close(self) -> None:
        """Try a last time, and report what has to be given up."""
        with contextlib.suppress(AuditError, StoreError):
            await self.append_waiting()
        left, self._waiting = len(self._waiting), []
        self._drop(left)

    def _drop(self, count: int) -> None:
        if count:
            self._hub.emit(AuditDropped(count))
