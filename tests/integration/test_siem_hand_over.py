"""What the queues don't take reaches the spill store before anybody is told, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sark.errors import AuditError, QueueFullError
from sark.events import AuditDropped, AuditRefused, AuditReplayed, AuditSpilled, Hub
from sark.siem import AuditEvent, EventQueue, QueueBounds
from sark.siem.event import encode_event
from sark.siem.spill import Replay, Spill
from sark.siem.spilling import SpillRow
from tests.support.gateways import audit_event, later, open_store
from tests.support.leases import BOTH, contents, ids_of, open_sink
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer
from tests.support.spills import assert_account_closes, stored


@dataclass
class Both:
    """A queue of two sinks with its spill store, and what they report."""

    queue: EventQueue
    spill: Spill
    folder: Path
    hub: Hub
    spilled: list[AuditSpilled] = field(default_factory=list)
    refused: list[AuditRefused] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hub.on(AuditSpilled, self.spilled.append)
        self.hub.on(AuditRefused, self.refused.append)

    def waiting(self, sink: str) -> list[str]:
        return ids_of([event for of, event in stored(self.folder) if of == sink])

    async def append(self, count: int = 1, *, seconds: float = 30) -> list[str]:
        events = [audit_event() for _ in range(count)]
        await self.queue.append_many(events, deadline=later(seconds))
        return [event.id for event in events]

    async def replay(self) -> None:
        """Replay until nothing waits."""
        replay = Replay(self.spill, self.queue.put_back, sinks=BOTH, hub=self.hub)
        task = asyncio.create_task(replay.run())
        try:
            await until(
                lambda: not any(map(self.spill.waits, BOTH)), within=10, what="all was replayed"
            )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def open_both(
    url: str,
    folder: Path,
    bounds: QueueBounds | None = None,
    *,
    spill_bytes: int = 2**20,
    flush_timeout: float = 30.0,
    replicas: int = 0,
) -> AsyncIterator[Both]:
    hub = Hub()
    spill = Spill(folder, max_bytes=spill_bytes, sync="normal", hub=hub)
    await spill.files.adopt()
    async with open_store(url, hub=hub) as store:
        queue = EventQueue(
            store,
            BOTH,
            bounds or QueueBounds(),
            flush_timeout=flush_timeout,
            replicas=replicas,
            spill=spill,
        )
        yield Both(queue, spill, folder, hub)
        await queue.close()
    await spill.close()


def queued(server: ValkeyServer, sink: str) -> list[str]:
    return ids_of(contents(server, sink))


async def accounts(both: Both) -> list[tuple[int, int]]:
    """Tell what each sink's queue has accepted, and how many duplicates."""
    found = []
    for name in BOTH:
        status = await open_sink(both.queue._store, name).status()
        assert status.balanced
        found.append((status.accepted.events, status.duplicates.events))
    return found


