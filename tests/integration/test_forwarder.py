"""The forwarder between a real queue and a real receiver that misbehaves in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest

from sark.events import DeadLettered, Forwarded, ForwardFailed, SinkPaused
from sark.siem import EventQueue, QueueBounds
from sark.siem.forwarder import Batching
from sark.siem.forwarder.forwarder import LOOK_AGAIN_SECONDS
from sark.siem.sinks.base import SinkLimits
from sark.store import Store
from tests.support.forwarders import (
    BOUNDS,
    PATIENCE_SECONDS,
    QUICK,
    Heard,
    Permitted,
    closed_account,
    fill,
    is_drained,
    open_forwarder,
    put,
    queue_of,
)
from tests.support.gateways import open_store
from tests.support.line_receiver import LinesSink, Receiver, open_receiver
from tests.support.polling import until
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer


@pytest.fixture
async def store(server: ValkeyServer) -> AsyncIterator[Store]:
    async with open_store(server.url) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as started:
        yield started


@pytest.fixture
async def sink(receiver: Receiver) -> AsyncIterator[LinesSink]:
    async with LinesSink(receiver.url) as opened:
        yield opened


async def drained(store: Store) -> None:
    queue = queue_of(store)
    await until(lambda: is_drained(queue), within=PATIENCE_SECONDS, what="the queue is empty")


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon after a pause."""
    for kind in LOOK_AGAIN_SECONDS:
        monkeypatch.setitem(LOOK_AGAIN_SECONDS, kind, 0.05)


