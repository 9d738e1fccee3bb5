"""The bounded queue of audit events, filled by group commit.

An append returns when Valkey has accepted its event. Appends that arrive while a command is under
way wait for the next one and share it: at 50 concurrent requests one command carries dozens of
events, and a lone request is not delayed. The task that sends is the queue's own, so a caller who
is cancelled or runs out of time never takes the group down with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import msgspec

from sark.errors import AuditError, QueueFullError, StoreError
from sark.events import AuditAppended, AuditRefused
from sark.siem.event import AuditEvent, encode_event
from sark.store import Argument, Deadline, Store, load_script

__all__ = ["EventQueue", "QueueBounds", "QueueStatus", "queue_full"]

# A flush takes at most so much; Lua's argument lists end at about 8,000.
MAX_FLUSH_EVENTS = 1000
MAX_FLUSH_BYTES = 1_048_576
PURGE_BATCH = 1000
FULL_RETRY_AFTER_SECONDS = 5.0
NOT_IN_TIME = "the audit event was not accepted in time"

APPEND_FRAGMENT = ("sark.siem", "append.lua")
_APPEND = load_script("siem.append", APPEND_FRAGMENT, ("sark.siem", "append_main.lua"))
_PURGE = load_script("siem.purge", ("sark.siem", "purge.lua"))


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much the queue may hold.

    Attributes:
        events: Most events.
        bytes: Most bytes of their JSON.
    """

    events: int = 100_000
    bytes: int = 268_435_456


class QueueStatus(msgspec.Struct, frozen=True):
    """The queue's account.

    Attributes:
        queued: Events in the queue now.
        queued_bytes: Bytes of their JSON.
        accepted: Events ever accepted.
        purged: Events dropped by an operator.
    """

    queued: int
    queued_bytes: int
    accepted: int
    purged: int


_Waiting = tuple[bytes, asyncio.Future[None]]


