"""Hundreds of tasks, thousands of calls, cancelled, timed out and cut off at random moments.

They share a connection, or have one of their own when they are large or say so. Whatever ends a
call early, no task is ever given another's reply, and afterwards all connections are whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from sark.errors import StoreError
from sark.store import Script, ScriptCall, Server
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer
from tests.support.stores import CLIENT_NAME, Reports, alone, idle_of, lanes_of, open_server

WORKERS = 300
CALLS_PER_WORKER = 14
POOL_SIZE = 40
DELAY_SECONDS = 0.003
# How long calls are left alone that are then cancelled or time out: from not yet sent to answered.
SHORTEST_SECONDS = 0.0
LONGEST_SECONDS = 0.15
PATIENCE_SECONDS = 60.0
REST_SECONDS = 0.02

ECHO = Script("echo", "return ARGV[1]")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Load:
    """Calls with unique payloads, and what came of them."""

    def __init__(self, store: Server, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[tuple[object, object]] = []
        self.reasons: list[str] = []
        self.most_connections = 0

    async def worker(self, number: int) -> None:
        for call in range(CALLS_PER_WORKER):
            await self.one_call(f"{number}-{call}")
            if self.store.guard.is_open:
                # Refusals cost nothing: without a rest they would be all that is left of the load.
                await asyncio.sleep(REST_SECONDS)
            stats = self.store.pool_stats()
            self.most_connections = max(self.most_connections, stats.in_use + stats.idle)

    async def one_call(self, payload: str) -> None:
        fate = self.random.choice(["patient", "patient", "hurried", "cancelled"])
        moment = self.random.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
        now = asyncio.get_running_loop().time()
        deadline = now + (moment if fate == "hurried" else PATIENCE_SECONDS)
        task = asyncio.create_task(self.ask(payload, deadline))
        if fate == "cancelled":
            asyncio.get_running_loop().call_later(moment, task.cancel)
        await asyncio.wait([task])
        if task.cancelled():
            self.outcomes["cancelled"] += 1
            assert fate == "cancelled"
        elif isinstance(error := task.exception(), StoreError):
            self.outcomes[f"{fate} {type(error).__name__}"] += 1
            if fate == "patient":
                self.reasons.append(str(error))
        else:
            asked, got = task.result()
            self.outcomes[f"{fate} answered"] += 1
            if asked != got:
                self.wrong.append((asked, got))

    async def ask(self, payload: str, deadline: float) -> tuple[Any, Any]:
        """Ask for an echo in one of several ways; return what is right and what came."""
        expected = payload.encode()
        match self.random.randrange(6):
            case 0:
                return expected, await self.store.execute("ECHO", payload, deadline=deadline)
            case 1:
                reply = await self.store.run(ECHO, [], [payload], deadline=deadline)
                return expected, reply.value
            case 2:
                # Large enough to be cut while it is sent or received.
                large = payload * 20_000
                return large.encode(), await self.store.execute("ECHO", large, deadline=deadline)
            case 3:
                return expected, await alone(self.store, "ECHO", payload, deadline=deadline)
            case 4:
                replies, _ = await self.store.transaction(
                    [("ECHO", payload), ("ECHO", "x" * 1000), ("ECHO", payload)], deadline=deadline
                )
                return [expected, b"x" * 1000, expected], replies
            case _:
                replies = await self.store.pipeline(
                    [("ECHO", payload), ScriptCall(ECHO, [], [payload]), ("ECHO", payload)],
                    deadline=deadline,
                )
                return [expected] * 3, replies


async def put_under_load(
    server: ValkeyServer, seed: int, *, holding: bool = False, killing: bool = False
) -> tuple[Load, Reports]:
    client = server.client()
    reports = Reports()
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_server(
            proxy.url(server.password),
            pool_size=POOL_SIZE,
            connect_timeout=5.0,
            reports=reports,
        ) as store,
    ):
        proxy.delay(DELAY_SECONDS)
        load = Load(store, seed)
        disturbers = [asyncio.create_task(flush_scripts(store))]
        if holding:
            disturbers.append(asyncio.create_task(hold_and_let_go(proxy)))
        if killing:
            disturbers.append(asyncio.create_task(kill_connections(store)))
        await asyncio.gather(*(load.worker(number) for number in range(WORKERS)))
        for disturber in disturbers:
            disturber.cancel()
        await asyncio.wait(disturbers)
        await proxy.forward()

        # The replies to cancelled calls are still to come.
        await until(lambda: store.pool_stats().in_use == 0, within=10, what="all is answered")
        stats = store.pool_stats()
        assert (stats.in_flight, stats.waiters) == (0, 0)
        assert stats.idle <= POOL_SIZE
        assert stats.connects == stats.idle + stats.discarded
        assert load.most_connections <= POOL_SIZE
        # Nothing that was cut off lives on, at the server or on the way.
        await until(
            lambda: (
                sum(c["name"] == CLIENT_NAME for c in client.client_list())  # type: ignore[union-attr]
                == len(lanes_of(store).open) + sum(c.usable for c in idle_of(store))
            ),
            within=10,
            what="only the usable connections are open at the server",
        )
        await until(lambda: not store.guard.is_open, within=10, what="the guard is closed")
        # All that the pool may open can be used.
        payloads = [f"after-{n}" for n in range(500)]
        assert await asyncio.gather(*(store.execute("ECHO", p) for p in payloads)) == [
            p.encode() for p in payloads
        ]
        assert store.pool_stats().idle <= POOL_SIZE
    return load, reports


async def flush_scripts(store: Server) -> None:
    """Make the server forget the scripts now and then, so that they are loaded under load."""
    while True:
        with contextlib.suppress(StoreError):
            await store.execute("SCRIPT", "FLUSH")
        await asyncio.sleep(0.05)


async def kill_connections(store: Server) -> None:
    """Let the server close all connections but the one that says so, again and again."""
    while True:
        await asyncio.sleep(0.1)
        with contextlib.suppress(StoreError):
            await store.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def hold_and_let_go(proxy: FaultProxy) -> None:
    """Let the network hang for longer than the hurried calls' patience, again and again."""
    while True:
        await asyncio.sleep(0.2)
        proxy.blackhole()
        await asyncio.sleep(LONGEST_SECONDS)
        await proxy.forward()
        proxy.delay(DELAY_SECONDS)


