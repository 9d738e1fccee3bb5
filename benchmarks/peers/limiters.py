"""The limiters' process: ``.venv-bench/bin/python -m benchmarks.peers.limiters``.

Like ``benchmarks.peers``, it reads one JSON object per line: the server first, then orders, each
answered with a line of times. One call checks three limits, one after the other as these libraries
are used, and stops at the first that refuses. The name says the algorithm where it isn't a fixed
window; pyrate-limiter has none that processes share, and runs its GCRA.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis_asyncio  # type: ignore[import-not-found]
import uvloop
from limits import RateLimitItemPerMinute  # type: ignore[import-not-found]
from limits.aio.storage import RedisStorage  # type: ignore[import-not-found]
from limits.aio.strategies import (  # type: ignore[import-not-found]
    FixedWindowRateLimiter,
    SlidingWindowCounterRateLimiter,
)
from pyrate_limiter import (  # type: ignore[import-not-found]
    GCRA,
    Duration,
    Limiter,
    Rate,
    RedisStateStore,
    StateBucket,
)
from throttled.asyncio import (  # type: ignore[import-not-found]
    RedisStore,
    Throttled,
    per_min,
)

from benchmarks.measure import (
    BenchmarkError,
    no_collection,
    one_after_the_other,
    several_at_once,
)

CONNECTIONS = 50
MOST = 10**6
KEYS = ("user:user-0001", "ip:10.0.0.1", "apikey:key-00000001")

Check = Callable[[str], Awaitable[bool]]


def _limits(url: str, strategy: Any) -> Check:
    storage = RedisStorage(
        url.replace("unix://", "async+redis+unix://"),
        implementation="valkey",
        max_connections=CONNECTIONS,
    )
    limiter, limit = strategy(storage), RateLimitItemPerMinute(MOST)
    return lambda key: limiter.hit(limit, key)


def _throttled(url: str, algorithm: str) -> Check:
    store = RedisStore(server=url, options={"MAX_CONNECTIONS": CONNECTIONS})
    throttle = Throttled(using=algorithm, quota=per_min(MOST), store=store)

    async def check(key: str) -> bool:
        return not (await throttle.limit(key)).limited

    return check


def _pyrate(url: str) -> Check:
    client = redis_asyncio.Redis.from_url(url, max_connections=CONNECTIONS)
    rates = [Rate(MOST, Duration.MINUTE)]
    limiters = {
        key: Limiter(StateBucket(rates, GCRA(), RedisStateStore(client, f"pyrate:{key}")))
        for key in KEYS
    }

    async def check(key: str) -> bool:
        return bool(await limiters[key].try_acquire_async(key, blocking=False))

    return check


def _three(check: Check) -> Callable[[int], Awaitable[bool]]:
    async def operation(_number: int) -> bool:
        for key in KEYS:
            if not await check(key):
                return False
        return True

    return operation


async def _serve(lines: asyncio.StreamReader) -> None:
    url = json.loads(await lines.readline())["url"]
    checks = {
        "limits": _three(_limits(url, FixedWindowRateLimiter)),
        "limits, sliding": _three(_limits(url, SlidingWindowCounterRateLimiter)),
        "throttled-py": _three(_throttled(url, "fixed_window")),
        "throttled-py, gcra": _three(_throttled(url, "gcra")),
        "pyrate-limiter": _three(_pyrate(url)),
    }
    for name, check in checks.items():
        if not await check(0):
            raise BenchmarkError(f"{name} refuses the first call")
    _answer({"ready": list(checks)})
    async for line in lines:
        order = json.loads(line)
        try:
            _answer(await _round(checks[order["case"]], order["calls"], order["callers"]))
        except (BenchmarkError, OSError) as error:
            _answer({"error": str(error) or type(error).__name__})


async def _round(
    operation: Callable[[int], Awaitable[bool]], calls: int, callers: int
) -> dict[str, Any]:
    with no_collection():
        if callers == 1:
            sample = await one_after_the_other(operation, calls, first=0, accept=bool)
        else:
            sample = await several_at_once(operation, calls, callers=callers, first=0, accept=bool)
    return {"latencies": list(sample.latencies), "elapsed": sample.elapsed}


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _main() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    await _serve(lines)


if __name__ == "__main__":
    uvloop.run(_main())
