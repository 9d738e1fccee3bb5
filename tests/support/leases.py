"""Sinks' queues for tests: events, leases under a clock that the test moves, what is where."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files

import msgspec
import pytest

from sark.errors import LeaseLostError
from sark.siem import leases
from sark.siem.bounds import QueueBounds
from sark.siem.event import new_event_id
from sark.siem.leases import SinkQueue
from sark.store import Script, Store
from tests.support.gateways import Meeting, open_store
from tests.support.servers import ValkeyServer
from tests.support.sessions import FrozenClock

__all__ = [
    "BOTH",
    "RECEIVED",
    "WORKED_AT_ONCE",
    "LeaseWork",
    "contents",
    "event_of",
    "frozen_lease_clock",
    "id_of",
    "ids_of",
    "key_of",
    "letters",
    "open_sink",
    "work_until_killed",
]

BOTH = ("main", "audit")
LEASE_SECONDS = 30.0
WORKED_AT_ONCE = 40
RECEIVED = "test:received"
"""Where workers of tests send their events, one id each."""


def event_of(size: int = 0, **fields: object) -> bytes:
    """Make an event as the queue holds it, with ``size`` bytes of filling."""
    return msgspec.json.encode({"id": new_event_id(), **fields, "x": "x" * size})


def id_of(event: bytes) -> str:
    """Read an event's id."""
    return str(msgspec.json.decode(event)["id"])


def ids_of(events: Sequence[bytes]) -> list[str]:
    """Read events' ids."""
    return [id_of(event) for event in events]


def key_of(name: str, sink: str) -> str:
    """Name one of a sink's keys."""
    return f"siem:{name}" if sink == "main" else f"siem:{name}:{sink}"


def contents(server: ValkeyServer, sink: str = "main") -> list[bytes]:
    """Read a sink's queue as it is stored."""
    with server.client() as client:
        events: list[bytes] = client.lrange(key_of("event_queue", sink), 0, -1)
    return events


def letters(server: ValkeyServer, sink: str = "main") -> list[dict[str, object]]:
    """Read a sink's dead letters."""
    with server.client() as client:
        entries: list[bytes] = client.lrange(key_of("failed_events", sink), 0, -1)
    return [msgspec.json.decode(entry) for entry in entries]


def open_sink(
    store: Store,
    sink: str = "main",
    bounds: QueueBounds | None = None,
    *,
    lease: float = LEASE_SECONDS,
    most_expiries: int = 5,
) -> SinkQueue:
    """Make a sink's queue as its workers see it."""
    return SinkQueue(store, sink, bounds or QueueBounds(), lease=lease, most_expiries=most_expiries)


@contextmanager
def frozen_lease_clock(server: ValkeyServer) -> Iterator[FrozenClock]:
    """Let the scripts of leases read a clock that stands still unless it is moved."""
    clock = files("sark.store").joinpath("clock.lua").read_text("utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, script in list(vars(leases).items()):
            if isinstance(script, Script):
                text = script.text.replace(clock, FrozenClock.PRELUDE)
                assert text != script.text
                patch.setattr(leases, name, Script(script.name, text))
        yield FrozenClock(server)


# What other processes run must be found by name, so it stands here.


@dataclass(frozen=True)
class LeaseWork:
    """Leases and acknowledges with several workers until nothing is queued; returns the ids."""

    meeting: Meeting
    workers: int

    def __call__(self, number: int) -> list[str]:
        self.meeting.join()
        return asyncio.run(self._run(number))

    async def _run(self, number: int) -> list[str]:
        async with open_store(self.meeting.url) as store:
            sink = open_sink(store)

            async def work(worker: str) -> list[str]:
                ids: list[str] = []
                while (lease := await sink.lease(worker, events=7, size=10**6)) is not None:
                    ids += ids_of(lease.events)
                    await sink.acknowledge(lease)
                return ids

            found = await asyncio.gather(*(work(f"{number}-{n}") for n in range(self.workers)))
        return [each for ids in found for each in ids]


def work_until_killed(url: str, worker: str, lease: float) -> None:
    """Lease, send and acknowledge, and reap what others left, for ever.

    Args:
        url: The server.
        worker: Name of this worker.
        lease: Seconds of a lease.
    """
    asyncio.run(_work(url, worker, lease))


async def _work(url: str, worker: str, lease: float) -> None:
    async with open_store(url) as store:
        sink = open_sink(store, lease=lease, most_expiries=1000)
        while True:
            await sink.reap()
            held = await sink.lease(worker, events=WORKED_AT_ONCE, size=10**6)
            if held is None:
                await asyncio.sleep(0.005)
                continue
            for start in range(0, len(held.events), 10):
                sent = ids_of(held.events[start : start + 10])
                await store.state.pipeline([("RPUSH", RECEIVED, *sent), ("EXPIRE", RECEIVED, 600)])
                await asyncio.sleep(0.001)
            with suppress(LeaseLostError):
                await sink.acknowledge(held)