async def test_what_a_full_queue_does_not_take_is_spilled_and_comes_back_in_order(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_both(server.url, tmp_path, QueueBounds(events=5)) as both:
        first = await both.append(3)
        await open_sink(both.queue._store, "audit").purge("queue", 2)
        second = await both.append(4)
        # The one had room for two of four, the other for all.
        assert queued(server, "main") == [*first, *second[:2]]
        assert both.waiting("main") == second[2:]
        assert queued(server, "audit") == [first[2], *second]
        assert both.waiting("audit") == []
        await both.queue.purge("main")
        third = await both.append(1)
        # There is room again, but earlier events of this sink still wait.
        assert queued(server, "main") == []
        assert both.waiting("main") == [*second[2:], *third]
        assert both.waiting("audit") == third
        await both.queue.purge("audit")
        await both.replay()
        assert queued(server, "main") == [*second[2:], *third]
        assert queued(server, "audit") == third
        assert await both.append(1) == queued(server, "main")[3:]
        assert await accounts(both) == [(9, 0), (9, 0)]
        assert not both.refused
    assert both.spilled == [
        AuditSpilled("main", 2, "full"),
        AuditSpilled("main", 1, "behind"),
        AuditSpilled("audit", 1, "full"),
    ]
    assert_account_closes(tmp_path)


async def test_without_valkey_everything_is_spilled_for_every_sink(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_both(proxy.url(server.password), tmp_path, flush_timeout=0.3) as both,
    ):
        before = await both.append(2)
        await proxy.stop()
        ids: list[str] = []
        for _ in range(4):
            ids += await both.append(5)
        assert both.waiting("main") == both.waiting("audit") == ids
        await both.queue.require_room(deadline=later())
        await proxy.start()
        await both.replay()
        after = await both.append(1)
        for sink in BOTH:
            assert queued(server, sink) == [*before, *ids, *after]
        assert await accounts(both) == [(23, 0), (23, 0)]
    assert {spilled.reason for spilled in both.spilled} == {"unavailable", "behind"}
    assert sum(spilled.events for spilled in both.spilled) == 40


async def test_what_may_have_been_accepted_is_spilled_as_copies(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_both(proxy.url(server.password), tmp_path, flush_timeout=0.2) as both,
    ):
        await both.append()
        proxy.blackhole()
        (unsure,) = await both.append()
        assert both.waiting("main") == both.waiting("audit") == [unsure]
        await proxy.forward()
        await until(lambda: unsure in queued(server, "audit"), within=5, what="it was accepted")
        await both.replay()
        assert queued(server, "main").count(unsure) == 2
        assert await accounts(both) == [(2, 1), (2, 1)]
    assert both.spilled == [AuditSpilled(sink, 1, "unavailable") for sink in BOTH]
    assert_account_closes(tmp_path)


async def test_a_late_callers_event_is_safe_and_not_doubled(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_both(proxy.url(server.password), tmp_path) as both,
    ):
        await both.append()
        proxy.blackhole()
        patient = asyncio.create_task(both.append(2))
        late = await both.append(1, seconds=0.1)
        assert both.waiting("main") == both.waiting("audit") == late
        assert not patient.done()
        await proxy.forward()
        ids = await patient
        # One of the two groups had been sent: had the late event been in it, its copy is forgotten.
        await both.replay()
        for sink in BOTH:
            assert sorted(queued(server, sink)[1:]) == sorted([*ids, *late])
        assert await accounts(both) == [(4, 0), (4, 0)]
    assert both.spilled == [AuditSpilled(sink, 1, "late") for sink in BOTH]


async def test_a_copy_whose_group_was_accepted_is_forgotten(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_both(proxy.url(server.password), tmp_path) as both,
    ):
        await both.append()
        proxy.blackhole()
        (late,) = await both.append(1, seconds=0.1)
        assert both.waiting("main") == [late]
        await proxy.forward()
        await until(lambda: both.waiting("audit") == [], within=5, what="the copies are forgotten")
        assert both.waiting("main") == []
        assert queued(server, "main")[1:] == queued(server, "audit")[1:] == [late]
        assert await accounts(both) == [(2, 0), (2, 0)]
    status = assert_account_closes(tmp_path)
    assert [status[sink].forgotten for sink in BOTH] == [1, 1]


async def test_a_cancelled_caller_leaves_its_group_alone(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_both(proxy.url(server.password), tmp_path, flush_timeout=0.5) as both,
    ):
        await both.append()
        proxy.blackhole()
        tasks = [asyncio.create_task(both.append()) for _ in range(6)]
        await until(lambda: len(both.queue._flying) == 6, within=5, what="the group was sent")
        for task in tasks[::2]:
            task.cancel()
        kept = [each for task in tasks[1::2] for each in await task]
        assert sorted(both.waiting("main")) == sorted(kept)
        await proxy.forward()
        await both.replay()
        assert set(kept) <= set(queued(server, "audit"))
        outcomes = await asyncio.gather(*tasks[::2], return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)


async def test_when_the_spill_store_is_full_too_exactly_the_rest_is_refused(
    server: ValkeyServer, tmp_path: Path
) -> None:
    size = len(encode_event(audit_event()))
    bounds = QueueBounds(events=4)
    async with open_both(server.url, tmp_path, bounds, spill_bytes=3 * size) as both:
        events = [audit_event() for _ in range(8)]

        async def append(event: AuditEvent) -> None:
            await both.queue.append(event, deadline=later())

        # Two sinks lack four each, which is more than the store takes: all or none of a group.
        outcomes = await asyncio.gather(*map(append, events), return_exceptions=True)
        assert outcomes[:4] == [None] * 4
        assert [type(outcome) for outcome in outcomes[4:]] == [QueueFullError] * 4
        assert len({id(outcome) for outcome in outcomes[4:]}) == 4
        assert stored(tmp_path) == []
        await both.append(1)
        with pytest.raises(QueueFullError):
            await both.append(1)
        await both.queue.purge()
        await both.replay()
        await both.append(2)
        assert await accounts(both) == [(7, 0), (7, 0)]
    assert sum(refused.events for refused in both.refused) == 5
    assert {refused.reason for refused in both.refused} == {"full"}


async def test_there_is_room_while_either_has_some(server: ValkeyServer, tmp_path: Path) -> None:
    size = len(encode_event(audit_event()))
    async with open_both(server.url, tmp_path, QueueBounds(events=1), spill_bytes=2 * size) as both:
        await both.append(1)
        await both.queue.require_room(deadline=later())
        await both.append(1)
        with pytest.raises(QueueFullError):
            await both.queue.require_room(deadline=later())
        await both.queue.purge()
        await both.queue.require_room(deadline=later())


async def test_with_too_few_replicas_the_events_are_spilled_as_well(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_both(server.url, tmp_path) as both:
        await both.append(1)  # the server knows the script from now on
    async with open_both(server.url, tmp_path, replicas=1, flush_timeout=0.5) as both:
        ids = await both.append(3)
        for sink in BOTH:
            assert queued(server, sink)[1:] == ids
            assert both.waiting(sink) == ids
    assert both.spilled == [AuditSpilled(sink, 3, "replication") for sink in BOTH]


async def test_without_a_spill_store_the_oldest_can_make_room(server: ValkeyServer) -> None:
    hub, dropped = Hub(), list[AuditDropped]()
    hub.on(AuditDropped, dropped.append)
    async with open_store(server.url, hub=hub) as store:
        queue = EventQueue(
            store, BOTH, QueueBounds(events=5), flush_timeout=30, overflow="drop_oldest"
        )
        events = [audit_event() for _ in range(9)]
        for event in events:
            await queue.append(event, deadline=later())
        await queue.require_room(deadline=later())
        for sink in BOTH:
            assert queued(server, sink) == [event.id for event in events[4:]]
            status = await open_sink(store, sink).status()
            assert (status.accepted.events, status.dropped.events) == (9, 4)
            assert status.balanced
        assert sum(each.events for each in dropped) == 8
        # What is leased cannot be dropped.
        sink_queue = open_sink(store)
        await sink_queue.lease("w", events=5, size=10**6)
        with pytest.raises(QueueFullError):
            await queue.append(audit_event(), deadline=later())
        await queue.close()


async def test_an_event_too_large_for_the_queue_drops_nothing(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = EventQueue(
            store, ("main",), QueueBounds(bytes=1000), flush_timeout=30, overflow="drop_oldest"
        )
        await queue.append(audit_event(), deadline=later())
        with pytest.raises(QueueFullError):
            await queue.append(audit_event(reason="x" * 1000), deadline=later())
        small = [audit_event() for _ in range(8)]
        for event in small:
            await queue.append(event, deadline=later())
        assert queued(server, "main") == [event.id for event in small[-len(contents(server)) :]]
        status = await open_sink(store).status()
        assert status.balanced
        assert status.queued.bytes <= 1000
        await queue.close()


class BrokenDisk:
    """A spill store whose disk fails."""

    def waits(self, _sink: str) -> bool:
        return False

    def has_room(self) -> bool:
        return True

    async def put(self, _rows: Sequence[SpillRow]) -> None:
        raise AuditError("the disk fails")

    async def forget(self, _ids: Collection[int]) -> None:
        raise AuditError("the disk fails")


async def test_a_spill_store_that_cannot_write_fails_the_appends(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = EventQueue(store, BOTH, QueueBounds(events=1), flush_timeout=30, spill=BrokenDisk())
        await queue.append(audit_event(), deadline=later())
        outcomes = await asyncio.gather(
            *(queue.append(audit_event(), deadline=later()) for _ in range(3)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [AuditError] * 3
        await queue.purge()
        await queue.append(audit_event(), deadline=later())
        await queue.close()


async def test_a_crowd_keeps_its_order_through_a_hand_over(
    server: ValkeyServer, tmp_path: Path
) -> None:
    replayed: list[AuditReplayed] = []
    async with open_both(server.url, tmp_path, QueueBounds(events=300)) as both:
        both.hub.on(AuditReplayed, replayed.append)
        sink = open_sink(both.queue._store, bounds=QueueBounds(events=300))
        sent: list[list[str]] = [[] for _ in range(10)]
        delivered: list[str] = []
        stop = asyncio.Event()

        async def produce(number: int) -> None:
            for _ in range(150):
                sent[number] += await both.append(1)

        async def consume() -> None:
            while not stop.is_set() or contents(server):
                lease = await sink.lease("w", events=97, size=10**6)
                await both.queue.purge("audit")
                if lease is None:
                    await asyncio.sleep(0.001)
                    continue
                delivered.extend(ids_of(lease.events))
                await sink.acknowledge(lease)

        replay = Replay(both.spill, both.queue.put_back, sinks=BOTH, hub=both.hub)
        tasks = [asyncio.create_task(replay.run()), asyncio.create_task(consume())]
        await asyncio.gather(*map(produce, range(10)))
        await until(
            lambda: not any(map(both.spill.waits, BOTH)), within=20, what="all was replayed"
        )
        stop.set()
        await tasks[1]
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        for own in sent:
            places = [delivered.index(each) for each in own]
            assert places == sorted(places)
        assert len(delivered) == len(set(delivered)) == 1500
        assert (await sink.status()).balanced
