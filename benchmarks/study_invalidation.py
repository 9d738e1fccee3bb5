"""The price of a user's invalidation among many decisions, beside a sweep as the guide does it."""

from __future__ import annotations

import random
from pathlib import Path
from time import perf_counter_ns

from valkey.asyncio import Valkey

from benchmarks.driver import open_drivers
from benchmarks.measure import BenchmarkError, percentile
from benchmarks.results import Result
from benchmarks.study import Advance, Study, row
from benchmarks.study_memory import reason_of
from benchmarks.workload import POLICIES
from sark import Settings, open_runtime
from sark.events import RoundTrip
from sark.policy import Decision, Question
from sark.policy.cache import PolicyCache
from sark.policy.decision import encode_entry

__all__ = ["invalidation_study"]

USERS = 1000
REPEATS = 50
SCAN_COUNT = 1000
BATCH = 1000
TTL_SECONDS = 3600
STAMP = "k3V0c2Fyay"


def invalidation_study(decisions: int) -> Study:
    """Round trips and milliseconds until a user's decisions are invalid."""

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        settings = Settings(data_dir=directory, policy_dir=POLICIES, near_cache_entries=0)
        async with open_runtime(settings, ephemeral=True) as runtime:
            assert runtime.embedded is not None  # noqa: S101 - no server was named
            trips: list[RoundTrip] = []
            runtime.hub.on(RoundTrip, trips.append)
            generations = runtime.gateway.decisions.cache.generations
            async with open_drivers(runtime.embedded.url) as drivers:
                await _store(drivers.lean, runtime.gateway.decisions.cache, decisions)
                advance()
                await generations.invalidate_user("somebody else")
                trips.clear()
                times = []
                for number in range(REPEATS):
                    began = perf_counter_ns()
                    await generations.invalidate_user(_user(number))
                    times.append(perf_counter_ns() - began)
                ours = (len(trips) / REPEATS, percentile(times, 0.5) / 1e6)
                advance()
                scan = await _scan(drivers.guide)
                sweep = await _sweep(drivers.guide, _user(0), decisions // USERS)
                advance()
        name = f"user's invalidation among {decisions:,}"
        case, sweeping, scanning = name, f"{name}, SCAN and GET", f"{name}, SCAN alone"
        return [
            row(case, "round_trips", ours[0], "1", baseline=sweeping, base=sweep[0]),
            row(case, "p50", ours[1], "ms", baseline=sweeping, base=sweep[1]),
            row(sweeping, "round_trips", sweep[0], "1"),
            row(sweeping, "time", sweep[1], "ms"),
            row(scanning, "round_trips", scan[0], "1"),
            row(scanning, "time", scan[1], "ms"),
        ]

    return Study("Price of a user's invalidation", 3, measure)


def _user(number: int) -> str:
    return f"user-{number % USERS:04}"


async def _store(client: Valkey, cache: PolicyCache, decisions: int) -> None:
    dice = random.Random(3)
    for start in range(0, decisions, BATCH):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + BATCH, decisions)):
            user = _user(number)
            question = Question.ask("sample", user, "server:read", f"server/web-{number}")
            reason = f"{user}: {reason_of(100, dice)}"
            value = encode_entry(Decision(allow=True, reason=reason), STAMP)
            pipe.set(cache.decision_key(question), value, ex=TTL_SECONDS)
        await pipe.execute()


async def _scan(client: Valkey) -> tuple[int, float]:
    """Walk through the keys only: what deleting every user's decisions would begin with."""
    trips = cursor = 0
    began = perf_counter_ns()
    while True:
        cursor, _ = await client.scan(cursor, match="policy:decision:*", count=SCAN_COUNT)
        trips += 1
        if cursor == 0:
            return trips, (perf_counter_ns() - began) / 1e6


async def _sweep(client: Valkey, user_id: str, least: int) -> tuple[int, float]:
    """Do what the optimization guide does: read every decision, delete those that name the user."""
    trips = cursor = deleted = 0
    began = perf_counter_ns()
    while True:
        cursor, keys = await client.scan(cursor, match="policy:decision:*", count=SCAN_COUNT)
        trips += 1
        for key in keys:
            trips += 1
            cached = await client.get(key)
            if cached and user_id in cached:
                await client.delete(key)
                trips += 1
                deleted += 1
        if cursor == 0:
            break
    if deleted < least:
        raise BenchmarkError(f"the sweep deleted {deleted} decisions, expected at least {least}")
    return trips, (perf_counter_ns() - began) / 1e6