@pytest.mark.parametrize("loop", LOOPS)
def test_no_task_is_given_anothers_reply(
    server: ValkeyServer, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The guard would keep most calls from the network after so many timeouts, and with it shut
    # out of the test, everybody who is patient must be answered.
    monkeypatch.setattr("sark.store.guard.FAILURES_TO_OPEN", 10**9)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        load, reports = runner.run(put_under_load(server, seed=random.randrange(10**6)))
    assert load.wrong == []
    assert sum(load.outcomes.values()) == WORKERS * CALLS_PER_WORKER
    answered = load.outcomes["patient answered"]
    patient = {fate: n for fate, n in load.outcomes.items() if fate.startswith("patient")}
    assert patient == {"patient answered": answered}, load.reasons
    # The load was one: calls ended early in every way, at every stage.
    assert answered > 1000
    assert load.outcomes["cancelled"] > 100
    for failure in ("PoolExhaustedError", "StoreUnavailableError", "StoreTimeoutError"):
        assert load.outcomes[f"hurried {failure}"] > 0, failure
    assert len(reports.scripts_loaded) > 5


@pytest.mark.parametrize("loop", LOOPS)
def test_nor_with_connections_killed_all_the_time(
    server: ValkeyServer, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sark.store.guard.FAILURES_TO_OPEN", 10**9)
    monkeypatch.setattr("sark.store.lane.MAX_IN_FLIGHT", 30)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        load, _ = runner.run(put_under_load(server, random.randrange(10**6), killing=True))
    assert load.wrong == []
    assert sum(load.outcomes.values()) == WORKERS * CALLS_PER_WORKER
    assert load.outcomes["patient answered"] > 1000
    assert load.outcomes["patient ConnectionLostError"] > 0
    # What was waiting in line had not been sent, so no kill ended it.
    patient = {fate for fate in load.outcomes if fate.startswith("patient")}
    assert patient == {"patient answered", "patient ConnectionLostError"}


def test_nor_with_the_guard_opening_and_closing(server: ValkeyServer) -> None:
    with asyncio.Runner() as runner:
        load, reports = runner.run(
            put_under_load(server, seed=random.randrange(10**6), holding=True)
        )
    assert load.wrong == []
    changes = [change.is_open for change in reports.guard_changes]
    assert True in changes
    # Opened and closed in turn, each reported once.
    assert changes == [n % 2 == 0 for n in range(len(changes))]
    assert not changes[-1]
    assert load.outcomes["patient answered"] > 100
    assert load.outcomes["patient StoreUnavailableError"] > 0
