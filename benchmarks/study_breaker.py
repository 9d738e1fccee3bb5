"""Circuit breaker: what guarding a call costs, closed and half-open, next to other breakers."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import msgspec

from benchmarks.measure import (
    BenchmarkError,
    Sample,
    in_order,
    no_collection,
    on_one_core,
    one_after_the_other,
    percentile,
    ratios,
)
from benchmarks.peers.client import PYTHON, Times
from benchmarks.process import LINE_BYTES, ask, running
from benchmarks.results import BREAKER_CLOSED, BREAKER_HALF_OPEN, TRIPS_METRIC, Result
from benchmarks.study import Advance, Study
from benchmarks.workload import POLICIES, ROOT
from sark import Runtime, Settings, open_runtime
from sark.breaker import Breaker, BreakerConfig, Permit
from sark.events import Hub, RoundTrip
from sark.store import Server

__all__ = ["breaker_study"]

PING = "PING through the store"
PEERS = ("purgatory", "pybreaker")
COUNTED_ROUNDS = 5
# Spinning would take the core from the server, and the next call would pay for it.
POLL_SECONDS = 0.001
CALLS_TO_PROBES = 10
WAKING_CALLS = 5
OPEN_SECONDS = 0.01
PATIENCE_SECONDS = 10.0

Measure = Callable[[int], Awaitable[Sample]]


def breaker_study(rounds: int, calls: int) -> Study:
    """Time of one guarded call.

    Args:
        rounds: How often each case is measured.
        calls: Calls of a case in a round.
    """

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        settings = Settings(data_dir=directory, policy_dir=POLICIES)
        async with contextlib.AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(settings, ephemeral=True))
            assert runtime.embedded is not None  # noqa: S101 - no server was named
            closed, half_open = await stack.enter_async_context(_own(runtime))
            trips = [
                await _round_trips(runtime.hub, closed, BREAKER_CLOSED),
                await _round_trips(runtime.hub, half_open, BREAKER_HALF_OPEN),
            ]
            cases = _own_cases(runtime, closed, half_open)
            pids: list[int] = []
            cases |= await stack.enter_async_context(_peers(runtime.embedded.url, pids))
            samples: dict[str, list[Sample]] = {name: [] for name in cases}
            with on_one_core(runtime.embedded.pid, *pids):
                for number in range(rounds):
                    for name in in_order(list(cases), number):
                        samples[name].append(await cases[name](calls))
                    advance()
        return [*_rows(samples), *trips]

    return Study("Circuit breaker", rounds, measure)


@contextlib.asynccontextmanager
async def _own(runtime: Runtime) -> AsyncIterator[tuple[Breaker, Breaker]]:
    """Run a breaker that is closed and one that admits probes for as long as it is asked."""
    rules = BreakerConfig(
        failures=1,
        open_seconds=OPEN_SECONDS,
        open_cap=OPEN_SECONDS,
        successes=10**6,
    )
    closed, half_open = Breaker(runtime.store, "closed"), Breaker(runtime.store, "half", rules)
    async with closed.running(), half_open.running():
        (await half_open.acquire()).failed("benchmark")
        async with asyncio.timeout(PATIENCE_SECONDS):
            # There is no event to wait for, as below.
            while not half_open.snapshot().opened or half_open.snapshot().retry_after:  # noqa: ASYNC110
                await asyncio.sleep(OPEN_SECONDS)
        yield closed, half_open


def _own_cases(runtime: Runtime, closed: Breaker, half_open: Breaker) -> dict[str, Measure]:
    state = runtime.store.state

    async def guarded(_number: int) -> bool:
        async with closed:
            return True

    return {
        BREAKER_CLOSED: _alone(guarded),
        BREAKER_HALF_OPEN: lambda calls: _probes(state, half_open, calls),
        PING: _alone(lambda _: state.execute("PING")),
    }


def _alone(call: Callable[[int], Awaitable[object]]) -> Measure:
    async def measure(calls: int) -> Sample:
        with no_collection():
            return await one_after_the_other(call, calls, first=0, accept=bool)

    return measure


async def _round_trips(hub: Hub, breaker: Breaker, case: str) -> Result:
    """Count the round trips of a call; the fewest, since the exchange beside it has its own."""
    trips: list[RoundTrip] = []
    hub.on(RoundTrip, trips.append)
    counts = []
    for _ in range(COUNTED_ROUNDS):
        trips.clear()
        permit = await breaker.acquire()
        counts.append(len(trips))
        await _end(breaker, permit)
    return Result(case, TRIPS_METRIC, min(counts), "1", None, None)


async def _probes(server: Server, breaker: Breaker, calls: int) -> Sample:
    """Time admissions alone; the ends of the probes are exchanged between them.

    A server that is asked in a row, as in the other cases, need not be woken up each time.
    """
    latencies: list[int] = []
    with no_collection():
        for _ in range(calls // CALLS_TO_PROBES):
            for _ in range(WAKING_CALLS):
                await server.execute("PING")
            began = perf_counter_ns()
            permit = await breaker.acquire()
            latencies.append(perf_counter_ns() - began)
            if not permit.is_probe:
                raise BenchmarkError("the breaker is not half-open")
            await _end(breaker, permit)
    return Sample(latencies, sum(latencies))


async def _end(breaker: Breaker, permit: Permit) -> None:
    """End a call; after a probe's, wait until the next may run."""
    permit.neutral()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while breaker.snapshot().probes:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def _peers(url: str, pids: list[int]) -> AsyncIterator[dict[str, Measure]]:
    """Start the other breakers' process; no cases when its environment is not there."""
    if not await asyncio.to_thread(PYTHON.exists):
        yield {}
        return
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "benchmarks.peers.breakers"),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
        limit=LINE_BYTES,
    )
    pids.append(process.pid)

    def case(name: str) -> Measure:
        async def measure(calls: int) -> Sample:
            times = msgspec.json.decode(
                await ask(process, {"case": name, "calls": calls}), type=Times
            )
            return Sample(times.latencies, times.elapsed)

        return measure

    async with running(process):
        await ask(process, {"url": url})
        yield {name: case(name) for name in PEERS}


def _rows(samples: Mapping[str, Sequence[Sample]]) -> list[Result]:
    rows = []
    compared = {BREAKER_CLOSED: [n for n in PEERS if n in samples], BREAKER_HALF_OPEN: [PING]}
    for name, ours in samples.items():
        calls = [latency for sample in ours for latency in sample.latencies]
        for metric, share in (("p50", 0.5), ("p95", 0.95)):
            value = round(percentile(calls, share) / 1000, 2)
            for baseline in compared.get(name) or (None,):
                ratio = None
                if baseline is not None:
                    theirs = samples[baseline]
                    found = ratios(ours, theirs, lambda s, share=share: s.latency(share))  # type: ignore[misc]
                    ratio = round(median(found), 4)
                rows.append(Result(name, metric, value, "us", baseline, ratio))
    return rows
