"""Forwarders for tests: a real queue before them, a real receiver behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sark.errors import BreakerOpen, UnreadableEventError
from sark.events import (
    DeadLettered,
    Event,
    Forwarded,
    ForwardFailed,
    Hub,
    LeaseExpired,
    SinkPaused,
)
from sark.siem import EventQueue, QueueBounds, SinkQueue, SinkStatus, new_event_id, now
from sark.siem.event import AuditEvent, encode_event
from sark.siem.forwarder import Batching, Forwarder
from sark.siem.sinks.base import Entry, Sink
from sark.store import Store

BOUNDS = QueueBounds()
PATIENCE_SECONDS = 30.0
QUICK = Batching(events=100, age=0.02, retry_cap=0.2, lease=5.0)


class _Id(msgspec.Struct):
    id: str


_decode = msgspec.json.Decoder(_Id).decode


def encode(event: bytes) -> Entry:
    """Send events as they are queued."""
    try:
        return Entry(_decode(event).id, 0.0, event)
    except msgspec.MsgspecError as error:
        raise UnreadableEventError(str(error)) from None


@dataclass
class Permitted:
    """A guard that lets everything through, unless it is told how long not to.

    Attributes:
        open_for: ``retry_after`` of refusals; 0 permits.
        told: What it heard of each call.
    """

    open_for: float = 0.0
    told: list[str] = field(default_factory=list)

    async def acquire(self) -> Permitted:
        if self.open_for:
            raise BreakerOpen("siem", retry_after=self.open_for)
        return self

    def succeeded(self) -> None:
        self.told.append("succeeded")

    def failed(self, reason: str) -> None:
        self.told.append(f"failed: {reason}")

    def neutral(self) -> None:
        self.told.append("neutral")


class Heard:
    """What happened, by type."""

    def __init__(self, hub: Hub) -> None:
        self.events: list[Event] = []
        for kind in (Forwarded, ForwardFailed, SinkPaused, DeadLettered, LeaseExpired):
            hub.on(kind, self.events.append)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def queue_of(store: Store, sink: str = "main", **options: Any) -> SinkQueue:
    """Make the workers' view of a queue."""
    given = {"bounds": BOUNDS, "lease": QUICK.lease, "most_expiries": 5, **options}
    return SinkQueue(store, sink, **given)


@asynccontextmanager
async def open_forwarder(
    store: Store,
    sink: Sink,
    *,
    queue: SinkQueue | None = None,
    guard: Permitted | None = None,
    batching: Batching = QUICK,
) -> AsyncIterator[Forwarder]:
    """Run a forwarder of ``main`` beside the block."""
    forwarder = Forwarder(
        "main",
        queue or queue_of(store, lease=batching.lease),
        sink=sink,
        encode=encode,
        guard=guard or Permitted(),
        hub=store.hub,
        batching=batching,
    )
    async with forwarder.running():
        yield forwarder


def event(number: int, **fields: Any) -> AuditEvent:
    """Make an event."""
    given = {"user_id": f"user-{number}", "resource": "server/web", "reason": "because", **fields}
    return AuditEvent(
        id=new_event_id(),
        time=now(),
        type="decision",
        policy="authz",
        action="server:read",
        context={},
        allow=True,
        **given,
    )


async def fill(store: Store, count: int, *, sink: str = "main", **fields: Any) -> list[str]:
    """Queue events; returns their ids in order."""
    events = [event(number, **fields) for number in range(count)]
    queue = EventQueue(store, (sink,), BOUNDS, flush_timeout=PATIENCE_SECONDS)
    try:
        for start in range(0, count, 500):
            await put(queue, sink, [encode_event(each) for each in events[start : start + 500]])
    finally:
        await queue.close()
    return [each.id for each in events]


async def put(queue: EventQueue, sink: str, events: Sequence[bytes]) -> None:
    """Queue events as they are."""
    assert await queue.put_back(sink, events, copies=False) == len(events)


async def is_drained(queue: SinkQueue) -> bool:
    """Whether nothing waits and nothing is in flight."""
    status = await queue.status()
    return not status.queued.events and not status.in_flight.events


async def closed_account(queue: SinkQueue) -> SinkStatus:
    """Read the account, which has to close."""
    status = await queue.status()
    assert status.balanced, status
    return status
