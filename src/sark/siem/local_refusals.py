"""Refusals recorded by one process alone, while Valkey does not answer.

The same rule as on the server: the first of an identity and window is spilled before its answer
leaves, the repeats are counted, and one closing event tells how many there were. The counts live in
this process, so each process has a first one, and a process that is killed takes its counts along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sark.events import AuditSpilled, Hub
from sark.siem.event import closing_event
from sark.siem.spilling import SpillRow, SpillStore, next_key

__all__ = ["LocalRefusals"]

MAX_OPEN = 10_000


class _Record:
    """A window in which an identity was refused.

    Attributes:
        first_id: Event of the first refusal.
        head: The closing event without its last members and its closing brace.
        ends: When the window ends, on the event loop's clock, in seconds.
        stored: Done when the first event is safe.
        repeats: Refusals after the first.
    """

    __slots__ = ("ends", "first_id", "head", "repeats", "stored")

    def __init__(self, first_id: str, head: bytes, ends: float, stored: asyncio.Task[None]) -> None:
        self.first_id = first_id
        self.head = head
        self.ends = ends
        self.stored = stored
        self.repeats = 0


class LocalRefusals:
    """See the module's description.

    Args:
        sinks: Who gets the events.
        spill: Takes them.
        hub: Hears of it.
    """

    def __init__(self, sinks: Sequence[str], spill: SpillStore, hub: Hub) -> None:
        self._sinks = sinks
        self._spill = spill
        self._hub = hub
        self._open: dict[str, _Record] = {}

    async def record(
        self,
        name: str,
        event_id: str,
        event: bytes,
        head: bytes,
        *,
        seconds_left: float,
        copy: bool,
    ) -> str:
        """Record a refusal; returns when it is safe.

        Args:
            name: Names the identity and window.
            event_id: Id of the event, should this be the first.
            event: Its JSON.
            head: The closing event up to its last members.
            seconds_left: Seconds until the window ends.
            copy: Whether Valkey may have recorded it.

        Returns:
            The id of the event under which it is recorded.

        Raises:
            AuditError: The spill store does not take it.
        """
        now_here = asyncio.get_running_loop().time()
        record = self._open.get(name)
        if record is not None and record.ends <= now_here:
            await self._close(name, record)
            record = self._open.get(name)
        if record is None:
            if len(self._open) >= MAX_OPEN:
                oldest = next(iter(self._open))
                await self._close(oldest, self._open[oldest])
            stored = asyncio.create_task(self._put(event, copy=copy), name="sark-refusal")
            record = _Record(event_id, head, now_here + seconds_left, stored)
            self._open[name] = record
            stored.add_done_callback(lambda task: self._drop_failed(name, task))
        else:
            record.repeats += 1
        # Of many who wait for it, one that is cancelled must not end it for the others.
        await asyncio.shield(record.stored)
        return record.first_id

    async def close_ended(self) -> int:
        """Spill the closing events of windows that have ended; returns how many were closed.

        Raises:
            AuditError: The spill store does not take them; they stay open.
        """
        now_here = asyncio.get_running_loop().time()
        ended = [(name, each) for name, each in self._open.items() if each.ends <= now_here]
        for name, record in ended:
            await self._close(name, record)
        return len(ended)

    async def close(self) -> None:
        """Close all windows. Errors as in ``close_ended``."""
        for name, record in list(self._open.items()):
            await self._close(name, record)

    async def _close(self, name: str, record: _Record) -> None:
        if self._open.get(name) is not record:
            return
        del self._open[name]
        if not record.repeats:
            return
        try:
            await self._put(closing_event(record.head, record.repeats), copy=False)
        except BaseException:
            # Nobody else may have begun the next window meanwhile; else the counts go together.
            known = self._open.setdefault(name, record)
            if known is not record:
                known.repeats += record.repeats
            raise

    async def _put(self, event: bytes, *, copy: bool) -> None:
        await self._spill.put([SpillRow(sink, event, copy, next_key()) for sink in self._sinks])
        for sink in self._sinks:
            self._hub.emit(AuditSpilled(sink, 1, "unavailable"))

    def _drop_failed(self, name: str, task: asyncio.Task[None]) -> None:
        if (task.cancelled() or task.exception() is not None) and (
            (record := self._open.get(name)) is not None and record.stored is task
        ):
            del self._open[name]
