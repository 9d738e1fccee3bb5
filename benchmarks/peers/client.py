"""Gives orders to the peers' process."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.cases import AIOCACHE, CALLERS, CASHEWS, CASHEWS_NEAR, CASHEWS_NEAR_KEY, Case, Sizes
from benchmarks.measure import BenchmarkError, Sample
from benchmarks.process import LINE_BYTES, ask, running
from benchmarks.workload import ROOT

__all__ = ["PYTHON", "Peers", "open_peers", "peer_cases_all_cores", "peer_cases_one_core"]

PYTHON = ROOT / ".venv-bench/bin/python"


class Order(msgspec.Struct, frozen=True):
    """One round.

    Attributes:
        case: Which peer.
        calls: How many calls in all.
        callers: How many at the same time.
        first: Number of the first call.
        derive: Derive the key in each call, as the guide does; else it is known.
    """

    case: str
    calls: int
    callers: int
    first: int
    derive: bool


class Times(msgspec.Struct, frozen=True):
    """What a round took, in nanoseconds; ``error`` says why there is nothing to tell."""

    latencies: list[int] = []
    elapsed: int = 0
    error: str | None = None


class Peers:
    """The peers' process, ready for orders.

    Args:
        process: The process.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def measure(self, order: Order) -> Sample:
        """Let a peer read decisions.

        Raises:
            BenchmarkError: A decision was not found, or the process has ended.
        """
        times = msgspec.json.decode(await ask(self._process, order), type=Times)
        if times.error is not None:
            raise BenchmarkError(f"{order.case}: {times.error}")
        return Sample(times.latencies, times.elapsed)


@contextlib.asynccontextmanager
async def open_peers(
    url: str, decisions: Sequence[tuple[Any, Any]], *, python: Path = PYTHON
) -> AsyncIterator[Peers | None]:
    """Start the peers' process, or give None when its environment is not there.

    Args:
        url: The server, with its password.
        decisions: What is asked, and the decision.
        python: Of the environment.
    """
    if not await asyncio.to_thread(python.exists):
        yield None
        return
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "benchmarks.peers", f"--{loop}"),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
        limit=LINE_BYTES,
    )
    async with running(process):
        await ask(process, {"url": url, "decisions": decisions})
        yield Peers(process)


def peer_cases_one_core(peers: Peers, sizes: Sizes) -> list[Case]:
    """List the cases of a lone caller who shares a core with the server."""
    return [
        _case(peers, AIOCACHE, AIOCACHE, sizes.alone),
        _case(peers, CASHEWS, CASHEWS, sizes.alone),
        _case(peers, CASHEWS_NEAR, CASHEWS_NEAR, sizes.near, rate=True),
        _case(peers, CASHEWS_NEAR_KEY, CASHEWS_NEAR, sizes.near, rate=True, derive=True),
    ]


def peer_cases_all_cores(peers: Peers, sizes: Sizes) -> list[Case]:
    """List the cases of many callers."""
    many = f", {CALLERS} callers"
    return [
        _case(peers, AIOCACHE + many, AIOCACHE, sizes.together, callers=CALLERS),
        _case(peers, CASHEWS + many, CASHEWS, sizes.together, callers=CALLERS),
    ]


def _case(
    peers: Peers,
    name: str,
    peer: str,
    calls: int,
    *,
    callers: int = 1,
    rate: bool = False,
    derive: bool = False,
) -> Case:
    rounds = count()

    async def measure() -> Sample:
        return await peers.measure(Order(peer, calls, callers, next(rounds) * calls, derive))

    return Case(name, measure, concurrent=rate or callers > 1)
