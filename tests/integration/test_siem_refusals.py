"""Refusals: the first of a window is an event, the repeats are one more, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sark.errors import AuditError, LimitExceededError, QueueFullError, StoreError
from sark.ratelimit import Limit
from sark.siem import AuditEvent, EventQueue, QueueBounds, Refusals
from tests.support.gateways import (
    SINKS,
    CloseWork,
    Meeting,
    RefuseWork,
    ask,
    assert_account_is_exact,
    audit_event,
    later,
    open_gateway,
    open_store,
    processes,
    queued,
    together,
)
from tests.support.polling import until
from tests.support.servers import ValkeyServer

ROOMY = QueueBounds()
DUE = "siem:refusals:due"
RECORDS = ("siem:refusals", "siem:refusals:count", DUE)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def three() -> Iterator[ProcessPoolExecutor]:
    with processes(3) as pool:
        yield pool


async def refuse(
    refusals: Refusals, name: str = "alice", *, seconds: float = 600, **fields: Any
) -> tuple[AuditEvent, str]:
    event = audit_event(**{"type": "refusal", "allow": False, "reason": "rate_limit:user"} | fields)
    recorded_as = await refusals.record(
        name, event, identity=f"user:{name}", seconds_left=seconds, deadline=later()
    )
    return event, recorded_as


def end_windows(server: ValkeyServer) -> None:
    """Let every window have ended, as if the time had passed."""
    with server.client() as client:
        for name in client.zrange(DUE, 0, -1):
            client.zadd(DUE, {name: 1}, xx=True)


def records(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(client.exists(*RECORDS))


async def test_the_first_is_an_event_and_the_repeats_are_counted(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        event, first = await refuse(refusals)
        assert first == event.id
        assert [each["id"] for each in queued(server)] == [event.id]
        for _ in range(4):
            other, recorded_as = await refuse(refusals)
            assert recorded_as == event.id != other.id
        assert len(queued(server)) == 1
        assert await refusals.close_due() == 0
        assert len(queued(server)) == 1
        end_windows(server)
        before = datetime.now(UTC)
        assert await refusals.close_due() == 1
        assert await refusals.close_due() == 0
    closing = queued(server)[1]
    assert UUID(closing["id"]).version == 7
    assert closing["id"] > event.id
    assert abs((datetime.fromisoformat(closing["time"]) - before).total_seconds()) < 30
    assert {key: closing[key] for key in closing.keys() - {"id", "time"}} == {
        "first_id": event.id,
        "identity": "user:alice",
        "reason": "rate_limit:user",
        "policy": "authz",
        "user_id": "alice",
        "type": "refusals",
        "count": 4,
        "v": 1,
    }
    assert records(server) == 0
    assert_account_is_exact(server)


async def test_a_lone_refusal_has_no_closing_event_and_leaves_nothing(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        await refuse(refusals)
        end_windows(server)
        assert await refusals.close_due() == 1
    assert len(queued(server)) == 1
    assert records(server) == 0


@pytest.mark.heavy
async def test_three_processes_record_one_first_and_one_closing_event(
    server: ValkeyServer, three: ProcessPoolExecutor
) -> None:
    work = RefuseWork(Meeting(server.url, "refuse", 3), "alice", tasks=100, seconds=600)
    ids = [each for part in await together(three, 3, work) for each in part]
    assert len(ids) == 300
    assert len(set(ids)) == 1
    assert [event["id"] for event in queued(server)] == [ids[0]]
    end_windows(server)
    closed = await together(three, 3, CloseWork(Meeting(server.url, "close", 3), seconds=0.3))
    assert sum(closed) == 1
    first, closing = queued(server)
    assert (first["id"], closing["first_id"], closing["count"]) == (ids[0], ids[0], 299)
    assert records(server) == 0
    assert_account_is_exact(server)


async def test_a_window_is_closed_by_itself_when_it_has_ended(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        closer = asyncio.create_task(refusals.close_due_forever(interval=0.02))
        for _ in range(3):
            await refuse(refusals, seconds=0.5)
        assert len(queued(server)) == 1
        await until(lambda: len(queued(server)) == 2, within=5, what="the window was closed")
        closer.cancel()
        await asyncio.gather(closer, return_exceptions=True)
    assert queued(server)[1]["count"] == 2


async def test_the_next_window_begins_with_an_event_of_its_own(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        _, first = await refuse(refusals)
        await refuse(refusals)
        end_windows(server)
        event, second = await refuse(refusals)
        assert second == event.id != first
        assert (await refuse(refusals))[1] == second
    events = queued(server)
    assert [event["type"] for event in events] == ["refusal", "refusals", "refusal"]
    assert (events[1]["first_id"], events[1]["count"]) == (first, 1)
    assert UUID(events[1]["id"]).version == 7
    assert len({event["id"] for event in events}) == 3


async def test_identities_are_recorded_apart(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        names = ["a", "A", "a ", "*", "é", "e\u0301", 'a"', "a:60"]
        for times, name in enumerate(names, start=1):
            for _ in range(times):
                await refuse(refusals, name)
        assert len(queued(server)) == len(names)
        end_windows(server)
        assert await refusals.close_due() == len(names)
    closing = queued(server)[len(names) :]
    assert {event["identity"]: event["count"] for event in closing} == {
        f"user:{name}": times for times, name in enumerate(names) if times
    }


async def test_hundreds_of_windows_are_closed_in_one_go(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        await asyncio.gather(*(refuse(refusals, f"u-{n % 250}") for n in range(500)))
        end_windows(server)
        assert await refusals.close_due() == 250
    events = queued(server)
    assert len(events) == 500
    assert len({event["id"] for event in events}) == 500
    assert records(server) == 0


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT.filter(bool), TEXT, TEXT, TEXT)
@example('a"b\\', '"}', "\n\r\x00", "\u2028\ud7ff\U0001f600")
@example('","count":9,"x":"', "%s%d", '{"a":1}', "\\")
@example(" ", ",", "}", "]")
def test_any_text_makes_events_that_can_be_read(
    server: ValkeyServer, name: str, user: str, reason: str, resource: str
) -> None:
    async def run() -> list[dict[str, Any]]:
        async with open_store(server.url) as store:
            refusals = Refusals(store, SINKS, ROOMY)
            for _ in range(3):
                await refuse(refusals, name, user_id=user, reason=reason, resource=resource)
            end_windows(server)
            assert await refusals.close_due() == 1
            events = queued(server)
            await EventQueue(store, SINKS, ROOMY, flush_timeout=30).purge()
            return events

    first, closing = asyncio.run(run())
    assert (first["user_id"], first["reason"], first["resource"]) == (user, reason, resource)
    assert (closing["user_id"], closing["reason"]) == (user, reason)
    assert closing["identity"] == f"user:{name}"
    assert (closing["count"], closing["first_id"]) == (2, first["id"])


async def test_a_full_queue_keeps_the_record_and_closes_it_later(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, QueueBounds(events=1))
        event, _ = await refuse(refusals)
        for _ in range(3):
            assert (await refuse(refusals))[1] == event.id  # a repeat needs no room
        end_windows(server)
        for _ in range(2):
            assert await refusals.close_due() == 0
        assert len(queued(server)) == 1
        # The window has ended, so this would be a first one, for which there is no room either.
        with pytest.raises(QueueFullError):
            await refuse(refusals)
        await EventQueue(store, SINKS, ROOMY, flush_timeout=30).purge()
        assert await refusals.close_due() == 1
        assert await refusals.close_due() == 0
    closing = queued(server)
    assert [(each["first_id"], each["count"]) for each in closing] == [(event.id, 3)]
    assert records(server) == 0
    assert_account_is_exact(server)


async def test_without_room_for_the_first_nothing_is_recorded(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        for bounds in (QueueBounds(events=1), QueueBounds(bytes=400)):
            queue = EventQueue(store, SINKS, ROOMY, flush_timeout=30)
            await queue.purge()
            await queue.append(audit_event(), deadline=later())
            refusals = Refusals(store, SINKS, bounds)
            for _ in range(2):
                with pytest.raises(QueueFullError):
                    await refuse(refusals)
            assert records(server) == 0
            await queue.close()
    assert_account_is_exact(server)


async def test_a_flood_leaves_two_events(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=Limit(2, window_seconds=600)) as gateway:
        for _ in range(2):
            await gateway.authorize(ask())
        await gateway.queue.purge()
        ids = set[str]()

        async def knock() -> None:
            with pytest.raises(LimitExceededError) as caught:
                await gateway.authorize(ask())
            ids.add(caught.value.decision_id)

        for _ in range(50):
            await asyncio.gather(*(knock() for _ in range(100)))
        assert len(ids) == 1
        assert [event["id"] for event in queued(server)] == list(ids)
        end_windows(server)
        await gateway.refusals.close_due()
    first, closing = queued(server)
    assert (first["type"], closing["type"], closing["count"]) == ("refusal", "refusals", 4999)
    assert records(server) == 0


async def test_a_record_ends_with_the_window_of_its_own_identity(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=Limit(1)) as gateway:
        await gateway.authorize(ask(ip="10.0.0.1"))
        with server.client() as client:
            client.pexpire("ratelimit:user:alice:60", 20_300)
            with pytest.raises(LimitExceededError) as caught:
                await gateway.authorize(ask(ip="10.0.0.1"))
            assert caught.value.kind == "user"
            assert caught.value.retry_after in (59, 60)
            now: Any = client.time()
            (_, due), *rest = client.zrange(DUE, 0, -1, withscores=True)
        assert rest == []
        left = due - (now[0] * 1000 + now[1] / 1000)
        assert 15_000 < left <= 20_400


async def test_a_server_that_does_not_answer_is_an_audit_error(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        with server.client() as client:
            client.set("siem:refusals", "x", ex=60)
            with pytest.raises(AuditError):
                await refuse(refusals)
            client.delete("siem:refusals")
        await refuse(refusals)


async def test_the_closer_goes_on_after_the_server_was_away(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        refusals = Refusals(store, SINKS, ROOMY)
        await refuse(refusals)
        await refuse(refusals)
        end_windows(server)
        failures = 0
        close_due = refusals.close_due

        async def away() -> int:
            nonlocal failures
            failures += 1
            if failures < 3:
                raise StoreError("away")
            return await close_due()

        refusals.close_due = away  # type: ignore[method-assign]
        closer = asyncio.create_task(refusals.close_due_forever(interval=0.005))
        await until(lambda: len(queued(server)) == 2, within=5, what="the window was closed")
        closer.cancel()
        await asyncio.gather(closer, return_exceptions=True)
