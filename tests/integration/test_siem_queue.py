"""The audit queue on a real server: bounded exactly, filled in groups, never out of its account."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import msgspec
import pytest

from sark.errors import AuditError, QueueFullError
from sark.events import AuditAppended, AuditRefused, Hub
from sark.siem import AuditEvent, EventQueue, QueueBounds, QueueStatus
from sark.siem.event import encode_event
from sark.store import Store
from tests.support.gateways import (
    ACCOUNT,
    QUEUE,
    SINKS,
    AppendWork,
    Meeting,
    account,
    assert_account_is_exact,
    audit_event,
    later,
    open_store,
    processes,
    queued,
    raw_events,
    together,
)
from tests.support.polling import until
from tests.support.probe import count_round_trips
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

ROOMY = QueueBounds()


def open_queue(store: Store, bounds: QueueBounds = ROOMY) -> EventQueue:
    return EventQueue(store, SINKS, bounds, flush_timeout=30.0)


@pytest.fixture(scope="module")
def three() -> Iterator[ProcessPoolExecutor]:
    with processes(3) as pool:
        yield pool


def ids_in(server: ValkeyServer) -> list[str]:
    return [event["id"] for event in queued(server)]


async def test_three_processes_fill_it_to_exactly_its_bound_of_entries(
    server: ValkeyServer, three: ProcessPoolExecutor
) -> None:
    meeting = Meeting(server.url, "entries", 3)
    work = AppendWork(meeting, QueueBounds(events=100), tasks=200)
    outcomes = await together(three, 3, work)
    accepted = [each for yes, _ in outcomes for each in yes]
    refused = [each for _, no in outcomes for each in no]
    assert (len(accepted), len(refused)) == (100, 500)
    assert sorted(ids_in(server)) == sorted(accepted)
    assert_account_is_exact(server)


async def test_three_processes_fill_it_to_exactly_its_bound_of_bytes(
    server: ValkeyServer, three: ProcessPoolExecutor
) -> None:
    size = len(encode_event(audit_event(user_id="process-0")))
    bounds = QueueBounds(bytes=50 * size + size // 2)
    work = AppendWork(Meeting(server.url, "bytes", 3), bounds, tasks=200)
    outcomes = await together(three, 3, work)
    accepted = [each for yes, _ in outcomes for each in yes]
    assert len(accepted) == 50
    assert sorted(ids_in(server)) == sorted(accepted)
    assert account(server)["queued_bytes"] <= bounds.bytes
    assert_account_is_exact(server)


async def test_an_event_is_in_the_queue_when_its_append_returns(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = open_queue(store)

        async def append(number: int) -> None:
            for turn in range(5):
                event = audit_event(user_id=f"{number}-{turn}")
                await queue.append(event, deadline=later())
                there = await store.state.execute("LPOS", QUEUE, encode_event(event))
                assert there is not None

        await asyncio.gather(*(append(number) for number in range(20)))
        await queue.close()
    assert len(queued(server)) == 100


async def test_what_is_stored_is_the_event_as_it_was_given(server: ValkeyServer) -> None:
    event = audit_event(user_id='ü"\n\x00', context={"a": [None, 1.5, "\u2028"]}, ip="::1")
    async with open_store(server.url) as store:
        queue = open_queue(store)
        await queue.append(event, deadline=later())
        await queue.close()
    assert raw_events(server) == [encode_event(event)]
    assert msgspec.json.decode(raw_events(server)[0], type=AuditEvent) == event


async def test_concurrent_appends_share_commands(server: ValkeyServer) -> None:
    async with count_round_trips(server) as (url, counts), open_store(url) as store:
        queue = open_queue(store)
        await queue.append(audit_event(), deadline=later())
        counts.reset()
        await asyncio.gather(*(queue.append(audit_event(), deadline=later()) for _ in range(50)))
        assert counts.commands["evalsha"] <= 2
        assert counts.round_trips <= 2
        counts.reset()
        await queue.append(audit_event(), deadline=later())
        assert counts.round_trips == 1
        await queue.close()
    assert len(queued(server)) == 52


async def test_each_callers_events_keep_their_order(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = open_queue(store)

        async def append(caller: int) -> None:
            for turn in range(25):
                await queue.append(
                    audit_event(user_id=str(caller), reason=str(turn)), deadline=later()
                )

        await asyncio.gather(*(append(caller) for caller in range(12)))
        await queue.close()
    events = queued(server)
    for caller in range(12):
        mine = [int(event["reason"]) for event in events if event["user_id"] == str(caller)]
        assert mine == list(range(25))


async def test_a_crowd_larger_than_one_command_may_carry_gets_in_in_order(
    server: ValkeyServer,
) -> None:
    hub, groups = Hub(), list[AuditAppended]()
    hub.on(AuditAppended, groups.append)
    async with open_store(server.url, hub=hub) as store:
        queue = open_queue(store)
        await asyncio.gather(
            *(queue.append(audit_event(reason=str(n)), deadline=later()) for n in range(2500))
        )
        big = "x" * 200_000
        await asyncio.gather(
            *(queue.append(audit_event(reason=big), deadline=later()) for _ in range(12))
        )
        await queue.close()
    assert [event["reason"] for event in queued(server)] == [*map(str, range(2500)), *[big] * 12]
    assert max(group.events for group in groups) <= 1000
    assert max(group.bytes for group in groups) <= 1_048_576
    assert sum(group.events for group in groups) == 2512
    assert_account_is_exact(server)


async def test_an_event_larger_than_a_group_goes_alone(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = open_queue(store)
        await queue.append(audit_event(reason="x" * 3_000_000), deadline=later())
        await queue.close()
    assert_account_is_exact(server)


@pytest.mark.parametrize("room", [0, 1, 4, 10])
async def test_a_full_queue_refuses_exactly_those_that_do_not_fit(
    server: ValkeyServer, room: int
) -> None:
    hub, refusals = Hub(), list[AuditRefused]()
    hub.on(AuditRefused, refusals.append)
    async with open_store(server.url, hub=hub) as store:
        queue = open_queue(store, QueueBounds(events=5 + room))
        for _ in range(5):
            await queue.append(audit_event(), deadline=later())
        events = [audit_event() for _ in range(10)]
        outcomes = await asyncio.gather(
            *(queue.append(event, deadline=later()) for event in events), return_exceptions=True
        )
        await queue.close()
    assert outcomes[:room] == [None] * room
    errors = outcomes[room:]
    assert all(type(error) is QueueFullError for error in errors)
    assert len({id(error) for error in errors}) == 10 - room
    assert all(isinstance(error, AuditError) and error.retry_after >= 1 for error in errors)
    assert ids_in(server)[5:] == [event.id for event in events[:room]]
    assert sum(refusal.events for refusal in refusals) == 10 - room
    assert {refusal.reason for refusal in refusals} <= {"full"}
    assert_account_is_exact(server)


async def test_the_bound_of_bytes_is_exact_to_the_byte(server: ValkeyServer) -> None:
    event = audit_event()
    size = len(encode_event(event))
    async with open_store(server.url) as store:
        queue = open_queue(store, QueueBounds(bytes=2 * size))
        await queue.append(event, deadline=later())
        with pytest.raises(QueueFullError):
            await queue.append(audit_event(reason=event.reason + "!"), deadline=later())
        await queue.append(event, deadline=later())
        with pytest.raises(QueueFullError):
            await queue.append(audit_event(reason=""), deadline=later())
        assert (await queue.status()).queued_bytes == 2 * size
        await queue.purge()
        await queue.append(event, deadline=later())
        await queue.close()


def in_flight(store: Store) -> bool:
    return store.state.pool_stats().in_use > 0


async def test_a_cancelled_caller_does_not_take_the_group_along(server: ValkeyServer) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_store(proxy.url(server.password)) as store,
    ):
        queue = open_queue(store)
        await queue.append(audit_event(), deadline=later())
        proxy.blackhole()
        flying = [audit_event(reason="flying") for _ in range(10)]
        tasks = [asyncio.create_task(queue.append(e, deadline=later())) for e in flying]
        # The first group has left: whoever comes now waits for the next.
        await until(lambda: in_flight(store), within=5, what="the group was sent")
        assert queue._pending == []
        waiting = [audit_event(reason="waiting") for _ in range(10)]
        tasks += [asyncio.create_task(queue.append(e, deadline=later())) for e in waiting]
        await until(lambda: len(queue._pending) == 10, within=5, what="ten are waiting")
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks[::2])
        await proxy.forward()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await queue.close()
    assert outcomes[1::2] == [None] * 10
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    stored = ids_in(server)[1:]
    assert stored[:10] == [event.id for event in flying]
    assert stored[10:] == [event.id for event in waiting[1::2]]
    assert_account_is_exact(server)


async def test_a_caller_whose_time_is_up_gets_an_error_and_the_rest_goes_on(
    server: ValkeyServer,
) -> None:
    hub, refusals = Hub(), list[AuditRefused]()
    hub.on(AuditRefused, refusals.append)
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_store(proxy.url(server.password), hub=hub) as store,
    ):
        queue = open_queue(store)
        await queue.append(audit_event(), deadline=later())
        proxy.blackhole()
        patient = asyncio.create_task(queue.append(audit_event(), deadline=later()))
        began = later(0)
        with pytest.raises(AuditError, match="not accepted in time"):
            await queue.append(audit_event(), deadline=began + 0.1)
        assert 0.1 <= later(0) - began < 2
        with pytest.raises(AuditError):
            await queue.append(audit_event(), deadline=began)
        await proxy.forward()
        await patient
        await queue.append(audit_event(), deadline=later())
        await queue.close()
    assert [refusal.reason for refusal in refusals] == ["unavailable"] * 2
    assert_account_is_exact(server)


async def test_a_server_that_answers_with_an_error_is_an_audit_error(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        queue = open_queue(store)
        with server.client() as client:
            client.set(QUEUE, "no list", ex=60)
        outcomes = await asyncio.gather(
            *(queue.append(audit_event(), deadline=later()) for _ in range(3)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [AuditError] * 3
        with server.client() as client:
            client.delete(QUEUE)
        await queue.append(audit_event(), deadline=later())
        await queue.close()
    assert_account_is_exact(server)


async def test_a_purge_drops_everything_and_books_it(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = open_queue(store)
        assert await queue.status() == QueueStatus(0, 0, 0, 0)
        assert await queue.purge() == 0
        await asyncio.gather(*(queue.append(audit_event(), deadline=later()) for _ in range(2300)))
        before = await queue.status()
        assert (before.queued, before.accepted, before.purged) == (2300, 2300, 0)
        assert before.queued_bytes == sum(map(len, raw_events(server)))
        assert await queue.purge() == 2300
        assert await queue.status() == QueueStatus(0, 0, 2300, 2300)
        await queue.append(audit_event(), deadline=later())
        assert (await queue.status()).accepted == 2301
        await queue.close()
    assert_account_is_exact(server)


async def test_closing_sends_what_is_pending(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = open_queue(store)
        tasks = [
            asyncio.create_task(queue.append(audit_event(), deadline=later())) for _ in range(20)
        ]
        await asyncio.sleep(0)  # lets each of them hand its event over
        await queue.close()
        assert len(ids_in(server)) == 20
        await asyncio.gather(*tasks)
        await queue.close()
        await queue.append(audit_event(), deadline=later())
        assert len(ids_in(server)) == 21
        await queue.close()


async def test_a_queue_that_was_never_used_closes(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        await open_queue(store).close()


async def test_the_queues_keys_are_the_guides(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        queue = open_queue(store)
        await queue.append(audit_event(), deadline=later())
        await queue.close()
    with server.client() as client:
        assert {key.decode() for key in client.scan_iter()} == {QUEUE, ACCOUNT}
        assert client.ttl(QUEUE) == client.ttl(ACCOUNT) == -1
