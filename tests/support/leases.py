"""Sinks' queues for tests: events, leases under a clock that the test moves, what is where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files

import msgspec
import pytest

from sark.siem import leases
from sark.siem.bounds import QueueBounds
from sark.siem.event import new_event_id
from sark.siem.leases import SinkQueue
from sark.store import Script, Store
from tests.support.servers import ValkeyServer
from tests.support.sessions import FrozenClock

__all__ = [
    "BOTH",
    "contents",
    "event_of",
    "frozen_lease_clock",
    "id_of",
    "ids_of",
    "key_of",
    "letters",
    "open_sink",
]

BOTH = ("main", "audit")
LEASE_SECONDS = 30.0


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
