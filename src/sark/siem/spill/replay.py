"""Bringing spilled events back into their queues, in order, as soon as these take them.

Each round sends one batch of each sink from each file, so that neither what this process spills nor
what another one left has to wait for all of the other. A batch that was not taken whole ends its
sink's turns until after a pause, which grows, with jitter, as long as nothing moves.

An attempt whose outcome is unknown may have put the batch into the queue. It is sent again, as
copies; until an answer comes only one event at a time, so that a server that takes and does not
answer collects few of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Collection, Coroutine
from dataclasses import dataclass

from sark.errors import AuditError, StoreError, StoreUnavailableError
from sark.events import AuditReplayed, Hub
from sark.siem.spill.files import Held
from sark.siem.spill.store import MAX_SEND_BYTES, MAX_SEND_EVENTS, PutBack, Spill

__all__ = ["Replay"]

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
ADOPT_SECONDS = 5.0
HAND_OVER_SECONDS = 0.25
"""How long puts may be held; a hand-over that takes longer is tried again later."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """Why a sink has no turn: ``answered`` tells that its queue had no room, or the disk failed."""

    seconds: float
    until: float
    answered: bool


class Replay:
    """Sends what waits in a spill store to the queues.

    Args:
        spill: Where it waits.
        put_back: Appends it.
        sinks: Whose queues there are; events of others stay where they are.
        hub: Hears of what was replayed.
    """

    def __init__(
        self, spill: Spill, put_back: PutBack, *, sinks: Collection[str], hub: Hub
    ) -> None:
        self._spill = spill
        self._put_back = put_back
        self._sinks = frozenset(sinks)
        self._hub = hub
        self._pauses: dict[str, _Pause] = {}

    async def run(self) -> None:
        """Replay until cancelled; a batch that is on its way is settled before."""
        loop = asyncio.get_running_loop()
        adopt_at = loop.time()
        while True:
            if loop.time() >= adopt_at:
                adopt_at = loop.time() + ADOPT_SECONDS
                # What the disk refuses is reported by the store, and tried again.
                with contextlib.suppress(AuditError):
                    await self._spill.files.adopt()
            self._spill.has_put.clear()
            if not await self._round():
                wake_at = min([adopt_at, *(pause.until for pause in self._pauses.values())])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(wake_at):
                        await self._spill.has_put.wait()

    async def _round(self) -> bool:
        """Send one batch of each sink from each file; tells whether any was taken whole."""
        moved = False
        files = self._spill.files
        waiting = {sink for held in files.held for sink in +held.file.waiting}
        # What was forgotten or dropped meanwhile is not waited for.
        self._pauses = {sink: p for sink, p in self._pauses.items() if sink in waiting}
        for held in files.held:
            for sink in [*+held.file.waiting]:
                if sink in self._sinks and self._is_due(sink):
                    moved |= await _to_its_end(self._turn(held, sink))
            if not held.file.waiting.total() and (moved or held is not files.own):
                with contextlib.suppress(AuditError):
                    await files.finish(held)
        return moved

    async def _turn(self, held: Held, sink: str) -> bool:
        """Send a sink's batch from a file; pause the sink unless it was taken whole."""
        taken, whole, answered = 0, False, True
        try:
            taken, whole = await self._send_batch(held, sink)
            if whole and held is self._spill.files.own:
                await self._hand_over(held, sink)
        except StoreError:
            whole = answered = False
        except AuditError:
            whole = False
        if whole:
            self._pauses.pop(sink, None)
        else:
            self._pause(sink, grow=not taken, answered=answered)
        return whole

    async def _send_batch(self, held: Held, sink: str) -> tuple[int, bool]:
        """Send a batch; how many were taken, and whether all were.

        Raises:
            AuditError: The disk refuses.
            StoreError: The queue may have taken any of them; they stay, noted as sent.
        """
        files = self._spill.files
        paused = self._pauses.get(sink)
        events = 1 if paused is not None and not paused.answered else MAX_SEND_EVENTS
        batch = await files.take(held, sink, events=events, size=MAX_SEND_BYTES)
        if batch is None:
            return 0, True
        try:
            taken = await self._put_back(sink, batch.events, copies=batch.copies)
        except StoreUnavailableError:
            await files.settle(held, batch, 0)
            raise
        await files.settle(held, batch, taken)
        if taken:
            self._hub.emit(AuditReplayed(sink, taken))
        return taken, taken == len(batch.events)

    async def _hand_over(self, own: Held, sink: str) -> None:
        """Send what is left of a sink, so that new events no longer have to go behind it.

        Raises:
            AuditError: The disk refuses.
            StoreError: From the queue.
        """
        spill = self._spill
        if not spill.waits(sink) or own.file.waiting[sink] > MAX_SEND_EVENTS:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_SECONDS), spill.commits_held():
                await self._send_batch(own, sink)
                if not spill.files.waits(sink):
                    await spill.pass_on(sink, self._put_back)

    def _is_due(self, sink: str) -> bool:
        pause = self._pauses.get(sink)
        return pause is None or asyncio.get_running_loop().time() >= pause.until

    def _pause(self, sink: str, *, grow: bool, answered: bool) -> None:
        known = self._pauses.get(sink)
        seconds = FIRST_PAUSE_SECONDS
        if known is not None and grow:
            seconds = min(2 * known.seconds, LONGEST_PAUSE_SECONDS)
        wait = seconds * random.uniform(0.5, 1)  # noqa: S311 - jitter
        until = asyncio.get_running_loop().time() + wait
        self._pauses[sink] = _Pause(seconds, until, answered)


async def _to_its_end(turn: Coroutine[None, None, bool]) -> bool:
    """Run a turn, also when this is cancelled: cut off, its batch would be sent a second time."""
    task = asyncio.create_task(turn, name="sark-replay-turn")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
