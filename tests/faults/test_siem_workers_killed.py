"""Workers killed with SIGKILL and stopped with SIGSTOP: no event is lost, few come twice."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.context import ForkServerProcess

import pytest

from sark.siem import EventQueue, QueueBounds
from tests.support.gateways import SINKS, audit_event, later, open_store
from tests.support.leases import (
    RECEIVED,
    WORKED_AT_ONCE,
    contents,
    open_sink,
    work_until_killed,
)
from tests.support.polling import until
from tests.support.servers import ValkeyServer

WORKERS = 4
VICTIMS = 5
LEASE_SECONDS = 1.0
PRODUCERS = 20


class Crew:
    """Worker processes, of which some come to harm."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._names = count()
        self._context = multiprocessing.get_context("forkserver")
        self.workers: list[ForkServerProcess] = []

    def start(self) -> None:
        arguments = (self._url, f"worker-{next(self._names)}", LEASE_SECONDS)
        worker = self._context.Process(target=work_until_killed, args=arguments, daemon=True)
        worker.start()
        self.workers.append(worker)

    def kill_one(self) -> None:
        victim = self.workers.pop(random.randrange(len(self.workers)))
        victim.kill()
        victim.join()
        self.start()

    async def stop_one(self) -> None:
        """Let one sleep until its lease, if it holds one, is long another's."""
        pid = random.choice(self.workers).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(2 * LEASE_SECONDS)
        os.kill(pid, signal.SIGCONT)


@contextmanager
def crew_at_work(url: str) -> Iterator[Crew]:
    crew = Crew(url)
    try:
        for _ in range(WORKERS):
            crew.start()
        yield crew
    finally:
        for worker in crew.workers:
            worker.kill()
            worker.join()


def received(server: ValkeyServer) -> Counter[str]:
    with server.client() as client:
        return Counter(each.decode() for each in client.lrange(RECEIVED, 0, -1))


@pytest.mark.heavy
async def test_killed_and_stopped_workers_lose_nothing(server: ValkeyServer) -> None:
    accepted: list[str] = []
    done = asyncio.Event()
    async with open_store(server.url) as store:
        queue = EventQueue(store, SINKS, QueueBounds(), flush_timeout=30)
        sink = open_sink(store, lease=LEASE_SECONDS, most_expiries=1000)

        async def produce() -> None:
            while not done.is_set():
                event = audit_event()
                await queue.append(event, deadline=later())
                accepted.append(event.id)
                await asyncio.sleep(0.01)

        async def is_empty() -> bool:
            status = await sink.status()
            return status.queued.events == status.leases == 0

        with crew_at_work(server.url) as crew:
            producers = [asyncio.create_task(produce()) for _ in range(PRODUCERS)]
            for turn in range(VICTIMS):
                goal = received(server).total() + 200
                await until(
                    lambda goal=goal: received(server).total() > goal,
                    within=20,
                    what="the workers send events",
                )
                if turn % 2:
                    await crew.stop_one()
                else:
                    crew.kill_one()
            done.set()
            await asyncio.gather(*producers)
            await until(is_empty, within=20, what="every event was acknowledged")
        status = await sink.status()
        await queue.close()
    assert status.balanced
    assert status.accepted.events == status.delivered.events == len(accepted)
    assert contents(server) == []
    found = received(server)
    assert found.keys() == set(accepted)
    # At most what a victim held came twice.
    assert found.total() - len(accepted) <= VICTIMS * WORKED_AT_ONCE
