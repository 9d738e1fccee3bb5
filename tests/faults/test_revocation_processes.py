"""Several processes with near caches under load, and one that revokes."""

from __future__ import annotations

import asyncio
import logging
import time

from tests.support.gateways import generations, open_store, processes, together
from tests.support.near import BOUND_SECONDS, FLAG, READY, ReadWork
from tests.support.polling import until
from tests.support.servers import ValkeyServer

READERS = 3
USERS = tuple(f"user-{number}" for number in range(60))
SECONDS = 3.5


async def test_no_process_allows_what_was_revoked(server: ValkeyServer) -> None:
    revoked: dict[str, float] = {}
    with processes(READERS) as pool, server.client() as client:
        client.set(READY, 0, ex=60)
        work = ReadWork(server.url, USERS, SECONDS)
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
