"""Whatever is killed, stopped and refused: every acknowledged event arrives, and the account closes.

``FAULT_RUN_SECONDS`` lets the faults last longer than 45 s, ``FAULT_RUN_SEED`` repeats a run's.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from sark.events import Hub
from sark.parts.spill import open_queue, open_spill
from sark.settings import Settings
from sark.siem import QueueBounds, SinkQueue, SinkStatus
from sark.siem.spill import SpillFolder, SpillStatus
from sark.store import Store
from tests.support.fault_run import COPY, LEASE_SECONDS, MAIN, QUEUE_EVENTS, open_fault_run
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.spills import assert_account_closes

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("FAULT_RUN_SECONDS", "45"))
SEED = int(os.environ.get("FAULT_RUN_SEED") or secrets.randbits(32))
HEALED_SECONDS = 120.0
SINKS = (MAIN, COPY)


class _Event(msgspec.Struct):
    id: str


class _Received(msgspec.Struct):
    """What the collector writes has the event in it; the file has the event itself."""

    event: _Event | None = None
    id: str = ""


_decode = msgspec.json.Decoder(_Received).decode


def count_ids(lines: list[bytes]) -> Counter[str]:
    """Count how often each event is among the lines, leaving out those that are torn."""
    ids = Counter[str]()
    for line in lines:
        try:
            found = _decode(line)
        except msgspec.MsgspecError:
            continue
        ids[found.event.id if found.event else found.id] += 1
    return ids


async def test_every_acknowledged_event_arrives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(f"\nfault run of {SECONDS:g} s, FAULT_RUN_SEED={SEED}")  # noqa: T201
    with open_fault_run(tmp_path, SEED) as run:
        await run.torment(SECONDS)
        await run.heal()
        statuses = await drain(run.server.url, run.spill)
        received = {sink: count_ids(lines) for sink, lines in run.received.items()}
        acknowledged = {event for each in run.producers for event in each.acknowledged}
        refused = sum(each.refused for each in run.producers)
        spilled = assert_account_closes(run.spill)
    with capsys.disabled():
        print(dict(run.done))
        print("acknowledged", len(acknowledged), "refused", refused)
        for sink in SINKS:
            r = received[sink]
            print(sink, "distinct", len(r), "again", r.total() - len(r), "missing", len(acknowledged - r.keys()))
            print(statuses[sink])
            print(spilled.get(sink))
    for sink in SINKS:
        assert acknowledged - received[sink].keys() == set(), f"lost on the way to {sink}"
        assert statuses[sink].balanced


async def drain(url: str, spill: Path) -> dict[str, SinkStatus]:
    """Replay what producers have left in their spill files, until all of it is delivered.

    What a 413 has made a dead letter was an event that was sent alone: it is replayed as well.
    """
    settings = Settings(spill_dir=spill, siem_max_events=QUEUE_EVENTS)
    settings = settings.model_copy(update={"siem_sinks": None})
    bounds = QueueBounds(QUEUE_EVENTS)
    async with open_store(url) as store:
        queues = {s: SinkQueue(store, s, bounds, lease=LEASE_SECONDS, most_expiries=5) for s in SINKS}
        letters = Counter()

        async def is_drained() -> bool:
            if list(spill.glob("spill-*.db")):
                return False
            for q in queues.values():
                for l in await q.failed(1000):
                    head = l.split(b',"event":')[0]
                    letters[q.sink, head] += 1
                await q.replay(1000)
            found = [await queue.status() for queue in queues.values()]
            return not any(s.queued.events or s.in_flight.events or s.failed.events for s in found)

        async with heir(settings, store) :
            try:
                await until(is_drained, within=HEALED_SECONDS, what="all is delivered")
            except AssertionError as e:
                print(e)
        print(letters)
        return {sink: await queue.status() for sink, queue in queues.items()}


import contextlib
from sark.siem import EventQueue
from sark.siem.spill import Replay
from sark.parts.background import background

@contextlib.asynccontextmanager
async def heir(settings, store):
    async with open_spill(settings, store.hub) as spill:
        queue = EventQueue(store, SINKS, QueueBounds(QUEUE_EVENTS), flush_timeout=1.0, spill=spill)
        try:
            async with background(Replay(spill, queue.put_back, sinks=SINKS, hub=store.hub).run(), "heir"):
                yield
        finally:
            await queue.close()
