"""The bounded queues of audit events, one per sink, filled by group commit.

An append returns when its event is safe: for every sink either Valkey has accepted it, or the spill
store. Appends that arrive while a command is under way wait for the next one and share it: at 50
concurrent requests one command carries dozens of events to the queues of all sinks, and a lone
request is not delayed. The task that sends is the queue's own, so a caller who is cancelled or runs
out of time never takes the group down with it.

What a queue does not take is spilled before the callers are told. While events of a sink wait in
the spill store its new ones go there too, behind them, so each sink gets its events in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from sark.errors import AuditError, QueueFullError
from sark.events import AuditRefused, AuditSpilled
from sark.siem.appending import MAX_GROUP_EVENTS, Appender
from sark.siem.bounds import QueueBounds
from sark.siem.event import AuditEvent, Encode, encode_event
from sark.siem.handover import Left, queue_full, refusal_of, rows_of
from sark.siem.late_copies import LateCopy, forget_copies, spill_copies
from sark.siem.queue_status import QueueStatus, read_queues
from sark.siem.spilling import SpillStore
from sark.siem.waiting import Waiting, late_of, take_group, tell_late
from sark.store import Store, load_script
from sark.store.alarm import Alarm

__all__ = ["EventQueue"]

MAX_GROUP_BYTES = 1_048_576
PURGE_BATCH = 1000
NOT_IN_TIME = "the audit event was not accepted in time"

_PURGE = load_script(
    "siem.purge",
    ("sark.siem", "lists.lua"),
    ("sark.siem", "letters.lua"),
    ("sark.siem", "purge.lua"),
    when_full=True,
)

Overflow = Literal["refuse", "drop_oldest"]


class EventQueue:
    """Appends audit events to the queues of all sinks. Safe to share between tasks of one loop.

    Args:
        store: Where the queues live.
        sinks: Whose queues.
        bounds: How much each may hold.
        flush_timeout: Seconds for one command.
        replicas: How many have to acknowledge each group.
        spill: Takes what the queues do not; without it such events are refused.
        overflow: What a full queue does where there is no spill store: refuse, or drop the oldest.
        encode: Writes the events: what it redacts and cuts off reaches neither Valkey nor a disk.
    """

    def __init__(
        self,
        store: Store,
        sinks: Sequence[str],
        bounds: QueueBounds,
        *,
        flush_timeout: float,
        replicas: int = 0,
        spill: SpillStore | None = None,
        overflow: Overflow = "refuse",
        encode: Encode = encode_event,
    ) -> None:
        self._store = store
        self.encode = encode
        self.sinks = tuple(sinks)
        self.bounds = bounds
        self.replicas = replicas
        self.spill = spill
        self._drops = spill is None and overflow == "drop_oldest"
        self._keys = {sink: store.keys.siem(sink) for sink in self.sinks}
        self._appender = Appender(
            store,
            self.sinks,
            bounds,
            timeout=flush_timeout,
            replicas=replicas,
            spill=spill,
            drops=self._drops,
        )
        self._pending: list[Waiting] = []
        self._flying: list[Waiting] = []
        self._late = False
        self._spilling = False
        self._alarm = Alarm(self._tell_late)
        self._flusher: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._closing = False

    async def append(self, event: AuditEvent, *, deadline: float) -> None:
        """Append one event; returns when it is safe.

        Args:
            event: The event.
            deadline: On the event loop's clock, in seconds. Past it the event is spilled, as it may
                or may not have been accepted; without a spill store that is an error.

        Raises:
            QueueFullError: There is no room for it. Where there are several sinks, some of them may
                get it all the same.
            AuditError: It was not accepted in time, and the spill store has not got it either.
        """
        await self.append_encoded(self.encode(event), deadline=deadline)

    async def append_encoded(self, event: bytes, *, deadline: float) -> None:
        """Append an event that is JSON already; else as ``append``."""
        waiter = self._enqueue(event, deadline)
        if (late := await waiter) is not None:
            await self._spill_late([(event, late)])

    async def append_many(self, events: Sequence[AuditEvent], *, deadline: float) -> None:
        """Append events that belong together; returns when all of them are safe.

        Args:
            events: The events.
            deadline: As in ``append``.

        Raises:
            QueueFullError: Not all of them found room; the first of them may be in the queue.
            AuditError: Not all of them were accepted in time.
        """
        encoded = [self.encode(event) for event in events]
        waiters = [self._enqueue(event, deadline) for event in encoded]
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        late = [
            (event, outcome)
            for event, outcome in zip(encoded, outcomes, strict=True)
            if isinstance(outcome, LateCopy)
        ]
        if late:
            await self._spill_late(late)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def put_back(self, sink: str, events: Sequence[bytes], *, copies: bool) -> int:
        """Append events that waited elsewhere to one sink's queue, as far as it has room.

        Args:
            sink: Whose queue.
            events: Their JSON, at most 1,000.
            copies: Whether they may have been accepted before; they are booked as duplicates.

        Returns:
            How many were taken: the first so many.

        Raises:
            StoreUnavailableError: Nothing was sent; so too while replicas are known to be lacking.
            ReplicationError: The queue has them, but too few replicas do.
            StoreError: The server did not answer; whether they were taken may be unknown.
        """
        if len(events) > MAX_GROUP_EVENTS:
            raise ValueError(f"got {len(events)} events, expected at most {MAX_GROUP_EVENTS}")
        if not events:
            return 0
        return await self._appender.put_back(sink, events, copies=copies)

    async def purge(self, sink: str | None = None) -> int:
        """Drop all events that are queued now, booked as purged; returns how many.

        Args:
            sink: Whose; None for all sinks.
        """
        total = 0
        for each in self.sinks if sink is None else (sink,):
            keys = [self._keys[each].queue, self._keys[each].account]
            while count := (
                await self._store.state.run(_PURGE, keys, [PURGE_BATCH, "queued"])
            ).value:
                total += count
        return total

    async def status(
        self, sink: str | None = None, *, deadline: float | None = None
    ) -> QueueStatus:
        """Read one queue's account in short: one round trip.

        Args:
            sink: Whose; the first sink's when left out.
            deadline: On the event loop's clock, in seconds.

        Raises:
            StoreError: The server did not answer.
        """
        (status,) = await self.statuses([sink or self.sinks[0]], deadline=deadline)
        return status

    async def statuses(
        self, sinks: Sequence[str] | None = None, *, deadline: float | None = None
    ) -> list[QueueStatus]:
        """Read the accounts of several queues in short, of all by default: one round trip.

        Raises:
            StoreError: The server did not answer.
        """
        of_sinks = [self._keys[sink] for sink in sinks or self.sinks]
        return await read_queues(self._store.state, of_sinks, deadline=deadline)

    async def require_room(self, *, deadline: float) -> None:
        """Refuse what may not happen unrecorded while there is no room: at most one round trip.

        Others may take the room that is left.

        Raises:
            QueueFullError: A queue is at its bound, and the spill store has no room either.
            StoreError: The server did not answer.
        """
        if self.spill is not None and self.spill.has_room():
            return
        statuses = await self.statuses(deadline=deadline)
        if not self._drops and any(status.is_full(self.bounds) for status in statuses):
            self._store.hub.emit(AuditRefused(1, "full"))
            raise queue_full()

    async def close(self) -> None:
        """Flush what is pending and stop."""
        self._closing = True
        self._wake_flusher()
        if self._flusher is not None:
            await self._flusher
        self._alarm.cancel()

    def _enqueue(self, event: bytes, deadline: float) -> asyncio.Future[LateCopy | None]:
        waiter: asyncio.Future[LateCopy | None] = asyncio.get_running_loop().create_future()
        self._pending.append((event, waiter, deadline))
        if deadline < self._alarm.when:
            self._alarm.by(deadline)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_until_closed(), name="sark-audit")
        else:
            self._wake_flusher()
        return waiter

    def _wake_flusher(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _tell_late(self) -> None:
        """Tell callers whose time is up; the flush goes on."""
        now = asyncio.get_running_loop().time()
        # While what is left of a group is being spilled, its callers could do nothing better.
        flying = [] if self._spilling else self._flying
        told, in_flight = tell_late(flying, now, sent=True)
        _, in_line = tell_late(self._pending, now, sent=False)
        self._late |= bool(told)
        if (earliest := min(in_flight, in_line)) < float("inf"):
            self._alarm.by(earliest)

    async def _spill_late(self, late: Sequence[tuple[bytes, LateCopy]]) -> None:
        """Spill events whose callers can wait no longer."""
        if self.spill is None:
            self._store.hub.emit(AuditRefused(len(late), "unavailable"))
            raise AuditError(NOT_IN_TIME)
        try:
            await spill_copies(late, self.sinks, self.spill, self._store.hub)
        except AuditError as error:
            self._emit_refused(len(late), error)
            raise

    async def _flush_until_closed(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending or not self._closing:
            if self._pending:
                self._flying, self._pending = take_group(self._pending, MAX_GROUP_BYTES)
                try:
                    await self._flush(self._flying)
                finally:
                    self._flying = []
            else:
                self._wake = loop.create_future()
                await self._wake
                self._wake = None

    async def _flush(self, group: list[Waiting]) -> None:
        if not group:
            return
        try:
            lefts = await self._appender.send([event for event, _, _ in group])
            failure = await self._spill_left(group, lefts) if lefts else None
        except Exception as error:
            # A mistake of the program: it ends the flusher, and nobody waits for ever.
            reason = f"the audit event was not accepted: {error}"
            self._refuse(group, AuditError(reason))
            raise
        safe = len(group) if failure is None else min(left.first for left in lefts)
        for _, waiter, _ in group[:safe]:
            if not waiter.done():
                waiter.set_result(None)
        if failure is not None:
            self._refuse(group[safe:], failure)
        if self._late:
            self._late = False
            if not lefts and self.spill is not None:
                await forget_copies(late_of(group), self.spill)

    async def _spill_left(
        self, group: Sequence[Waiting], lefts: Sequence[Left]
    ) -> AuditError | None:
        """Spill what is left over; returns why not, if that fails."""
        if self.spill is None:
            return refusal_of(lefts)
        # Whoever gave up has spilled a copy, or wants none.
        events = [None if waiter.done() else event for event, waiter, _ in group]
        parts = [(left, rows_of(left, events)) for left in lefts]
        self._spilling = True
        try:
            await self.spill.put([row for _, rows in parts for row in rows])
        except AuditError as error:
            return error
        finally:
            self._spilling = False
        for left, rows in parts:
            if rows:
                self._store.hub.emit(AuditSpilled(left.sink, len(rows), left.reason))
        return None

    def _refuse(self, group: Sequence[Waiting], error: AuditError) -> None:
        waiting = [waiter for _, waiter, _ in group if not waiter.done()]
        if waiting:
            self._emit_refused(len(waiting), error)
        for waiter in waiting:
            # An error of its own for each: exceptions collect the traceback of who raises them.
            waiter.set_exception(type(error)(str(error), retry_after=error.retry_after))

    def _emit_refused(self, count: int, error: AuditError) -> None:
        reason: Literal["full", "unavailable"] = (
            "full" if isinstance(error, QueueFullError) else "unavailable"
        )
        self._store.hub.emit(AuditRefused(count, reason))