async def test_events_arrive_in_order_and_once(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    ids = await fill(store, 1050)
    async with open_forwarder(store, sink):
        await drained(store)
    assert receiver.ids == ids
    assert [len(batch) for batch in receiver.batches] == [100] * 10 + [50]
    status = await closed_account(queue_of(store))
    assert status.delivered == status.accepted
    forwarded = heard.of(Forwarded)
    assert sum(each.events for each in forwarded) == 1050
    assert sum(each.bytes for each in forwarded) == status.accepted.bytes


async def test_a_batch_ends_at_its_bytes_too(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    ids = await fill(store, 20, reason="x" * 1000)
    async with open_forwarder(store, sink, batching=replace(QUICK, bytes=5000)):
        await drained(store)
    assert receiver.ids == ids
    assert {len(batch) for batch in receiver.batches} == {4}


async def test_a_lease_is_cut_to_what_the_receiver_takes(store: Store, receiver: Receiver) -> None:
    ids = await fill(store, 20, reason="x" * 1000)
    limits = SinkLimits(events=15, bytes=4000, event_bytes=3000)
    async with LinesSink(receiver.url, limits) as sink, open_forwarder(store, sink):
        await drained(store)
    assert receiver.ids == ids
    assert max(len(batch) for batch in receiver.batches) == 3


async def test_events_that_go_alone_are_not_held_up(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    """A batch waits to fill up only while there is nothing to fill it with."""
    ids = await fill(store, 50)
    queue = queue_of(store, lease=0.05)
    for turn in range(2):
        assert await queue.lease(f"lost-{turn}", events=50, size=10**6) is not None
        await until(queue.reap, within=PATIENCE_SECONDS, what="the lease was reaped")
    async with open_forwarder(store, sink, batching=replace(QUICK, age=5.0)):
        await drained(store)
    assert receiver.batches == [[each] for each in ids]


async def test_a_batch_waits_no_longer_than_its_age(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    async with open_forwarder(store, sink):
        for _ in range(3):
            ids = await fill(store, 1)
            await until(lambda: receiver.ids[-1:] == ids, within=5, what="it arrives")  # noqa: B023
    assert len(receiver.batches) == 3


async def test_bad_events_alone_become_dead_letters(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    ids = await fill(store, 300)
    receiver.bad = {ids[7], ids[150], ids[151], ids[299]}
    async with open_forwarder(store, sink):
        await drained(store)
    assert receiver.ids == [each for each in ids if each not in receiver.bad]
    queue = queue_of(store)
    status = await closed_account(queue)
    assert (status.delivered.events, status.failed.events) == (296, 4)
    letters = [msgspec.json.decode(letter) for letter in await queue.failed(10)]
    assert {letter["event"]["id"] for letter in letters} == receiver.bad
    assert {(letter["reason"], letter["kind"]) for letter in letters} == {("400", "rejected")}
    assert sum(each.events for each in heard.of(DeadLettered)) == 4


async def test_what_is_no_event_becomes_a_dead_letter(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    before = await fill(store, 3)
    queue = EventQueue(store, ("main",), BOUNDS, flush_timeout=PATIENCE_SECONDS)
    await put(queue, "main", [b'{"no":"id"}', b'{"id":7}'])
    await queue.close()
    after = await fill(store, 3)
    async with open_forwarder(store, sink):
        await drained(store)
    assert receiver.ids == before + after
    letters = [msgspec.json.decode(each) for each in await queue_of(store).failed(10)]
    assert all(letter["reason"].startswith("not readable: ") for letter in letters)
    assert [letter["event"] for letter in letters] == [{"no": "id"}, {"id": 7}]


async def test_a_receiver_that_is_down_loses_and_buries_nothing(store: Store) -> None:
    heard = Heard(store.hub)
    async with open_receiver() as first:
        port = int(first.url.split(":")[2].strip("/"))
    ids = await fill(store, 250)
    async with LinesSink(f"http://127.0.0.1:{port}/") as sink, open_forwarder(store, sink) as f:
        await until(
            lambda: len(heard.of(ForwardFailed)) >= 8, within=20, what="it was tried 8 times"
        )
        assert f.state.failing
        status = await closed_account(queue_of(store))
        assert status.failed.events == status.delivered.events == 0
        async with open_receiver(port) as second:
            await drained(store)
            assert second.ids == ids
        assert not f.state.failing
    assert {each.kind for each in heard.of(ForwardFailed)} == {"unavailable"}
    assert all(each.pause <= QUICK.retry_cap for each in heard.of(ForwardFailed))


@pytest.mark.parametrize("status", [429, 503, 413, 207])
async def test_passing_faults_cost_time_only(
    store: Store, sink: LinesSink, receiver: Receiver, status: int
) -> None:
    ids = await fill(store, 500)
    receiver.answer = lambda batch: status if receiver.requests % 3 and len(batch) > 1 else 200
    async with open_forwarder(store, sink):
        await drained(store)
    # Those that a receiver took of a batch are not sent again.
    assert receiver.ids == ids
    assert (await closed_account(queue_of(store))).failed.events == 0


async def test_order_outlasts_faults_with_a_concurrency_of_one(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    ids = await fill(store, 600)
    faults = [503, 200, 429, 413, 200, 503, 503, 413, 413, 200]
    receiver.answer = lambda batch: faults[receiver.requests % 10] if len(batch) > 1 else 200
    async with open_forwarder(store, sink, batching=replace(QUICK, retry_cap=0.02)):
        await drained(store)
    assert receiver.ids == ids


async def test_a_refused_credential_pauses_and_loses_nothing(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    ids = await fill(store, 250)
    receiver.answer = lambda _: 401
    queue = queue_of(store)
    async with open_forwarder(store, sink) as forwarder:
        await until(lambda: forwarder.state.paused, within=10, what="it pauses")
        await until(lambda: forwarder.state.leases == 0, within=10, what="it holds nothing")
        # All is back in the queue, in its order, and nothing is a dead letter.
        status = await closed_account(queue)
        assert (status.queued.events, status.in_flight.events) == (250, 0)
        head = [msgspec.json.decode(each)["id"] for each in await queue.peek(250)]
        assert head == ids
        receiver.answer = lambda _: 200
        forwarder.retry()
        await drained(store)
        assert not forwarder.state.paused
    assert receiver.ids == ids
    assert [(each.paused, each.kind) for each in heard.of(SinkPaused)] == [
        (True, "unauthorized"),
        (False, "unauthorized"),
    ]


@pytest.mark.usefixtures("quick_looks")
async def test_a_paused_sink_looks_again_by_itself(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    ids = await fill(store, 10)
    receiver.answer = lambda _: 401 if receiver.requests <= 3 else 200
    async with open_forwarder(store, sink):
        await drained(store)
    assert receiver.ids == ids
    # Told once, however often it looked.
    assert [each.paused for each in heard.of(SinkPaused)] == [True, False]


@pytest.mark.usefixtures("quick_looks")
async def test_full_dead_letters_stop_leasing_until_there_is_room(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    ids = await fill(store, 20)
    receiver.bad = set(ids[:5])
    queue = queue_of(store, bounds=QueueBounds(events=3, bytes=10**6))
    async with open_forwarder(store, sink, queue=queue) as forwarder:
        await until(
            lambda: "dead_letters_full" in forwarder.state.paused, within=10, what="it pauses"
        )
        status = await closed_account(queue)
        assert status.failed.events == 3
        receiver.bad = set()
        await queue.purge("failed", 3)
        await drained(store)
    assert set(receiver.ids) == set(ids[3:])
    kinds = {(each.kind, each.paused) for each in heard.of(SinkPaused)}
    assert kinds == {("dead_letters_full", True), ("dead_letters_full", False)}


async def test_an_open_breaker_is_no_failure_of_the_events(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    guard = Permitted(open_for=0.05)
    ids = await fill(store, 100)
    async with open_forwarder(store, sink, guard=guard):
        await until(lambda: len(heard.of(ForwardFailed)) > 3, within=10, what="it was refused")
        assert receiver.requests == 0
        guard.open_for = 0
        await drained(store)
    assert receiver.ids == ids
    assert {each.kind for each in heard.of(ForwardFailed)} == {"breaker"}
    assert guard.told == ["succeeded"]


async def test_what_the_breaker_hears(store: Store, sink: LinesSink, receiver: Receiver) -> None:
    guard = Permitted()
    answers = iter([503, 429, 413, 200, 200])
    receiver.answer = lambda _: next(answers)
    await fill(store, 2)
    async with open_forwarder(store, sink, guard=guard):
        await drained(store)
    assert guard.told == ["failed: 503", "neutral", "neutral", "succeeded", "succeeded"]


async def test_a_long_wait_gives_the_events_back(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    guard = Permitted(open_for=30.0)
    ids = await fill(store, 250)
    batching = replace(QUICK, lease=1.0, retry_cap=60.0)
    async with open_forwarder(store, sink, guard=guard, batching=batching) as forwarder:
        queue = queue_of(store)

        async def all_back() -> bool:
            status = await queue.status()
            back = status.queued.events == 250 and not forwarder.state.leases
            return back and bool(heard.of(ForwardFailed))

        await until(all_back, within=10, what="the events are back")
        assert [msgspec.json.decode(each)["id"] for each in await queue.peek(250)] == ids
        assert receiver.requests == 0


async def test_stopping_finishes_what_is_being_sent_and_returns_the_rest(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    ids = await fill(store, 500)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_: list[str]) -> int:
        arrived.set()
        await go_on.wait()
        return 200

    receiver.answer = answer
    async with open_forwarder(store, sink) as forwarder:
        await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
        await until(lambda: forwarder.state.leases == 2, within=5, what="the next is prepared")
        forwarder.stop()
        go_on.set()
    assert receiver.ids == ids[:100]
    queue = queue_of(store)
    status = await closed_account(queue)
    assert (status.delivered.events, status.queued.events, status.leases) == (100, 400, 0)
    assert [msgspec.json.decode(each)["id"] for each in await queue.peek(400)] == ids[100:]


async def test_a_receiver_that_hangs_does_not_keep_us_from_stopping(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    ids = await fill(store, 150)
    arrived = asyncio.Event()

    async def answer(_: list[str]) -> int:
        arrived.set()
        await asyncio.sleep(1)
        return 503

    receiver.answer = answer
    guard = Permitted()
    async with open_forwarder(store, sink, guard=guard, batching=replace(QUICK, stop=0.05)):
        await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
    # The permit is given back, and so are the events.
    assert guard.told == ["neutral"]
    queue = queue_of(store)
    assert [msgspec.json.decode(each)["id"] for each in await queue.peek(150)] == ids
    assert (await closed_account(queue)).leases == 0


async def test_leases_outlast_their_time_while_a_receiver_is_slow(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    heard = Heard(store.hub)
    ids = await fill(store, 100)

    async def answer(_: list[str]) -> int:
        await asyncio.sleep(1.0)
        return 200

    receiver.answer = answer
    async with open_forwarder(store, sink, batching=replace(QUICK, lease=0.3)):
        await drained(store)
    assert receiver.ids == ids
    assert [type(each) for each in heard.events] == [Forwarded]


async def test_a_batch_whose_lease_is_lost_is_dropped_and_settled_by_nobody(
    store: Store, sink: LinesSink, receiver: Receiver, server: ValkeyServer
) -> None:
    ids = await fill(store, 50)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_: list[str]) -> int:
        arrived.set()
        await go_on.wait()
        return 200

    receiver.answer = answer
    async with open_forwarder(store, sink, batching=replace(QUICK, lease=0.6)) as forwarder:
        await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
        # As if it had been reaped while this process slept.
        with server.client() as client:
            client.hdel("siem:leases", f"{forwarder.state.worker}.1")
            client.hdel("siem:leases", f"{forwarder.state.worker}.0")
        await until(lambda: forwarder.state.leases == 0, within=5, what="the loss is noticed")
        go_on.set()
        await until(lambda: receiver.batches, within=5, what="the answer came")
    status = await queue_of(store).status()
    assert status.delivered.events == 0
    assert receiver.ids == ids


async def test_a_batch_costs_one_lease_and_one_acknowledgement(
    store: Store, sink: LinesSink, receiver: Receiver, server: ValkeyServer
) -> None:
    async with count_round_trips(server) as (url, counted), open_store(url) as counting:
        await fill(store, 1)
        async with open_forwarder(counting, sink):
            await drained(store)  # connections are open, and the scripts are known
        ids = await fill(store, 1000)
        counted.reset()
        async with open_forwarder(counting, sink, batching=replace(QUICK, age=60, lease=3600)):
            # The last lease finds nothing.
            calls = 10 + 10 + 1
            await until(lambda: counted.commands["evalsha"] >= calls, within=10, what="all is done")
        assert counted.commands["evalsha"] == calls
        assert counted.round_trips <= calls
    assert receiver.ids[1:] == ids


async def test_several_batches_at_once_are_all_delivered(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    ids = await fill(store, 2000)
    under_way, most = 0, 0

    async def answer(_: list[str]) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return 200

    receiver.answer = answer
    async with open_forwarder(store, sink, batching=replace(QUICK, concurrency=4)):
        await drained(store)
    assert sorted(receiver.ids) == sorted(ids)
    assert most == 4


async def test_complaints_reduce_the_batches_under_way(
    store: Store, sink: LinesSink, receiver: Receiver
) -> None:
    await fill(store, 1500)
    under_way: list[int] = []
    now = 0

    async def answer(_: list[str]) -> int:
        nonlocal now
        now += 1
        under_way.append(now)
        await asyncio.sleep(0.005)
        now -= 1
        return 202

    receiver.answer = answer
    batching = replace(QUICK, events=50, concurrency=8)
    async with open_forwarder(store, sink, batching=batching) as forwarder:
        pace = forwarder._sender.pace
        await until(lambda: pace.batches == 1 and pace.gap, within=20, what="it has learned")
    assert under_way[-1] == 1


async def test_a_fault_of_the_sink_is_told_and_costs_time_only(
    store: Store, sink: LinesSink, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(store.hub)
    ids = await fill(store, 10)
    send, calls = sink.send, 0

    async def faulty(entries: object) -> object:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("a bug")
        return await send(entries)  # type: ignore[arg-type]

    monkeypatch.setattr(sink, "send", faulty)
    async with open_forwarder(store, sink):
        await drained(store)
    assert receiver.ids == ids
    assert {each.reason for each in heard.of(ForwardFailed)} == {"the sink failed: RuntimeError"}


async def test_a_permit_is_given_back_when_the_stop_cuts_its_renewal_off(
    store: Store, sink: LinesSink, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Permitted):
        acquired = 0

        async def acquire(self) -> Permitted:
            self.acquired += 1
            return self

    guard, queue, renewals = Counting(), queue_of(store, lease=0.5), 0

    async def renew(_: object) -> None:
        nonlocal renewals
        renewals += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(queue, "renew", renew)
    await fill(store, 1)
    receiver.answer = lambda _: 503
    batching = Batching(age=0.02, retry_cap=0.05, lease=0.5, stop=0.1)
    async with open_forwarder(store, sink, queue=queue, guard=guard, batching=batching):
        # One beside the forwarding, and one before sending again once the lease may have ended.
        await until(lambda: renewals == 2, within=10, what="sending waits for a renewal")
        assert guard.acquired == len(guard.told) + 1
    assert guard.acquired == len(guard.told)
    assert guard.told[-1] == "neutral"


async def test_an_idle_forwarder_asks_seldom(
    store: Store, sink: LinesSink, server: ValkeyServer
) -> None:
    batching = Batching(age=0.1, lease=3600.0)
    async with open_forwarder(store, sink, batching=batching):
        await asyncio.sleep(0.2)
        with server.client() as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            await asyncio.sleep(1.0)
            after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before <= 11


async def test_what_is_no_event_does_not_hide_the_account(store: Store) -> None:
    queue = EventQueue(store, ("main",), BOUNDS, flush_timeout=PATIENCE_SECONDS)
    await put(queue, "main", [b"{"])
    await queue.close()
    status = await closed_account(queue_of(store))
    assert (status.queued.events, status.oldest_seconds) == (1, None)
