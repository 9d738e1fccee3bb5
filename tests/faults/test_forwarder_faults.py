"""Workers that are killed, a Valkey that goes away: what was acknowledged arrives all the same."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from sark.store import Store
from tests.support.forwarders import (
    PATIENCE_SECONDS,
    QUICK,
    closed_account,
    fill,
    is_drained,
    open_forwarder,
    queue_of,
)
from tests.support.gateways import open_store
from tests.support.line_receiver import LinesSink, Receiver, open_receiver
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.workers import Worker

BATCH = 50


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as started:
        yield started


@pytest.fixture
async def store(server: ValkeyServer) -> AsyncIterator[Store]:
    async with open_store(server.url) as opened:
        yield opened


def worker(
    directory: Path, server: ValkeyServer, receiver: Receiver, *arguments: str, **variables: object
) -> Worker:
    """Make a worker with small batches and short leases."""
    given = {"SARK_SIEM_BATCH_EVENTS": BATCH, "SARK_SIEM_LEASE": 1, **variables}
    sinks = f"webhook+{receiver.url}?body=ndjson&format=sark"
    return Worker(directory, server.url, sinks, *arguments, **given)


async def slowly(_: list[str]) -> int:
    await asyncio.sleep(random.uniform(0, 0.05))
    return 200


@pytest.mark.heavy
async def test_workers_of_several_processes_share_a_queue_and_one_may_be_killed(
    store: Store, server: ValkeyServer, receiver: Receiver, tmp_path: Path
) -> None:
    ids = await fill(store, 1000)
    go_on = asyncio.Event()
    under_way = 0

    async def answer(batch: list[str]) -> int:
        nonlocal under_way
        under_way += 1
        await go_on.wait()
        return await slowly(batch)

    receiver.answer = answer
    queue = queue_of(store, lease=1.0)
    victim, survivor = (worker(tmp_path / name, server, receiver) for name in ("a", "b"))
    with victim, survivor:
        await until(lambda: under_way == 2, within=PATIENCE_SECONDS, what="both are sending")
        victim.process.kill()
        go_on.set()
        await until(lambda: is_drained(queue), within=PATIENCE_SECONDS, what="all are delivered")
        assert await asyncio.to_thread(survivor.stop) == 0
    assert set(receiver.ids) == set(ids)
    # At most what the killed worker was sending comes twice.
    assert receiver.duplicates <= BATCH
    status = await closed_account(queue)
    assert (status.delivered, status.failed.events, status.leases) == (status.accepted, 0, 0)


async def test_a_worker_stops_in_order_and_tells_its_state(
    store: Store, server: ValkeyServer, receiver: Receiver, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    receiver.answer = slowly
    ids = await fill(store, 1000)
    with worker(tmp_path, server, receiver, "--metrics-port", str(port)) as running:
        await until(lambda: receiver.batches, within=PATIENCE_SECONDS, what="events flow")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.get("/metrics") as response:
                text = await response.text()
            assert 'sark_siem_account_events{entry="accepted",sink="main"} 1000.0' in text
            assert 'sark_breaker_state{breaker="siem",state="closed"} 1.0' in text
            async with http.get("/health/ready") as response:
                report = await response.json()
        assert report["ready"]
        assert report["sinks"]["main"]["paused"] == []
        assert await asyncio.to_thread(running.stop) == 0
        assert "stopping" in running.stderr
    queue = queue_of(store)
    status = await closed_account(queue)
    assert status.leases == 0
    assert receiver.ids == ids[: status.delivered.events]
    assert status.delivered.events < 1000


@pytest.mark.heavy
async def test_a_stalled_worker_loses_its_events_and_settles_nothing(
    store: Store, server: ValkeyServer, receiver: Receiver, tmp_path: Path
) -> None:
    ids = await fill(store, 3 * BATCH)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_: list[str]) -> int:
        if not arrived.is_set():
            arrived.set()
            await go_on.wait()
        return 200

    receiver.answer = answer
    with worker(tmp_path / "stalled", server, receiver) as stalled:
        await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
        stalled.process.send_signal(signal.SIGSTOP)
        queue = queue_of(store, lease=1.0)
        async with (
            LinesSink(receiver.url) as sink,
            open_forwarder(store, sink, batching=replace(QUICK, lease=1.0)),
        ):
            await until(lambda: is_drained(queue), within=PATIENCE_SECONDS, what="others deliver")
        assert sorted(receiver.ids) == sorted(ids)
        stalled.process.send_signal(signal.SIGCONT)
        go_on.set()
        assert await asyncio.to_thread(stalled.stop) == 0
    status = await closed_account(queue)
    assert status.delivered == status.accepted
    # The stalled worker's own sending arrived in the end; the queue knows nothing of it.
    assert receiver.duplicates == BATCH


async def test_forwarding_goes_on_when_valkey_is_back(
    private_server: Callable[..., ValkeyServer], receiver: Receiver
) -> None:
    server = private_server({"appendonly": "yes", "appendfsync": "always"})
    receiver.answer = slowly
    async with open_store(server.url) as store, LinesSink(receiver.url) as sink:
        ids = await fill(store, 2000)
        async with open_forwarder(store, sink, batching=replace(QUICK, events=BATCH, lease=1.0)):
            for number in (1, 2):
                await until(
                    lambda number=number: len(receiver.ids) > number * 300,
                    within=PATIENCE_SECONDS,
                    what="events flow",
                )
                server.stop()
                await asyncio.sleep(0.3)
                server.start()
            queue = queue_of(store, lease=1.0)
            await until(lambda: is_drained(queue), within=60, what="all are delivered")
        assert set(receiver.ids) == set(ids)
        status = await closed_account(queue)
        assert (status.delivered, status.failed.events) == (status.accepted, 0)
