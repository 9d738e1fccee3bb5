"""Refusals for several sinks, and what becomes of them without room and without Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sark.errors import AuditError, QueueFullError
from sark.events import AuditRefused, AuditSpilled, Hub
from sark.siem import EventQueue, QueueBounds, Refusals
from sark.siem.spill import Spill
from sark.siem.spilling import SpillRow
from sark.store import Store
from tests.support.gateways import audit_event, later, open_store
from tests.support.leases import BOTH, contents, open_sink
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer
from tests.support.spills import stored

DUE = "siem:refusals:due"
RECORDS = ("siem:refusals", "siem:refusals:count", DUE)


@dataclass
class Spilled:
    """Refusals with a spill store, and what they report."""

    refusals: Refusals
    spill: Spill
    store: Store
    folder: Path
    events: list[AuditSpilled]
    refused: list[AuditRefused]

    async def refuse(
        self, name: str = "alice", *, seconds: float = 600, deadline: float = 30
    ) -> tuple[str, str]:
        """Refuse somebody; returns the event's id, and that under which it is recorded."""
        event = audit_event(type="refusal", allow=False, reason="rate_limit:user")
        recorded_as = await self.refusals.record(
            name,
            event,
            identity=f"user:{name}",
            seconds_left=seconds,
            deadline=later(deadline),
        )
        return event.id, recorded_as

    def waiting(self, sink: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(event) for of, event in stored(self.folder) if of == sink]


@asynccontextmanager
async def opened(
    url: str, folder: Path, bounds: QueueBounds | None = None, *, spill_bytes: int = 2**20
) -> AsyncIterator[Spilled]:
    hub, events, refused = Hub(), list[AuditSpilled](), list[AuditRefused]()
    hub.on(AuditSpilled, events.append)
    hub.on(AuditRefused, refused.append)
    spill = Spill(folder, max_bytes=spill_bytes, sync="normal", hub=hub)
    await spill.files.adopt()
    async with open_store(url, hub=hub) as store:
        refusals = Refusals(store, BOTH, bounds or QueueBounds(), spill=spill)
        yield Spilled(refusals, spill, store, folder, events, refused)
        with suppress(AuditError):
            await refusals.close()
    await spill.close()


def queued(server: ValkeyServer, sink: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(event) for event in contents(server, sink)]


def end_windows(server: ValkeyServer) -> None:
    with server.client() as client:
        for name in client.zrange(DUE, 0, -1):
            client.zadd(DUE, {name: 1}, xx=True)


