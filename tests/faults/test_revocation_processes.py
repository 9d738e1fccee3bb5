"""Several processes with near caches under load, and one that revokes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.support.gateways import generations, open_store, processes, together
from tests.support.near import BOUND_SECONDS, DONE, FLAG, READY, ReadWork
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

READERS = 3
USERS = tuple(f"user-{number}" for number in range(60))


@pytest.mark.heavy
async def test_no_process_allows_what_was_revoked(server: ValkeyServer) -> None:
    revoked: dict[str, float] = {}
    with processes(READERS) as pool, server.client() as client:
        client.set(READY, 0, ex=60)
        work = ReadWork(server.url, USERS)
        reading = asyncio.create_task(together(pool, READERS, work))
        await until(
            lambda: reading.done() or int(client.get(READY)) == READERS,
            within=30,
            what="all readers are there",
        )
        async with open_store(server.url) as store:
            made = generations(store)
            await asyncio.sleep(0.4)  # they fill their caches
            for user in USERS:
                client.set(FLAG.format(user), 1, ex=60)
                await made.invalidate_user(user)
                revoked[user] = time.monotonic()
                await asyncio.sleep(0.03)
            await asyncio.sleep(2 * BOUND_SECONDS)  # some more answers from near caches
        client.set(DONE, 1, ex=60)
        reports = await reading
    latencies = sorted(seconds for report in reports for seconds in report.enforced)
    for report in reports:
        for way, last in report.allowed.items():
            for user, began in last.items():
                late = began - revoked[user]
                # Only the near cache alone may lag, and never by more than its bound.
                assert late <= (BOUND_SECONDS if way == "decide" else 0.0), (way, user, late)
        assert all(users == set(USERS) for users in report.denied.values())
        # It was under load, and the near cache did answer.
        assert report.sources["decide near"] > 1000, report.sources
        assert report.sources["authorize near"] > 100, report.sources
        assert report.sources["plain valkey"] > 100, report.sources
    assert len(latencies) == READERS * len(USERS)
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    logging.getLogger(__name__).info("enforced: p50 %.2f ms, p99 %.2f ms", p50 * 1e3, p99 * 1e3)
    assert p50 < BOUND_SECONDS / 2
    assert p99 <= BOUND_SECONDS


FAULTS = ("kill", "blackhole", "stop")
FAULT_USERS = USERS[:24]


@asynccontextmanager
async def disturbed(how: str, server: ValkeyServer, proxy: FaultProxy) -> AsyncIterator[None]:
    """Disturb what the readers hear, again and again."""

    async def disturb() -> None:
        while True:
            await asyncio.sleep(0.15)
            match how:
                case "kill":
                    await asyncio.to_thread(kill_feeds, server)
                case "blackhole":
                    proxy.blackhole()
                    await asyncio.sleep(0.4)
                    await proxy.forward()
                case _:
                    with server.paused():
                        await asyncio.sleep(0.4)

    task = asyncio.create_task(disturb())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await proxy.forward()


def kill_feeds(server: ValkeyServer) -> None:
    with server.client() as client:
        for each in client.client_list():
            if int(each["sub"]):
                client.client_kill_filter(_id=each["id"])


@pytest.mark.heavy
@pytest.mark.parametrize("how", FAULTS)
async def test_nor_while_nobody_can_be_heard(
    private_server: Callable[..., ValkeyServer], how: str
) -> None:
    """The feeds are killed or silenced, or the server stands still, while users are revoked."""
    server = private_server()
    revoked: dict[str, float] = {}
    async with FaultProxy(server.host, server.port) as proxy:
        with processes(READERS) as pool, server.client() as client:
            client.set(READY, 0, ex=60)
            work = ReadWork(server.url, FAULT_USERS, proxy.url(server.password))
            reading = asyncio.create_task(together(pool, READERS, work))
            await until(
                lambda: reading.done() or int(client.get(READY)) == READERS,
                within=30,
                what="all readers are there",
            )
            async with open_store(server.url) as store, disturbed(how, server, proxy):
                made = generations(store)
                await asyncio.sleep(0.3)
                for user in FAULT_USERS:
                    await store.state.execute("SET", FLAG.format(user), 1, "EX", 60)
                    await made.invalidate_user(user)
                    revoked[user] = time.monotonic()
                    await asyncio.sleep(0.05)
            await asyncio.sleep(2 * BOUND_SECONDS)
            client.set(DONE, 1, ex=60)
            reports = await reading
    for report in reports:
        for way, last in report.allowed.items():
            for user, began in last.items():
                late = began - revoked[user]
                assert late <= (BOUND_SECONDS if way == "decide" else 0.0), (way, user, late)
        assert all(users == set(FAULT_USERS) for users in report.denied.values())
        assert report.sources["decide near"] > 100, report.sources
