"""The circuit breakers' process: ``.venv-bench/bin/python -m benchmarks.peers.breakers``.

Like ``benchmarks.peers.limiters`` it reads one JSON object per line: the server first, then orders,
each answered with a line of times. One call goes through a closed breaker whose state is in the
server. pybreaker has no asynchronous storage, so its calls block the loop.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pybreaker  # type: ignore[import-not-found]
import redis  # type: ignore[import-not-found]
import uvloop
from purgatory import AsyncCircuitBreakerFactory, AsyncRedisUnitOfWork  # type: ignore[import-not-found]

from benchmarks.measure import BenchmarkError, no_collection, one_after_the_other

Call = Callable[[int], Awaitable[bool]]


async def _purgatory(url: str) -> Call:
    factory = AsyncCircuitBreakerFactory(uow=AsyncRedisUnitOfWork(url))
    await factory.initialize()

    async def call(_number: int) -> bool:
        async with await factory.get_breaker("bench-purgatory"):
            return True

    return call


async def _pybreaker(url: str) -> Call:
    client = redis.Redis.from_url(url)
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, "bench-pybreaker")
    breaker = pybreaker.CircuitBreaker(state_storage=storage)

    async def call(_number: int) -> bool:
        return bool(breaker.call(_answer_true))

    return call


def _answer_true() -> bool:
    return True


async def _serve(lines: asyncio.StreamReader) -> None:
    url = json.loads(await lines.readline())["url"]
    calls = {"purgatory": await _purgatory(url), "pybreaker": await _pybreaker(url)}
    for name, call in calls.items():
        if not await call(0):
            raise BenchmarkError(f"{name} refuses the first call")
    _answer({"ready": list(calls)})
    async for line in lines:
        order = json.loads(line)
        with no_collection():
            sample = await one_after_the_other(
                calls[order["case"]], order["calls"], first=0, accept=bool
            )
        _answer({"latencies": list(sample.latencies), "elapsed": sample.elapsed})


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