def records(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(client.exists(*RECORDS))


async def test_every_sink_gets_the_first_and_the_closing_event(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with opened(server.url, tmp_path) as it:
        first, _ = await it.refuse()
        for _ in range(3):
            assert (await it.refuse())[1] == first
        end_windows(server)
        assert await it.refusals.close_due() == 1
        for sink in BOTH:
            assert [(e["type"], e.get("count")) for e in queued(server, sink)] == [
                ("refusal", None),
                ("refusals", 3),
            ]
            assert (await open_sink(it.store, sink).status()).balanced
        assert queued(server, "main") == queued(server, "audit")
    assert records(server) == 0
    assert stored(tmp_path) == []


async def test_a_first_refusal_without_room_is_spilled_for_the_full_sink(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with opened(server.url, tmp_path, QueueBounds(events=1)) as it:
        other = EventQueue(it.store, ("audit",), QueueBounds(), flush_timeout=30)
        await other.append(audit_event(), deadline=later())
        await other.close()
        first, recorded_as = await it.refuse()
        assert first == recorded_as
        assert [event["id"] for event in queued(server, "main")] == [first]
        assert [event["id"] for event in it.waiting("audit")] == [first]
        assert (await it.refuse())[1] == first
        # Its window has just ended: the queue may have room soon.
        with server.client() as client:
            client.zadd(DUE, {"alice": time.time() * 1000}, xx=True)
        assert await it.refusals.close_due() == 0
        # A refusal after the window goes on counting, as the old record cannot be closed.
        assert (await it.refuse())[1] == first
        assert it.waiting("main") == []
    assert it.events == [AuditSpilled("audit", 1, "full")]
    with server.client() as client:
        assert client.hget("siem:refusals:count", "alice") == b"3"


async def test_a_sink_that_is_full_for_long_keeps_no_count_from_the_others(
    server: ValkeyServer, tmp_path: Path
) -> None:
    names = [f"user-{number}" for number in range(150)]
    async with opened(server.url, tmp_path, QueueBounds(events=400)) as it:
        other = EventQueue(it.store, ("audit",), QueueBounds(), flush_timeout=30)
        await other.append_many([audit_event() for _ in range(400)], deadline=later())
        await other.close()
        firsts = {name: (await it.refuse(name))[0] for name in names}
        for name in names[:2]:
            await it.refuse(name)
        end_windows(server)
        assert await it.refusals.close_due() == len(names)
        assert records(server) == 0
        for sink in BOTH:
            closing = [event for event in it.waiting(sink) if event["type"] == "refusals"]
            assert [(e["first_id"], e["count"]) for e in closing] == [
                (firsts[name], 1) for name in names[:2]
            ]
        assert await it.refusals.close_due() == 0


async def test_what_is_refused_while_a_count_is_told_is_told_as_well(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with opened(server.url, tmp_path, QueueBounds(events=2)) as it:
        await it.refuse("full")
        first, _ = await it.refuse()
        await it.refuse()
        end_windows(server)
        put = it.spill.put

        async def meanwhile(rows: Sequence[SpillRow]) -> None:
            await put(rows)
            with server.client() as client:
                client.hincrby("siem:refusals:count", "alice", 2)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(it.spill, "put", meanwhile)
            # The other one had no repeats.
            assert await it.refusals.close_due() == 1
        # Who claimed it is not disturbed; when it is due again, the rest is told.
        assert await it.refusals.close_due() == 0
        end_windows(server)
        assert await it.refusals.close_due() == 1
        closing = [event for event in it.waiting("main") if event["type"] == "refusals"]
        assert [(e["first_id"], e["count"]) for e in closing] == [(first, 1), (first, 2)]
    assert records(server) == 0


async def test_there_are_no_more_records_than_a_queue_holds_events(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with opened(server.url, tmp_path, QueueBounds(events=3)) as it:
        for number in range(5):
            first, recorded_as = await it.refuse(f"user-{number}")
            assert recorded_as == first
        with server.client() as client:
            assert client.hlen("siem:refusals") == 3
        # One without a record has an event for each refusal.
        assert (await it.refuse("user-0"))[0] not in {e["id"] for e in it.waiting("main")}
        again, recorded_as = await it.refuse("user-4")
        assert recorded_as == again
        assert again in {event["id"] for event in it.waiting("main")}


async def test_behind_spilled_events_a_first_refusal_is_spilled_too(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with opened(server.url, tmp_path) as it:
        queue = EventQueue(
            it.store, ("main",), QueueBounds(events=0), flush_timeout=30, spill=it.spill
        )
        await queue.append(audit_event(), deadline=later())
        first, _ = await it.refuse()
        assert queued(server, "main") == []
        assert [event["id"] for event in it.waiting("main")][1:] == [first]
        assert [event["id"] for event in queued(server, "audit")] == [first]
        await queue.close()
    assert it.events[1:] == [AuditSpilled("main", 1, "behind")]


async def test_what_nothing_takes_leaves_no_record(server: ValkeyServer, tmp_path: Path) -> None:
    async with opened(server.url, tmp_path, QueueBounds(events=0), spill_bytes=100) as it:
        # The store says that it has room, and then has none for this.
        with pytest.raises(QueueFullError):
            await it.refuse()
        assert records(server) == 0
        assert stored(tmp_path) == []
    assert it.refused == [AuditRefused(1, "full")]


async def test_without_valkey_each_process_counts_by_itself(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        opened(proxy.url(server.password), tmp_path) as it,
    ):
        await it.refuse("before")
        await proxy.stop()
        outcomes = await asyncio.gather(*(it.refuse(deadline=0.3) for _ in range(50)))
        (first,) = {recorded_as for _, recorded_as in outcomes}
        short, _ = await it.refuse("short", seconds=0.05, deadline=0.3)
        assert (await it.refuse("short", seconds=600, deadline=0.3))[0] != short
        assert it.waiting("main")[0]["id"] == first
        closer = asyncio.create_task(it.refusals.close_due_forever(interval=0.02))
        await until(
            lambda: all(len(it.waiting(sink)) >= 3 for sink in BOTH),
            within=5,
            what="windows are closed",
        )
        closer.cancel()
        await asyncio.gather(closer, return_exceptions=True)
        await it.refusals.close()
        for sink in BOTH:
            found = it.waiting(sink)
            counts = {
                event["identity"]: event["count"] for event in found if event["type"] == "refusals"
            }
            assert counts["user:alice"] == 49
            (closing,) = [e for e in found if e.get("identity") == "user:alice"]
            assert closing["first_id"] == first
            assert len({event["id"] for event in found}) == len(found)
    assert {event.reason for event in it.events} == {"unavailable"}
    assert not it.refused


async def test_when_the_spill_store_fails_too_everybody_is_told(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        opened(proxy.url(server.password), tmp_path, spill_bytes=1) as it,
    ):
        await proxy.stop()
        outcomes = await asyncio.gather(
            *(it.refuse(deadline=0.2) for _ in range(5)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [QueueFullError] * 5
        await proxy.start()
        await until(
            lambda: not it.store.state.guard.is_open, within=10, what="the server is found again"
        )
        first, recorded_as = await it.refuse()
        assert first == recorded_as
    assert it.refused == [AuditRefused(1, "full")] * 5