class EventQueue:
    """Appends audit events to ``siem:event_queue``.

    Args:
        store: Where the queue lives.
        bounds: How much it may hold.
        flush_timeout: Seconds for one command.
    """

    def __init__(self, store: Store, bounds: QueueBounds, *, flush_timeout: float) -> None:
        self._store = store
        self._bounds = bounds
        self._flush_timeout = flush_timeout
        self._keys = [store.keys.siem().queue, store.keys.siem().account]
        self._pending: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._closing = False

    @property
    def bounds(self) -> QueueBounds:
        """How much the queue may hold."""
        return self._bounds

    async def append(self, event: AuditEvent, *, deadline: float) -> None:
        """Append one event; returns when Valkey has accepted it.

        Args:
            event: The event.
            deadline: On the event loop's clock, in seconds. Past it the event may or may not
                have been accepted.

        Raises:
            QueueFullError: The queue is at its bound; the event is not in it.
            AuditError: Valkey did not accept it in time.
        """
        accepted = self._enqueue(event)
        self._start_flushing()
        try:
            with Deadline(deadline):
                await accepted
        except TimeoutError:
            self._store.hub.emit(AuditRefused(1, "unavailable"))
            raise AuditError(NOT_IN_TIME) from None

    async def append_many(self, events: Sequence[AuditEvent], *, deadline: float) -> None:
        """Append events that belong together; returns when Valkey has accepted all of them.

        Args:
            events: The events.
            deadline: On the event loop's clock, in seconds. Past it each of them may or may not
                have been accepted.

        Raises:
            QueueFullError: Not all of them found room; the first of them may be in the queue.
            AuditError: Valkey did not accept all of them in time.
        """
        waiting = [self._enqueue(event) for event in events]
        self._start_flushing()
        try:
            with Deadline(deadline):
                await asyncio.wait(waiting)
        except TimeoutError:
            late = [waiter for waiter in waiting if not waiter.done()]
            for waiter in late:
                waiter.cancel()
            self._store.hub.emit(AuditRefused(len(late), "unavailable"))
            raise AuditError(NOT_IN_TIME) from None
        # Looked at one by one, so that no failure stays unretrieved.
        failures = [error for waiter in waiting if (error := waiter.exception()) is not None]
        if failures:
            raise failures[0]

    def _enqueue(self, event: AuditEvent) -> asyncio.Future[None]:
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((encode_event(event), accepted))
        return accepted

    def _start_flushing(self) -> None:
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_until_closed(), name="sark-audit")
        else:
            self._wake_flusher()

    async def purge(self) -> int:
        """Drop all events that are queued now, booked as purged; returns how many."""
        total = 0
        while count := (await self._store.state.run(_PURGE, self._keys, [PURGE_BATCH])).value:
            total += count
        return total

    async def status(self, *, deadline: float | None = None) -> QueueStatus:
        """Read the account: one round trip.

        Raises:
            StoreError: The server did not answer.
        """
        queue, account = self._keys
        length, fields = await self._store.state.pipeline(
            [("LLEN", queue), ("HMGET", account, "queued_bytes", "accepted", "purged")],
            deadline=deadline,
            idempotent=True,
        )
        if isinstance(length, StoreError):
            raise length
        return QueueStatus(length, *(int(field or 0) for field in fields))

    async def require_room(self, *, deadline: float) -> None:
        """Refuse what may not happen unrecorded while the queue is full: one round trip.

        Others may take the room that is left.

        Raises:
            QueueFullError: The queue is at its bound.
            StoreError: The server did not answer.
        """
        status = await self.status(deadline=deadline)
        if status.queued >= self._bounds.events or status.queued_bytes >= self._bounds.bytes:
            self._store.hub.emit(AuditRefused(1, "full"))
            raise queue_full()

    async def close(self) -> None:
        """Flush what is pending and stop."""
        self._closing = True
        self._wake_flusher()
        if self._flusher is not None:
            await self._flusher

    def _wake_flusher(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _flush_until_closed(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending or not self._closing:
            if self._pending:
                await self._flush(self._take_group())
            else:
                self._wake = loop.create_future()
                await self._wake
                self._wake = None

    def _take_group(self) -> list[_Waiting]:
        """Take what one command may carry, oldest first; whoever gave up is left out."""
        size = count = 0
        for event, _ in self._pending[:MAX_FLUSH_EVENTS]:
            size += len(event)
            if count and size > MAX_FLUSH_BYTES:
                break
            count += 1
        group, self._pending = self._pending[:count], self._pending[count:]
        return [waiting for waiting in group if not waiting[1].done()]

    async def _flush(self, group: list[_Waiting]) -> None:
        if not group:
            return
        started = perf_counter()
        deadline = asyncio.get_running_loop().time() + self._flush_timeout
        arguments: list[Argument] = [
            self._bounds.events,
            self._bounds.bytes,
            *(event for event, _ in group),
        ]
        try:
            reply = await self._store.state.run(_APPEND, self._keys, arguments, deadline=deadline)
        except StoreError as error:
            reason = f"the audit event was not accepted: {error}"
            self._refuse(group, "unavailable", lambda: AuditError(reason))
            return
        accepted: int = reply.value
        seconds = perf_counter() - started
        size = sum(len(event) for event, _ in group[:accepted])
        self._store.hub.emit(AuditAppended(accepted, size, seconds))
        for _, waiter in group[:accepted]:
            if not waiter.done():
                waiter.set_result(None)
        if accepted < len(group):
            self._refuse(group[accepted:], "full", queue_full)

    def _refuse(
        self,
        group: list[_Waiting],
        reason: Literal["full", "unavailable"],
        make_error: Callable[[], AuditError],
    ) -> None:
        waiting = [waiter for _, waiter in group if not waiter.done()]
        if waiting:
            self._store.hub.emit(AuditRefused(len(waiting), reason))
        for waiter in waiting:
            # An error of its own for each: exceptions collect the traceback of who raises them.
            waiter.set_exception(make_error())


def queue_full() -> QueueFullError:
    """Say that the queue is at its bound."""
    return QueueFullError(
        "the audit queue is full: drain it or raise SARK_SIEM_MAX_EVENTS or SARK_SIEM_MAX_BYTES",
        retry_after=FULL_RETRY_AFTER_SECONDS,
    )
