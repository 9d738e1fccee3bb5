"""Rate limits: one check of three limits, next to a bare script call and to other limiters."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import cast

import msgspec
from valkey.asyncio import Valkey

from benchmarks.cases import CALLERS
from benchmarks.driver import Drivers, open_drivers
from benchmarks.measure import (
    BenchmarkError,
    Sample,
    in_order,
    no_collection,
    on_one_core,
    one_after_the_other,
    percentile,
    ratios,
    several_at_once,
)
from benchmarks.peers.client import PYTHON, Times
from benchmarks.process import LINE_BYTES, ask, running
from benchmarks.results import Result
from benchmarks.study import Advance, Study
from benchmarks.workload import POLICIES, ROOT
from sark import Runtime, Settings, open_runtime
from sark.ratelimit import Algorithm, Identity, Limit, RateLimiter

__all__ = ["limits_study"]

CHECK = "check of three limits"
EVALSHA, EVALSHA_LEAN = "driver EVALSHA", "driver EVALSHA, lean"
LIMITERS = ("limits", "limits, sliding", "throttled-py", "throttled-py, gcra", "pyrate-limiter")
COMPARED = {
    CHECK: ("limits", "throttled-py", "pyrate-limiter"),
    f"{CHECK}, sliding": ("limits, sliding",),
    f"{CHECK}, gcra": ("throttled-py, gcra", "pyrate-limiter"),
}
ALGORITHMS: tuple[Algorithm, ...] = ("fixed", "sliding", "gcra")
MOST = 10**6
IDENTITIES: tuple[Identity, ...] = (
    ("user", "user-0001"),
    ("ip", "10.0.0.1"),
    ("apikey", "key-00000001"),
)
# The least that a limiter for one identity needs.
SCRIPT = """
local used = server.call('INCR', KEYS[1])
if used == 1 then server.call('EXPIRE', KEYS[1], 60) end
return used
"""

Call = Callable[[int], Awaitable[object]]
Measure = Callable[[int, int], Awaitable[Sample]]
"""Takes how many calls in all, and how many at the same time."""


def limits_study(rounds: int, calls: int) -> Study:
    """Time of one check of three limits, and checks per second of many callers.

    Args:
        rounds: How often each case is measured, alone and together.
        calls: Calls of a case in a round.
    """

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        settings = Settings(data_dir=directory, policy_dir=POLICIES, limit_per_minute=MOST)
        async with contextlib.AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(settings, ephemeral=True))
            assert runtime.embedded is not None  # noqa: S101 - no server was named
            drivers = await stack.enter_async_context(open_drivers(runtime.embedded.url))
            cases = await _own_cases(runtime, drivers)
            pids: list[int] = []
            cases |= await stack.enter_async_context(_peers(runtime.embedded.url, pids))
            with on_one_core(runtime.embedded.pid, *pids):
                alone = await _rounds(cases, rounds, calls, 1, advance)
            together = await _rounds(cases, rounds, calls * 5, CALLERS, advance)
        return [*_alone_rows(alone), *_together_rows(together)]

    return Study("Rate limits", 2 * rounds, measure)


async def _own_cases(runtime: Runtime, drivers: Drivers) -> dict[str, Measure]:
    sha = await drivers.lean.script_load(SCRIPT)
    calls: dict[str, Call] = {
        EVALSHA: lambda _: _bare(drivers.guide, sha),
        EVALSHA_LEAN: lambda _: _bare(drivers.lean, sha),
    }
    for number, algorithm in enumerate(ALGORITHMS):
        # Another window for each, so that none converts what another has counted.
        limiter = RateLimiter(runtime.store, Limit(MOST, 60 + number, algorithm), budget=10)
        name = CHECK if algorithm == "fixed" else f"{CHECK}, {algorithm}"
        calls[name] = lambda _, limiter=limiter: limiter.check(IDENTITIES)  # type: ignore[misc]
    return {name: _measure(call) for name, call in calls.items()}


def _bare(client: Valkey, sha: str) -> Awaitable[object]:
    # The driver's types allow for its synchronous client.
    return cast("Awaitable[object]", client.evalsha(sha, 1, "bench:evalsha"))


def _measure(call: Call) -> Measure:
    async def measure(count: int, callers: int) -> Sample:
        with no_collection():
            if callers == 1:
                return await one_after_the_other(call, count, first=0, accept=_admitted)
            return await several_at_once(call, count, callers=callers, first=0, accept=_admitted)

    return measure


def _admitted(found: object) -> bool:
    return bool(getattr(found, "admitted", found))


@contextlib.asynccontextmanager
async def _peers(url: str, pids: list[int]) -> AsyncIterator[dict[str, Measure]]:
    """Start the other limiters' process; no cases when its environment is not there."""
    if not await asyncio.to_thread(PYTHON.exists):
        yield {}
        return
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "benchmarks.peers.limiters"),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
        limit=LINE_BYTES,
    )
    pids.append(process.pid)

    def case(name: str) -> Measure:
        async def measure(count: int, callers: int) -> Sample:
            order = {"case": name, "calls": count, "callers": callers}
            times = msgspec.json.decode(await ask(process, order), type=Times)
            if times.error is not None:
                raise BenchmarkError(f"{name}: {times.error}")
            return Sample(times.latencies, times.elapsed)

        return measure

    async with running(process):
        await ask(process, {"url": url})
        yield {name: case(name) for name in LIMITERS}


async def _rounds(
    cases: Mapping[str, Measure], rounds: int, calls: int, callers: int, advance: Advance
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in in_order(list(cases), number):
            samples[name].append(await cases[name](calls, callers))
        advance()
    return samples


def _alone_rows(samples: Mapping[str, Sequence[Sample]]) -> list[Result]:
    rows = []
    for name, ours in samples.items():
        calls = [latency for sample in ours for latency in sample.latencies]
        p50 = round(percentile(calls, 0.5) / 1000, 2)
        for baseline in (EVALSHA, EVALSHA_LEAN):
            if name != baseline:
                found = ratios(ours, samples[baseline], lambda sample: sample.latency(0.5))
                ratio = round(median(found), 3)
                rows.append(Result(name, "p50", p50, "us", baseline, ratio))
    return rows


def _together_rows(samples: Mapping[str, Sequence[Sample]]) -> list[Result]:
    rows = []
    for name, ours in samples.items():
        rate = round(median(sample.per_second for sample in ours), 1)
        case, metric = f"{name}, {CALLERS} callers", "requests_per_second"
        peers = [peer for peer in COMPARED.get(name, ()) if peer in samples]
        for peer in peers:
            found = ratios(ours, samples[peer], lambda sample: sample.per_second)
            baseline = f"{peer}, {CALLERS} callers"
            rows.append(Result(case, metric, rate, "1/s", baseline, round(median(found), 3)))
        if not peers:
            rows.append(Result(case, metric, rate, "1/s", None, None))
    return rows
