"""Auditing refused requests without letting a flood of them fill the queue.

The first refusal of an identity in a window is an event of its own, safe before its answer leaves.
The repeats are counted on the server, and when the window has ended one closing event tells how
many there were. The counts live in Valkey, so they are shared by all processes and survive them;
whichever process looks first closes a window, in one script, exactly once.

What a sink's queue has no room for is spilled by the process that recorded it. While Valkey does
not answer, each process records by itself (``local_refusals.py``), and while a queue takes nothing
for long, windows are closed by way of the spill store (``overdue.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from sark.errors import AuditError, QueueFullError, StoreError, StoreUnavailableError
from sark.events import AuditRefused, AuditSpilled
from sark.siem.appending import APPEND_FRAGMENTS
from sark.siem.bounds import QueueBounds
from sark.siem.event import AuditEvent, ClosingEvent, Encode, encode_event, iso, new_event_id, now
from sark.siem.handover import queue_full
from sark.siem.local_refusals import LocalRefusals
from sark.siem.overdue import OverdueRefusals
from sark.siem.spilling import SpillRow, SpillStore, next_key
from sark.store import Argument, Store, load_script

__all__ = ["Refusals"]

CLOSE_BATCH = 100

_FRAGMENTS = (("sark.store", "clock.lua"), *APPEND_FRAGMENTS, ("sark.siem", "refusals.lua"))
_REFUSE = load_script("siem.refuse", *_FRAGMENTS, ("sark.siem", "refuse.lua"))
_CLOSE = load_script("siem.close_refusals", *_FRAGMENTS, ("sark.siem", "close_refusals.lua"))
_WITHDRAW = load_script("siem.withdraw_refusal", ("sark.siem", "withdraw.lua"))


class _FirstId(msgspec.Struct):
    first_id: str


class Refusals:
    """Records refusals.

    Args:
        store: Where the records and the queues live.
        sinks: Whose queues.
        bounds: How much each may hold.
        replicas: How many have to acknowledge each refusal.
        spill: Takes what the queues do not; without it such refusals are errors.
        encode: As of ``EventQueue``.
    """

    def __init__(
        self,
        store: Store,
        sinks: Sequence[str],
        bounds: QueueBounds,
        *,
        replicas: int = 0,
        spill: SpillStore | None = None,
        encode: Encode = encode_event,
    ) -> None:
        self._store = store
        self._encode = encode
        self._sinks = tuple(sinks)
        self._bounds = bounds
        self._replicas = replicas
        self._spill = spill
        self._local = None if spill is None else LocalRefusals(self._sinks, spill, store.hub)
        self._overdue = None if spill is None else OverdueRefusals(store, self._sinks, spill)
        keys = store.keys
        self._records = [keys.siem_refusals, keys.siem_refusal_counts, keys.siem_refusals_due]
        of_sinks = map(keys.siem, sinks)
        self._keys = [*self._records, *(key for of in of_sinks for key in (of.queue, of.account))]

    async def record(
        self, name: str, event: AuditEvent, *, identity: str, seconds_left: float, deadline: float
    ) -> str:
        """Record a refusal: one round trip; returns when it is safe.

        Args:
            name: Names the identity and window; the same for all its refusals.
            event: The event, should this be the first.
            identity: Who was refused, as ``kind:id``.
            seconds_left: Seconds until the window ends.
            deadline: On the event loop's clock, in seconds.

        Returns:
            The id of the event under which this refusal is recorded.

        Raises:
            QueueFullError: There is no room for the event.
            AuditError: Neither Valkey nor the spill store accepted it.
        """
        closing = ClosingEvent(
            first_id=event.id,
            identity=identity,
            reason=event.reason,
            policy=event.policy,
            user_id=event.user_id,
        )
        encoded, head = self._encode(event), encode_event(closing)[:-1]
        waits = [self._spill is not None and self._spill.waits(sink) for sink in self._sinks]
        arguments: tuple[Argument, ...] = (
            name,
            round(seconds_left * 1000),
            encoded,
            head,
            new_event_id(),
            iso(event.time),
            self._bounds.events,
            self._bounds.bytes,
            int(self._spill is not None and self._spill.has_room()),
            "".join("0" if waiting else "1" for waiting in waits),
        )
        try:
            reply = await self._store.state.run_replicated(
                _REFUSE, self._keys, arguments, replicas=self._replicas, deadline=deadline
            )
        except StoreError as error:
            sent = not isinstance(error, StoreUnavailableError)
            return await self._record_here(
                error, name, event, encoded, head, seconds_left=seconds_left, copy=sent
            )
        count, record, taken = reply.value
        if count == 0:
            self._store.hub.emit(AuditRefused(1, "full"))
            raise queue_full()
        if b"0" in taken:
            await self._spill_first(name, encoded, record, taken, waits)
        return msgspec.json.decode(record + b"}", type=_FirstId).first_id

    async def _record_here(
        self,
        error: StoreError,
        name: str,
        event: AuditEvent,
        encoded: bytes,
        head: bytes,
        *,
        seconds_left: float,
        copy: bool,
    ) -> str:
        """Record a refusal in this process, as Valkey has not."""
        if self._local is None:
            self._store.hub.emit(AuditRefused(1, "unavailable"))
            raise AuditError(f"the audit event was not accepted: {error}") from error
        try:
            return await self._local.record(
                name, event.id, encoded, head, seconds_left=seconds_left, copy=copy
            )
        except AuditError as failure:
            self._emit_refused(failure)
            raise

    async def _spill_first(
        self, name: str, event: bytes, record: bytes, taken: bytes, waits: Sequence[bool]
    ) -> None:
        """Spill a first refusal for the sinks whose queues don't have it, or take it back."""
        spill = self._spill
        assert spill is not None  # noqa: S101 - without one the script takes all or nothing
        missing = [
            (sink, waiting)
            for sink, has_it, waiting in zip(self._sinks, taken.decode(), waits, strict=True)
            if has_it == "0"
        ]
        try:
            await spill.put(
                [SpillRow(sink, event, copy=False, key=next_key()) for sink, _ in missing]
            )
        except AuditError as failure:
            self._emit_refused(failure)
            # If even that fails, the record counts on under an id that not every sink has.
            with contextlib.suppress(StoreError):
                await self._store.state.run(_WITHDRAW, self._records, [name, record])
            raise
        for sink, waiting in missing:
            self._store.hub.emit(AuditSpilled(sink, 1, "behind" if waiting else "full"))

    async def close_due(self) -> int:
        """Append the closing events of windows that have ended; returns how many were closed.

        Where not every queue has room for them, or something waits in the spill store before them,
        they go there too, after some seconds.

        Raises:
            AuditError: The spill store does not take them; they are tried again.
            StoreError: The server did not answer.
        """
        total = await self._close_in_queues()
        return total if self._overdue is None else total + await self._overdue.close()

    async def _close_in_queues(self) -> int:
        total = 0
        while True:
            if self._spill is not None and any(map(self._spill.waits, self._sinks)):
                return total
            ids = [new_event_id() for _ in range(CLOSE_BATCH)]
            arguments: list[Argument] = [iso(now()), self._bounds.events, self._bounds.bytes, *ids]
            closed: int = (await self._store.state.run(_CLOSE, self._keys, arguments)).value
            total += closed
            if closed < CLOSE_BATCH:
                return total

    async def close_due_forever(self, *, interval: float) -> None:
        """Close windows as they end, until cancelled.

        A server that does not answer is asked again at the next turn; its silence is reported by
        the store's own events.

        Args:
            interval: Seconds between two looks.
        """
        while True:
            await asyncio.sleep(interval)
            if self._local is not None:
                # What the spill store does not take stays open here, and is tried again.
                with contextlib.suppress(AuditError):
                    await self._local.close_ended()
            with contextlib.suppress(AuditError, StoreError):
                await self.close_due()

    async def close(self) -> None:
        """Spill the counts that only this process has.

        Raises:
            AuditError: The spill store does not take them.
        """
        if self._local is not None:
            await self._local.close()

    def _emit_refused(self, error: AuditError) -> None:
        full = isinstance(error, QueueFullError)
        self._store.hub.emit(AuditRefused(1, "full" if full else "unavailable"))
