"""Appending a group of events to the queues of several sinks, in one script call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter

from sark.errors import ReplicationError, StoreError, StoreUnavailableError
from sark.events import AuditAppended, AuditDropped
from sark.siem.bounds import QueueBounds
from sark.siem.handover import Left, left_after, left_by
from sark.siem.spilling import SpillStore
from sark.store import Argument, Store, load_script

__all__ = ["APPEND_FRAGMENTS", "MAX_GROUP_EVENTS", "Appender"]

# Lua's argument lists end at about 8,000.
MAX_GROUP_EVENTS = 1000

APPEND_FRAGMENTS = (("sark.siem", "lists.lua"), ("sark.siem", "append.lua"))
_APPEND = load_script(
    "siem.append", *APPEND_FRAGMENTS, ("sark.siem", "drop.lua"), ("sark.siem", "append_main.lua")
)


class Appender:
    """Sends groups, one at a time, so that none overtakes another.

    Args:
        store: Where the queues live.
        sinks: Whose queues.
        bounds: How much each may hold.
        timeout: Seconds for one call.
        replicas: How many have to acknowledge each group.
        spill: Knows behind whose earlier events a group must not be sent.
        drops: Whether a full queue drops its oldest events.
    """

    def __init__(
        self,
        store: Store,
        sinks: Sequence[str],
        bounds: QueueBounds,
        *,
        timeout: float,
        replicas: int,
        spill: SpillStore | None,
        drops: bool,
    ) -> None:
        self._store = store
        self._sinks = tuple(sinks)
        self._bounds = bounds
        self._timeout = timeout
        self._replicas = replicas
        self._spill = spill
        self._drops = drops
        of_sinks = {sink: store.keys.siem(sink) for sink in sinks}
        self._keys = {sink: (keys.queue, keys.account) for sink, keys in of_sinks.items()}
        self._turn = asyncio.Lock()
        self._lacks_replicas = False

    async def send(self, events: Sequence[bytes]) -> list[Left]:
        """Append a group to every queue before which no earlier events wait.

        Args:
            events: Their JSON, at most 1,000.

        Returns:
            What is left over; empty when every queue has all of them.
        """
        async with self._turn:
            return await self._send(events)

    async def put_back(self, sink: str, events: Sequence[bytes], *, copies: bool) -> int:
        """Append events to one queue; see ``EventQueue.put_back``."""
        line = "duplicates" if copies else "accepted"
        async with self._turn:
            if self._lacks_replicas:
                await self._look_for_replicas()
            taken, _ = await self._run([sink], events, line=line, drops=False)
        return taken

    async def _send(self, events: Sequence[bytes]) -> list[Left]:
        """Append a group where no earlier events wait; returns what is left over."""
        started = perf_counter()
        spill = self._spill
        asked: Sequence[str] = self._sinks
        lefts: list[Left] = []
        if spill is not None:
            lefts = [Left(sink, 0, "behind") for sink in asked if spill.waits(sink)]
        if lefts:
            behind = {left.sink for left in lefts}
            asked = [sink for sink in asked if sink not in behind]
            if not asked:
                return lefts
        try:
            reply = await self._run(asked, events, line="accepted", drops=self._drops)
        except StoreError as error:
            return lefts + left_after(error, asked)
        taken = reply[::2]
        if dropped := sum(reply[1::2]):
            self._store.hub.emit(AuditDropped(dropped))
        most = max(taken)
        size = sum(map(len, events[:most]))
        self._store.hub.emit(AuditAppended(most, size, perf_counter() - started))
        return lefts + left_by(asked, taken, len(events))

    async def _run(
        self, sinks: Sequence[str], events: Sequence[bytes], *, line: str, drops: bool
    ) -> list[int]:
        bounds = self._bounds
        keys = [key for sink in sinks for key in self._keys[sink]]
        arguments: list[Argument] = [bounds.events, bounds.bytes, line, int(drops), *events]
        try:
            reply = await self._store.state.run_replicated(
                _APPEND, keys, arguments, replicas=self._replicas, deadline=self._deadline()
            )
        except ReplicationError:
            self._lacks_replicas = True
            raise
        taken: list[int] = reply.value
        return taken

    async def _look_for_replicas(self) -> None:
        """Ask before events are put back: each attempt without replicas leaves copies in the queue.

        Raises:
            StoreUnavailableError: There are still too few; nothing was sent.
        """
        count = await self._store.state.count_replicas(self._replicas, deadline=self._deadline())
        if count < self._replicas:
            raise StoreUnavailableError(f"{count} of {self._replicas} replicas keep up")
        self._lacks_replicas = False

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout
