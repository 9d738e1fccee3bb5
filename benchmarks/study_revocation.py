"""From a revocation to its enforcement in every process that decides from a near cache."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.measure import BenchmarkError, percentile
from benchmarks.process import LINE_BYTES, ask, running
from benchmarks.reader import Happened, ReaderTask
from benchmarks.results import Result
from benchmarks.study import Advance, Study, row
from benchmarks.workload import POLICIES, ROOT, prime, read_requests
from sark import Settings, open_runtime
from sark.keyring import mac_key
from sark.policy.generations import Generations

__all__ = ["BOUND_MS", "revocation_study"]

BOUND_MS = 250.0
NO_LIMIT = 10**9
SETTLE_SECONDS = 0.5


def revocation_study(processes: Sequence[int], revocations: int) -> Study:
    """Milliseconds from the server's write of an invalidation until a process enforces it.

    Args:
        processes: How many readers there are, ascending.
        revocations: How many users are revoked with each number of readers.
    """

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        rows: list[Result] = []
        settings = Settings(
            data_dir=directory,
            policy_dir=POLICIES,
            limit_per_minute=NO_LIMIT,
            near_cache_entries=0,
        )
        async with contextlib.AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(settings, ephemeral=True))
            assert runtime.embedded is not None  # noqa: S101 - no server was named
            workload = await prime(runtime, read_requests())
            keys = directory / "keys"
            mac_key(keys)
            task = ReaderTask(
                url=runtime.embedded.url,
                key_dir=str(keys),
                directory=str(directory),
                asked=workload.asked(),
            )
            users = sorted({user_id for _, user_id, *_ in workload.asked()})
            readers: list[Process] = []
            generations = runtime.gateway.decisions.cache.generations
            for wanted in processes:
                more = [_start() for _ in range(wanted - len(readers))]
                for process in await asyncio.gather(*more):
                    await stack.enter_async_context(running(process))
                    readers.append(process)
                await asyncio.gather(*(ask(process, task) for process in readers[-len(more) :]))
                await asyncio.sleep(SETTLE_SECONDS)
                rows += await _revoke(generations, users, readers, revocations)
                advance()
        return rows

    return Study("Revoked to enforced", len(processes), measure)


async def _start() -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.reader"),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
        limit=LINE_BYTES,
    )


async def _revoke(
    generations: Generations, users: Sequence[str], readers: Sequence[Process], revocations: int
) -> list[Result]:
    await _tell(readers)
    dice, loop = random.Random(11), asyncio.get_running_loop()
    began = loop.time()
    for _ in range(revocations):
        await generations.invalidate_user(dice.choice(users))
        await asyncio.sleep(dice.uniform(0.005, 0.015))
    await asyncio.sleep(SETTLE_SECONDS)
    happened = await _tell(readers)
    elapsed = loop.time() - began
    times = [seconds * 1000 for one in happened for seconds in one.seconds]
    if len(times) != revocations * len(readers):
        raise BenchmarkError(
            f"{len(times)} of {revocations * len(readers)} invalidations were enforced"
        )
    near, other = sum(one.near for one in happened), sum(one.other for one in happened)
    plural = "process" if len(readers) == 1 else "processes"
    case = f"revoked to enforced, {len(readers)} {plural}"
    return [
        row(case, "p50", percentile(times, 0.5), "ms"),
        row(case, "p99", percentile(times, 0.99), "ms"),
        row(case, "max", max(times), "ms"),
        row(case, "decisions_per_second", (near + other) / elapsed, "1/s"),
        row(case, "near_share", near / (near + other), "1"),
    ]


async def _tell(readers: Sequence[Process]) -> list[Happened]:
    answers = await asyncio.gather(*(ask(process, {}) for process in readers))
    return [msgspec.json.decode(answer, type=Happened) for answer in answers]
