"""One timer for many deadlines: never early, never missed, and input comes first."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from sark.store.alarm import NEVER, Alarm

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=LOOPS[request.param])


def test_it_rings_once_for_the_earliest(runner: asyncio.Runner) -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        rung: list[float] = []
        alarm = Alarm(lambda: rung.append(loop.time()))
        start = loop.time()
        for offset in (0.05, 0.02, 0.08):
            alarm.by(start + offset)
        assert alarm.when == start + 0.02
        await asyncio.sleep(0.12)
        assert len(rung) == 1
        assert rung[0] >= start + 0.019  # event loops round to milliseconds
        assert alarm.when == NEVER

    with runner:
        runner.run(check())


def test_cancelled_it_does_not_ring(runner: asyncio.Runner) -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        rung: list[float] = []
        alarm = Alarm(lambda: rung.append(loop.time()))
        alarm.by(loop.time() + 0.01)
        alarm.cancel()
        await asyncio.sleep(0.03)
        assert rung == []

    with runner:
        runner.run(check())


def test_after_a_stall_what_has_arrived_is_read_before_it_rings(runner: asyncio.Runner) -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        happened: list[str] = []
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
            rung = asyncio.Event()

            def read() -> None:
                happened.append(ours.recv(10).decode())
                if happened == ["first"]:
                    theirs.send(b"second")
                    time.sleep(0.05)  # the stall

            def ring() -> None:
                happened.append("rung")
                rung.set()

            loop.add_reader(ours, read)
            Alarm(ring).by(loop.time() + 0.01)
            theirs.send(b"first")
            await rung.wait()
            loop.remove_reader(ours)
        assert happened == ["first", "second", "rung"]

    with runner:
        runner.run(check())
