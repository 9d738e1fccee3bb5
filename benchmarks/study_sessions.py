"""Sessions: what one takes on the server, and what verifying its access token costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

from valkey.asyncio import Valkey

from benchmarks.driver import open_drivers
from benchmarks.measure import BenchmarkError, Sample, no_collection, one_after_the_other
from benchmarks.results import Result
from benchmarks.study import Advance, Study, row
from benchmarks.study_memory import used_memory
from benchmarks.workload import POLICIES
from sark import Settings, open_runtime
from sark.events import Hub
from sark.parts.sessions import open_access_tokens
from sark.runtime import Runtime
from sark.sessions import AccessClaims
from sark.sessions.tokens.keys import Algorithm

__all__ = ["session_study"]

BATCH = 100
TTL_SECONDS, TOKEN_SECONDS = 604_800, 900
BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36 Edg/126.0.2592.113"
)
SESSION, GUIDE = "session", "session, the guide's hash and token"

Begin = Callable[[int], Awaitable[Any]]


def session_study(sessions: int, verifications: int) -> Study:
    """Bytes per session with all fields, index and token; times of verifications."""

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        guide, ours = await _bytes_each(directory / "memory", sessions)
        advance()
        rows = [
            row(GUIDE, "bytes", guide, "bytes"),
            row(SESSION, "bytes", ours, "bytes", baseline=GUIDE, base=guide),
        ]
        for algorithm in get_args(Algorithm):
            rows += await _verifications(directory / algorithm, algorithm, verifications)
            advance()
        return rows

    return Study("Sessions", 1 + len(get_args(Algorithm)), measure)


async def _bytes_each(directory: Path, sessions: int) -> tuple[float, float]:
    """Fill a fresh server twice; bytes of its ``used_memory`` for each session."""
    settings = Settings(data_dir=directory, policy_dir=POLICIES, near_cache_entries=0)
    async with open_runtime(settings, ephemeral=True) as runtime:
        assert runtime.embedded is not None  # noqa: S101 - no server was named
        async with open_drivers(runtime.embedded.url) as drivers:
            client = drivers.lean
            return (
                await _growth(client, _guides(client), sessions),
                await _growth(client, _ours(runtime), sessions),
            )


async def _growth(client: Valkey, begin: Begin, sessions: int) -> float:
    # The first one loads the script, and opens the connections.
    await asyncio.gather(*(begin(number) for number in range(BATCH)))
    # At once: a server that frees in the background would seem to shrink while it is filled.
    await client.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]
    before = await used_memory(client)
    for start in range(0, sessions, BATCH):
        await asyncio.gather(*(begin(number) for number in range(start, start + BATCH)))
    return (await used_memory(client) - before) / sessions


def _ours(runtime: Runtime) -> Begin:
    return lambda number: runtime.sessions.create(
        f"user-{number:06}",
        client_id="web",
        ip="192.0.2.10",
        user_agent=BROWSER,
        tier="gold",
    )


def _guides(client: Valkey) -> Begin:
    """Write what the optimization guide keeps of a session, whole user agent and all."""

    def begin(number: int) -> Awaitable[Any]:
        user, session = f"user-{number:06}", f"{number:08}-1111-7222-8333-444444444444"
        jti, name = f"jti-{number:018}", f"session:user:{user}:{session}"
        fields: dict[Any, Any] = {
            "user_id": user,
            "access_token_jti": jti,
            "refresh_token_hash": f"{number:043}",
            "created_at": "1793000000.123456",
            "last_activity": "1793000000.123456",
            "ip_address": "192.0.2.10",
            "user_agent": BROWSER,
            "role": "gold",
        }
        pipe = client.pipeline(transaction=False)
        pipe.hset(name, mapping=fields)
        pipe.expire(name, TTL_SECONDS)
        pipe.set(f"session:token:{jti}", session, ex=TOKEN_SECONDS)
        return pipe.execute()

    return begin


async def _verifications(directory: Path, algorithm: Algorithm, count: int) -> list[Result]:
    """Verify tokens for the first time, and again."""
    settings = Settings(
        data_dir=directory,
        token_algorithm=algorithm,
        token_cache_entries=count,
    )
    async with open_access_tokens(settings, Hub()) as tokens:
        issued_at = int(time.time())
        texts = [
            tokens.issue(
                AccessClaims(
                    settings.token_issuer,
                    f"user-{number:06}",
                    f"session-{number}",
                    f"token-{number}",
                    "web",
                    issued_at,
                    issued_at + TOKEN_SECONDS,
                )
            )
            for number in range(count)
        ]
        samples: list[Sample] = []
        for _ in range(2):
            with no_collection():
                samples.append(
                    await one_after_the_other(
                        lambda i: tokens.verify(texts[i]), count, first=0, accept=bool
                    )
                )
        if (tokens.misses, tokens.hits) != (count, count):
            raise BenchmarkError("tokens were not remembered as expected")
    cold, warm = (sample.latency(0.5) for sample in samples)
    name = f"{algorithm} verification"
    return [
        row(f"{name}, cold", "p50", cold, "us"),
        row(f"{name}, warm", "p50", warm, "us", baseline=f"{name}, cold", base=cold),
    ]
