"""A replica that falls behind, and a primary that is lost: what was acknowledged is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sark.events import AuditSpilled, Hub
from sark.parts.background import background
from sark.siem import EventQueue, QueueBounds, Refusals
from sark.siem.event import encode_event
from sark.siem.spill import Replay, Spill
from sark.store import Store
from tests.support.gateways import SINKS, audit_event, later, open_store
from tests.support.leases import contents, open_sink
from tests.support.polling import until
from tests.support.replicas import AT_ONCE, follow, linked
from tests.support.servers import ValkeyServer
from tests.support.spills import MAIN, open_spill, stored

StartServer = Callable[..., ValkeyServer]

WAIT_SECONDS = 0.4
CALLERS = 10
LAPSES = 3


def queue_of(store: Store, spill: Spill, *, replicas: int) -> EventQueue:
    return EventQueue(
        store, SINKS, QueueBounds(), flush_timeout=WAIT_SECONDS, replicas=replicas, spill=spill
    )


@asynccontextmanager
async def replaying(queue: EventQueue, spill: Spill) -> AsyncIterator[list[int]]:
    """Replay beside the block, which is given how many events each attempt had."""
    attempts: list[int] = []

    async def put_back(sink: str, events: Sequence[bytes], *, copies: bool) -> int:
        attempts.append(len(events))
        return await queue.put_back(sink, events, copies=copies)

    replay = Replay(spill, put_back, sinks=SINKS, hub=Hub())
    async with background(replay.run(), "replay"):
        yield attempts


async def test_an_event_that_no_replica_has_is_spilled_as_well(
    private_server: StartServer, tmp_path: Path
) -> None:
    primary, replica = private_server(AT_ONCE), private_server()
    follow(replica, primary)
    await linked(replica)
    hub, spilled = Hub(), list[AuditSpilled]()
    hub.on(AuditSpilled, spilled.append)
    first, second = audit_event(), audit_event()
    async with open_store(primary.url, hub=hub) as store, open_spill(tmp_path) as spill:
        queue = queue_of(store, spill, replicas=1)
        await queue.append(first, deadline=later())
        assert contents(replica) == [encode_event(first)]
        assert spilled == []

        replica.kill()
        await queue.append(second, deadline=later())
        assert contents(primary) == [encode_event(first), encode_event(second)]
        assert spilled == [AuditSpilled(MAIN, 1, "replication")]

        async with replaying(queue, spill) as attempts:
            await until(lambda: len(attempts) > 2, within=20, what="the replay has tried")
            replica.start()
            follow(replica, primary)
            await until(lambda: not spill.waits(MAIN), within=20, what="the copy was replayed")
        # However long the replica was away, there is one copy.
        assert contents(replica) == [encode_event(each) for each in (first, second, second)]
        status = await open_sink(store).status()
        await queue.close()
    assert (status.accepted.events, status.duplicates.events) == (2, 1)
    assert status.balanced


async def test_a_refusal_that_no_replica_has_is_spilled_as_well(
    private_server: StartServer, tmp_path: Path
) -> None:
    primary, replica = private_server(AT_ONCE), private_server()
    follow(replica, primary)
    await linked(replica)
    async with open_store(primary.url) as store, open_spill(tmp_path) as spill:
        refusals = Refusals(store, SINKS, QueueBounds(), replicas=1, spill=spill)

        async def refuse(name: str) -> bytes:
            event = audit_event(type="refusal", allow=False, reason="rate_limit:user")
            recorded_as = await refusals.record(
                name,
                event,
                identity=f"user:{name}",
                seconds_left=600,
                deadline=later(WAIT_SECONDS),
            )
            assert recorded_as == event.id
            return encode_event(event)

        first = await refuse("alice")
        assert contents(replica) == [first]
        assert stored(tmp_path) == []
        replica.kill()
        second = await refuse("bob")
        assert contents(primary) == [first, second]
        assert stored(tmp_path) == [(MAIN, second)]
        await refusals.close()


async def test_a_lost_primary_loses_nothing_that_was_acknowledged(
    private_server: StartServer, tmp_path: Path
) -> None:
    """Its replica is made the primary, as a failover does, and what was spilled goes there."""
    primary, replica = private_server(AT_ONCE), private_server()
    follow(replica, primary)
    await linked(replica)
    acknowledged: list[bytes] = []
    lost = asyncio.Event()

    async def append(queue: EventQueue) -> None:
        while not lost.is_set():
            event = audit_event()
            await queue.append(event, deadline=later())
            acknowledged.append(encode_event(event))

    async def grow() -> None:
        goal = len(acknowledged) + 10 * CALLERS
        await until(lambda: len(acknowledged) > goal, within=20, what="events are acknowledged")

    async with open_spill(tmp_path) as spill:
        async with open_store(primary.url) as store:
            queue = queue_of(store, spill, replicas=1)
            async with asyncio.TaskGroup() as group, replaying(queue, spill):
                for _ in range(CALLERS):
                    group.create_task(append(queue))
                for _ in range(LAPSES):
                    await grow()
                    with replica.paused():
                        await grow()
                with replica.paused():
                    await grow()
                    primary.kill()
                    await grow()
                lost.set()
            await queue.close()
        replica.client().replicaof("NO", "ONE")
        async with open_store(replica.url) as store:
            queue = queue_of(store, spill, replicas=0)
            async with replaying(queue, spill):
                await until(lambda: not spill.waits(MAIN), within=20, what="all was replayed")
            assert (await open_sink(store).status()).balanced
            await queue.close()
    assert set(acknowledged) - set(contents(replica)) == set()
