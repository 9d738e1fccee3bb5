"""Leases on a real server: what a worker gets, what it may still do, and what each step costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from sark.errors import (
    DeadLettersFullError,
    LeaseHeldError,
    LeaseLostError,
    StoreCommandError,
)
from sark.events import DeadLettered, Hub, LeaseExpired
from sark.siem import EventQueue, QueueBounds
from sark.siem.event import encode_event
from sark.siem.leases import DELIVERED, KEEP, RETURN, Bad, Outcome
from sark.store import Store
from tests.support.gateways import (
    SINKS,
    Meeting,
    audit_event,
    later,
    open_store,
    processes,
    together,
)
from tests.support.leases import (
    BOTH,
    LeaseWork,
    contents,
    event_of,
    frozen_lease_clock,
    ids_of,
    key_of,
    letters,
    open_sink,
)
from tests.support.polling import until
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer

ROOMY = QueueBounds()


@pytest.fixture(scope="module")
def three() -> Iterator[ProcessPoolExecutor]:
    with processes(3) as pool:
        yield pool


async def fill(
    store: Store, events: list[bytes], sink: str = "main", bounds: QueueBounds = ROOMY
) -> None:
    queue = EventQueue(store, (sink,), bounds, flush_timeout=30)
    for start in range(0, len(events), 1000):
        part = events[start : start + 1000]
        assert await queue.put_back(sink, part, copies=False) == len(part)
    await queue.close()


async def test_a_lease_is_the_head_of_the_queue(server: ValkeyServer) -> None:
    events = [event_of(10) for _ in range(10)]
    async with open_store(server.url) as store:
        sink = open_sink(store)
        assert await sink.lease("w", events=5, size=10**6) is None
        await fill(store, events)
        first = await sink.lease("w", events=4, size=10**6)
        second = await sink.lease("v", events=100, size=10**6)
        assert first is not None
        assert second is not None
        assert [*first.events, *second.events] == events
        assert second.token > first.token
        assert (first.sink, first.worker, first.bytes) == ("main", "w", sum(map(len, events[:4])))
        status = await sink.status()
        assert (status.queued.events, status.in_flight.events, status.leases) == (0, 10, 2)
        await sink.acknowledge(second)
        await sink.acknowledge(first)
        status = await sink.status()
        assert (status.delivered.events, status.leases, status.balanced) == (10, 0, True)
    with server.client() as client:
        assert {key.decode() for key in client.scan_iter()} == {"siem:account"}


async def test_a_batch_ends_at_its_bytes_but_has_an_event(server: ValkeyServer) -> None:
    events = [event_of(5000), event_of(10), event_of(10), event_of(5000)]
    async with open_store(server.url) as store:
        sink = open_sink(store)
        await fill(store, events)
        sizes = []
        while lease := await sink.lease("w", events=100, size=1000):
            sizes.append(len(lease.events))
            await sink.acknowledge(lease)
    assert sum(sizes) == 4
    assert sizes[0] == sizes[-1] == 1


async def test_thousands_of_events_are_leased_settled_and_returned_in_order(
    server: ValkeyServer,
) -> None:
    events = [event_of(1) for _ in range(9000)]
    async with open_store(server.url) as store:
        sink = open_sink(store)
        await fill(store, events)
        lease = await sink.lease("w", events=5000, size=10**9)
        assert lease is not None
        assert list(lease.events) == events[:5000]
        outcomes = [(DELIVERED, RETURN, Bad("no"), KEEP)[n % 4] for n in range(5000)]
        kept = await sink.settle(lease, outcomes)
        assert kept is not None
        assert list(kept.events) == events[3:5000:4]
        await sink.give_back(kept)
        assert contents(server) == [*events[3:5000:4], *events[1:5000:4], *events[5000:]]
        assert len(letters(server)) == 1250
        assert (await sink.status()).balanced
        moved = 0
        while count := await sink.replay(1000):
            moved += count
        assert moved == 1250
        assert contents(server)[-1250:] == events[2:5000:4]
        assert (await sink.status()).balanced


async def test_a_worker_holds_one_lease_and_can_take_it_over(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        sink = open_sink(store)
        await fill(store, [event_of() for _ in range(3)])
        lease = await sink.lease("w", events=2, size=10**6)
        assert lease is not None
        with pytest.raises(LeaseHeldError, match="w already holds"):
            await sink.lease("w", events=2, size=10**6)
        assert await sink.resume("v") is None
        again = await sink.resume("w")
        assert again is not None
        assert (again.events, again.bytes) == (lease.events, lease.bytes)
        for stale in (sink.renew(lease), sink.acknowledge(lease), sink.give_back(lease)):
            with pytest.raises(LeaseLostError):
                await stale
        await sink.acknowledge(again)
        assert (await sink.status()).delivered.events == 2


async def test_workers_of_three_processes_share_the_events(
    server: ValkeyServer, three: ProcessPoolExecutor
) -> None:
    events = [event_of() for _ in range(2000)]
    async with open_store(server.url) as store:
        await fill(store, events)
        work = LeaseWork(Meeting(server.url, "leases", 3), workers=10)
        shares = await together(three, 3, work)
        status = await open_sink(store).status()
    assert sorted(each for share in shares for each in share) == sorted(ids_of(events))
    assert (status.delivered.events, status.leases, status.balanced) == (2000, 0, True)


async def test_an_expired_lease_is_its_workers_until_it_is_reaped(server: ValkeyServer) -> None:
    hub, expired = Hub(), list[LeaseExpired]()
    hub.on(LeaseExpired, expired.append)
    events = [event_of() for _ in range(6)]
    with frozen_lease_clock(server) as clock:
        async with open_store(server.url, hub=hub) as store:
            sink = open_sink(store, lease=30)
            await fill(store, events)
            slow = await sink.lease("slow", events=2, size=10**6)
            dead = await sink.lease("dead", events=2, size=10**6)
            assert slow is not None
            assert dead is not None
            clock.advance(29.999)
            assert await sink.reap() == 0
            await sink.renew(slow)
            clock.advance(0.001)
            assert await sink.reap() == 2
            assert contents(server) == events[2:]
            with pytest.raises(LeaseLostError, match="dead on 2 events of main"):
                await sink.acknowledge(dead)
            clock.advance(100)
            await sink.acknowledge(slow)  # late, but nobody has taken it
            assert await sink.reap() == 0
            status = await sink.status()
            assert (status.delivered.events, status.queued.events) == (2, 4)
    assert expired == [LeaseExpired("main", 2)]


async def test_several_expired_leases_return_in_the_order_of_the_queue(
    server: ValkeyServer,
) -> None:
    events = [event_of() for _ in range(20)]
    with frozen_lease_clock(server) as clock:
        async with open_store(server.url) as store:
            sink = open_sink(store, lease=1)
            await fill(store, events)
            for worker in ("z", "a", "m", "10", "9"):
                await sink.lease(worker, events=3, size=10**6)
            clock.advance(1)
            assert await sink.reap() == 15
    assert contents(server) == events


async def test_an_event_that_kills_its_workers_takes_no_neighbour_along(
    server: ValkeyServer,
) -> None:
    hub, buried = Hub(), list[DeadLettered]()
    hub.on(DeadLettered, buried.append)
    events = [event_of() for _ in range(9)]
    poison = events[4]
    with frozen_lease_clock(server) as clock:
        async with open_store(server.url, hub=hub) as store:
            sink = open_sink(store, lease=10, most_expiries=4)
            await fill(store, events)
            delivered: list[bytes] = []
            deaths = 0
            for turn in range(50):
                lease = await sink.lease(f"w-{turn}", events=5, size=10**6)
                if lease is None:
                    break
                if poison in lease.events:
                    deaths += 1
                    clock.advance(10)
                    await sink.reap()
                else:
                    delivered += lease.events
                    await sink.acknowledge(lease)
            status = await sink.status()
            assert status.balanced
            assert (status.delivered.events, status.failed.events) == (8, 1)
    assert deaths == 4
    assert delivered == [*events[:4], *events[5:]]
    (letter,) = letters(server)
    assert (letter["kind"], letter["reason"]) == ("expired", "outlived 4 leases")
    assert buried == [DeadLettered("main", 1, "expired", "outlived 4 leases")]
    with server.client() as client:
        assert not client.exists(key_of("expiries", "main"))


async def test_workers_lost_while_they_wait_make_no_dead_letters(server: ValkeyServer) -> None:
    """As when a receiver is down for long, and its workers are killed or cut off meanwhile."""
    events = [event_of() for _ in range(3)]
    with frozen_lease_clock(server) as clock:
        async with open_store(server.url) as store:
            sink = open_sink(store, lease=10, most_expiries=2)
            await fill(store, events)
            for turn in range(5):
                lease = await sink.lease(f"w-{turn}", events=5, size=10**6)
                assert lease is not None
                assert list(lease.events) == events
                clock.advance(4)
                await sink.renew(lease)
                clock.advance(10)
                assert await sink.reap() == 3
    assert contents(server) == events
    with server.client() as client:
        assert not client.exists(key_of("expiries", "main"))


async def test_the_counts_of_outlived_leases_go_by_themselves(server: ValkeyServer) -> None:
    with frozen_lease_clock(server) as clock:
        async with open_store(server.url) as store:
            sink = open_sink(store, lease=1)
            await fill(store, [event_of()])
            await sink.lease("w", events=1, size=10**6)
            clock.advance(2)
            await sink.reap()
            with server.client() as client:
                assert 0 < client.ttl(key_of("expiries", "main")) <= 7 * 86_400
            lease = await sink.lease("w", events=1, size=10**6)
            assert lease is not None
            await sink.acknowledge(lease)
    with server.client() as client:
        assert not client.exists(key_of("expiries", "main"))


async def test_a_dead_letter_tells_why_and_holds_the_event_as_it_was(
    server: ValkeyServer,
) -> None:
    hub, buried = Hub(), list[DeadLettered]()
    hub.on(DeadLettered, buried.append)
    event = encode_event(audit_event(reason='","event":{"x":1}', context={"event": {"event": 2}}))
    async with open_store(server.url, hub=hub) as store:
        sink = open_sink(store)
        await fill(store, [event])
        lease = await sink.lease("w", events=1, size=10**6)
        assert lease is not None
        reason = 'ü "a,"event": \\ {}\n'
        assert await sink.settle(lease, [Bad(reason)]) is None
        (letter,) = letters(server)
        assert list(letter) == ["reason", "kind", "time", "event"]
        assert (letter["reason"], letter["kind"]) == (reason, "rejected")
        assert str(letter["time"]).endswith("Z")
        assert await sink.failed(10) == [
            entry for entry in await sink.failed(1) if entry.endswith(event + b"}")
        ]
        assert await sink.replay(10) == 1
        assert contents(server) == [event]
        assert (await sink.status()).balanced
    assert buried == [DeadLettered("main", 1, "rejected", reason)]


@pytest.mark.parametrize("bound", ["events", "bytes"])
async def test_full_dead_letters_stop_leasing_and_bury_nobody_too_many(
    server: ValkeyServer, bound: str
) -> None:
    events = [event_of(50) for _ in range(6)]
    size = len(events[0])
    tight = QueueBounds(events=2) if bound == "events" else QueueBounds(bytes=2 * size)
    async with open_store(server.url) as store:
        await fill(store, events)
        sink = open_sink(store, bounds=tight)
        lease = await sink.lease("w", events=5, size=10**6)
        assert lease is not None
        verdicts: list[Outcome] = [Bad("a"), DELIVERED, Bad("b"), Bad("c"), RETURN]
        assert await sink.settle(lease, verdicts) is None
        # There was no room for the third, so it is where it was among the others.
        assert contents(server) == [events[3], events[4], events[5]]
        with pytest.raises(DeadLettersFullError, match="dead letters of main"):
            await sink.lease("w", events=5, size=10**6)
        assert await sink.purge("failed", 1) == 1
        assert await sink.lease("w", events=5, size=10**6) is not None
        assert (await sink.status()).balanced


async def test_a_bad_event_is_not_leased_over_and_over_for_want_of_a_few_bytes(
    server: ValkeyServer,
) -> None:
    events = [event_of(50) for _ in range(3)]
    # Room for one and a half: the second is taken as well, or it would be sent again without end.
    tight = QueueBounds(bytes=len(events[0]) * 3 // 2)
    async with open_store(server.url) as store:
        await fill(store, events)
        sink = open_sink(store, bounds=tight)
        for reason in ("a", "b"):
            lease = await sink.lease("w", events=1, size=10**6)
            assert lease is not None
            assert await sink.settle(lease, [Bad(reason)]) is None
        assert [letter["reason"] for letter in letters(server)] == ["a", "b"]
        assert contents(server) == events[2:]
        with pytest.raises(DeadLettersFullError):
            await sink.lease("w", events=1, size=10**6)
        assert (await sink.status()).balanced


async def test_a_lease_does_not_take_out_what_it_cannot_hold(server: ValkeyServer) -> None:
    large, small = [event_of(2**20) for _ in range(64)], [event_of() for _ in range(5000)]
    async with open_store(server.url) as store:
        for event in large:
            await fill(store, [event])
        await fill(store, small)
        sink = open_sink(store)
        lease = await sink.lease("w", events=1000, size=2**20)
        assert lease is not None
        assert lease.events == (large[0],)
        with server.client() as client:
            # What the script has read stays in the interpreter's memory until it is collected.
            assert client.info("memory")["used_memory_vm_eval"] < 16 * 2**20
        await sink.give_back(lease)
        assert contents(server) == large + small


@pytest.mark.parametrize("begins", ["status", "append", "copies", "lease", "purge", "drop"])
async def test_an_account_from_before_bytes_were_accepted_is_completed(
    server: ValkeyServer, begins: str
) -> None:
    events = [event_of(number) for number in range(5)]
    with server.client() as client:
        client.rpush("siem:event_queue", *events)
        known = {"accepted": 7, "purged": 2, "queued_bytes": sum(map(len, events))}
        client.hset("siem:account", mapping=known)
    async with open_store(server.url) as store:
        sink = open_sink(store)
        match begins:
            case "append" | "copies":
                queue = EventQueue(store, SINKS, ROOMY, flush_timeout=30)
                copies = begins == "copies"
                assert await queue.put_back("main", [event_of()], copies=copies) == 1
                await queue.close()
            case "drop":
                tight = QueueBounds(events=5)
                queue = EventQueue(store, SINKS, tight, flush_timeout=30, overflow="drop_oldest")
                await queue.append(audit_event(), deadline=later())
                await queue.close()
            case "purge":
                assert await sink.purge("queue", 2) == 2
        assert (await sink.status()).balanced
        lease = await sink.lease("w", events=2, size=10**6)
        assert lease is not None
        await sink.acknowledge(lease)
        assert (await sink.status()).balanced


async def test_what_is_in_flight_keeps_its_room(server: ValkeyServer) -> None:
    bounds = QueueBounds(events=4)
    async with open_store(server.url) as store:
        sink = open_sink(store, bounds=bounds)
        await fill(store, [event_of() for _ in range(4)], bounds=bounds)
        queue = EventQueue(store, SINKS, bounds, flush_timeout=30)
        lease = await sink.lease("w", events=3, size=10**6)
        assert lease is not None
        assert await queue.put_back("main", [event_of()], copies=False) == 0
        left = await sink.settle(lease, [DELIVERED, KEEP, KEEP])
        assert left is not None
        assert await queue.put_back("main", [event_of(), event_of()], copies=False) == 1
        await sink.give_back(left)
        assert len(contents(server)) == 4
        await queue.close()


async def test_a_replay_takes_what_the_queue_has_room_for(server: ValkeyServer) -> None:
    events = [event_of() for _ in range(4)]
    bounds = QueueBounds(events=5)
    async with open_store(server.url) as store:
        sink = open_sink(store, bounds=bounds)
        await fill(store, events)
        lease = await sink.lease("w", events=4, size=10**6)
        assert lease is not None
        await sink.settle(lease, [Bad("no")] * 4)
        others = [event_of() for _ in range(3)]
        await fill(store, others)
        assert await sink.replay(3) == 2
        assert await sink.replay(3) == 0
        assert contents(server) == [*others, *events[:2]]
        assert [letter["event"]["id"] for letter in letters(server)] == ids_of(events[2:])  # type: ignore[index]


async def test_sinks_have_nothing_to_do_with_each_other(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = EventQueue(store, BOTH, ROOMY, flush_timeout=30)
        sent = [audit_event() for _ in range(3)]
        await queue.append_many(sent, deadline=later())
        events = [encode_event(event) for event in sent]
        main, other = (open_sink(store, name) for name in BOTH)
        lease = await main.lease("w", events=3, size=10**6)
        assert lease is not None
        assert await other.peek(10) == events
        assert await main.peek(10) == []
        with pytest.raises(LeaseLostError):
            await other.acknowledge(lease)
        await main.acknowledge(lease)
        assert await other.purge("queue", 2) == 2
        statuses = [await each.status() for each in (main, other)]
        assert [each.delivered.events for each in statuses] == [3, 0]
        assert [each.purged.events for each in statuses] == [0, 2]
        assert all(each.balanced for each in statuses)
        await queue.close()


async def test_the_oldest_event_ages_wherever_it_is(server: ValkeyServer) -> None:
    with frozen_lease_clock(server) as clock:
        async with open_store(server.url) as store:
            sink = open_sink(store)
            assert (await sink.status()).oldest_seconds is None
            await fill(store, [event_of(), event_of()])
            clock.advance(100)
            queued = (await sink.status()).oldest_seconds
            assert queued is not None
            assert 90 < queued < 110
            lease = await sink.lease("w", events=1, size=10**6)
            assert lease is not None
            assert (await sink.status()).oldest_seconds == queued
            await sink.acknowledge(lease)
            rest = (await sink.status()).oldest_seconds
            assert rest is not None
            assert rest <= queued


async def test_what_is_asked_is_checked(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        sink = open_sink(store)
        await fill(store, [event_of(), event_of()])
        for call in (
            sink.lease("w", events=0, size=1),
            sink.lease("w", events=5001, size=1),
            sink.peek(1001),
            sink.replay(0),
            sink.purge("queue", -1),
        ):
            with pytest.raises(ValueError, match="expected 1 to"):
                await call
        lease = await sink.lease("w", events=2, size=10**6)
        assert lease is not None
        with pytest.raises(ValueError, match="1 outcomes for 2 events"):
            await sink.settle(lease, [DELIVERED])
        smaller = await sink.settle(lease, [DELIVERED, KEEP])
        with pytest.raises(StoreCommandError, match="2 outcomes for 1 events"):
            await sink.settle(lease, [DELIVERED, KEEP])
        assert smaller is not None
        await sink.acknowledge(smaller)


async def test_every_step_is_one_round_trip_whatever_its_size(server: ValkeyServer) -> None:
    async with count_round_trips(server) as (url, counts), open_store(url) as store:
        sink = open_sink(store)
        await fill(store, [event_of() for _ in range(600)])
        warm = await sink.lease("w", events=1, size=10**6)
        assert warm is not None
        await sink.acknowledge(warm)

        counts.reset()
        lease = await sink.lease("w", events=500, size=10**6)
        assert lease is not None
        assert counts.round_trips == 1
        assert counts.commands["evalsha"] == 1
        # Events are taken out by up to 64 at a time; all else does not grow with their number.
        assert counts.commands["lpop"] <= 500 / 64 + 7
        assert (counts.commands - Counter({"lpop": 1000})).total() <= 15

        await sink.renew(lease)
        counts.reset()
        await sink.acknowledge(lease)
        assert counts.round_trips == 1
        assert counts.commands["evalsha"] == 1
        assert counts.commands["lrange"] == 0
        assert counts.commands.total() <= 10

        await sink.status()
        counts.reset()
        await sink.status()
        assert (counts.round_trips, counts.commands["evalsha"]) == (1, 1)


async def test_events_leave_a_server_that_is_full(
    private_server: Callable[..., ValkeyServer],
) -> None:
    """Above ``maxmemory`` nothing can be appended; what forwards makes room again."""
    server = private_server({"maxmemory-policy": "noeviction"})
    async with open_store(server.url) as store:
        sink = open_sink(store, lease=0.1)
        await fill(store, [event_of() for _ in range(9)])
        server.client().config_set("maxmemory", 1)
        with pytest.raises(StoreCommandError, match="maxmemory"):
            await fill(store, [event_of()])
        lost = await sink.lease("lost", events=3, size=10**6)
        assert lost is not None
        await until(sink.reap, within=10, what="the lease was reaped")
        lease = await sink.lease("w", events=6, size=10**6)
        assert lease is not None
        await sink.renew(lease)
        lease = await sink.resume("w")
        assert lease is not None
        lease = await sink.settle(lease, [DELIVERED, Bad("no"), RETURN, *[KEEP] * 3])
        assert lease is not None
        await sink.acknowledge(lease)
        assert await sink.replay(1) == 1
        assert await sink.purge("queue", 1) == 1
        status = await sink.status()
    assert status.balanced
    assert (status.delivered.events, status.queued.events) == (4, 4)
