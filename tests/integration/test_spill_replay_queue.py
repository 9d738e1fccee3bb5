"""Spilling and replaying with the real queue, and commands that spill."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from sark.events import AuditReplayed, AuditSpilled, Hub
from sark.parts.admission import open_admission
from sark.settings import Settings, load
from sark.siem import EventQueue, QueueBounds
from sark.siem.spill import Replay, Spill
from tests.support.gateways import (
    assert_account_is_exact,
    audit_event,
    later,
    open_store,
    queued,
)
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import write_policies
from tests.support.spills import MAIN, assert_account_closes, open_spill, stored

HEALS = 10.0


@contextlib.asynccontextmanager
async def open_queue(
    server: ValkeyServer, spill: Spill, hub: Hub, *, events: int = 100_000
) -> AsyncIterator[EventQueue]:
    """Open a queue that spills, and replay."""
    async with open_store(server.url, hub=hub) as store:
        queue = EventQueue(store, [MAIN], QueueBounds(events), flush_timeout=0.25, spill=spill)
        replay = asyncio.create_task(Replay(spill, queue.put_back, sinks=[MAIN], hub=hub).run())
        try:
            yield queue
        finally:
            replay.cancel()
            await asyncio.gather(replay, return_exceptions=True)
            await queue.close()


async def test_a_full_queue_spills_and_takes_the_rest_in_order(
    server: ValkeyServer, tmp_path: Path
) -> None:
    hub, spilled, replayed = Hub(), list[AuditSpilled](), list[AuditReplayed]()
    hub.on(AuditSpilled, spilled.append)
    hub.on(AuditReplayed, replayed.append)
    events = [audit_event(reason=str(number)) for number in range(500)]
    taken: list[str] = []
    async with (
        open_spill(tmp_path, hub=hub) as spill,
        open_queue(server, spill, hub, events=100) as queue,
    ):
        for event in events:
            await queue.append(event, deadline=later())
        assert len(queued(server)) == 100
        assert len(stored(tmp_path)) == 400
        assert {event.reason for event in spilled} == {"full", "behind"}

        def drain() -> bool:
            with server.client() as client:
                found = queued(server)
                client.ltrim("siem:event_queue", len(found), -1)
                client.hset("siem:account", "queued_bytes", 0)
            taken.extend(event["id"] for event in found)
            return len(taken) == len(events)

        await until(drain, within=20, what="everything has passed the queue")
        await until(
            lambda: sum(event.events for event in replayed) == 400, within=5, what="it is booked"
        )
        assert not spill.waits(MAIN)
    assert taken == [event.id for event in events]
    assert assert_account_closes(tmp_path)[MAIN].replayed == 400


async def test_callers_who_never_pause_do_not_keep_the_disk_busy_for_ever(
    private_server: Callable[..., ValkeyServer], tmp_path: Path
) -> None:
    own, hub = private_server(), Hub()
    appended: list[list[str]] = [[] for _ in range(50)]
    async with open_spill(tmp_path, hub=hub, max_bytes=2**26) as spill:
        async with open_queue(own, spill, hub, events=10**6) as queue:
            over = False

            async def keep_appending(ids: list[str]) -> None:
                while not over:
                    event = audit_event()
                    await queue.append(event, deadline=later(1))
                    ids.append(event.id)

            callers = [asyncio.create_task(keep_appending(ids)) for ids in appended]
            own.kill()
            await until(lambda: spill.waits(MAIN), within=HEALS, what="events are spilled")
            goal = sum(map(len, appended)) + 2000
            await until(lambda: sum(map(len, appended)) >= goal, within=20, what="many are spilled")
            own.start()
            await until(lambda: not spill.waits(MAIN), within=20, what="nothing waits any more")
            over = True
            await asyncio.gather(*callers)
            await until(lambda: not spill.waits(MAIN), within=20, what="all is in the queue")
        places = {event["id"]: place for place, event in enumerate(queued(own))}
        assert_account_is_exact(own)
    for ids in appended:
        # Those from before the kill are gone with the server's memory; the others are in order.
        kept = [places[each] for each in ids if each in places]
        assert kept == sorted(kept)
        assert set(ids[-10:]) <= places.keys()
    assert_account_closes(tmp_path)


async def test_a_command_leaves_what_the_queue_does_not_take(
    server: ValkeyServer, tmp_path: Path
) -> None:
    settings = load(
        {
            "VALKEY_URL": str(server.url),
            "SARK_KEY_DIR": str(tmp_path / "keys"),
            "SARK_DATA_DIR": str(tmp_path / "data"),
            "SARK_POLICY_DIR": str(write_policies(tmp_path / "policies")),
            "SARK_SIEM_MAX_EVENTS": "1",
        }
    )
    folder = tmp_path / "data" / "spill"
    async with open_admission(settings) as (admission, _):
        for user in ("ann", "bob", "eve"):
            await admission.revoke_user(user, by="admin")
    assert len(queued(server)) == 1
    assert len(stored(folder)) == 2
    more = Settings.model_validate({**settings.model_dump(), "siem_max_events": 10})
    async with open_admission(more):
        await until(lambda: len(queued(server)) == 3, within=HEALS, what="another one queues it")
    assert [event["user_id"] for event in queued(server)] == ["ann", "bob", "eve"]
    assert stored(folder) == []
    assert_account_closes(folder)
