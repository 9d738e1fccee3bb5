"""The peers' process: ``.venv-bench/bin/python -m benchmarks.peers``.

It reads one JSON object per line. The first names the server and the decisions, each further one
is an order, to which it answers with a line of times. It shares the loops and the clock of
``benchmarks.measure`` with the measurements in process, and nothing of the library.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import redis.asyncio as redis_asyncio  # type: ignore[import-not-found]
import uvloop
from aiocache import RedisCache  # type: ignore[import-not-found]
from aiocache.serializers import JsonSerializer  # type: ignore[import-not-found]
from cashews import Cache, register_backend  # type: ignore[import-not-found]
from cashews.backends.redis import Redis  # type: ignore[import-not-found]
from cashews.backends.redis.client_side import (  # type: ignore[import-not-found]
    BcastClientSide,
)
from cashews.picklers import PicklerType  # type: ignore[import-not-found]

from benchmarks.measure import (
    BenchmarkError,
    no_collection,
    one_after_the_other,
    several_at_once,
)

CONNECTIONS = 20
TTL_SECONDS = 3600
LINE_BYTES = 2**24

Get = Callable[[str], Awaitable[Any]]
Set = Callable[[str, Any], Awaitable[Any]]


def _cashews(**params: Any) -> Any:
    return BcastClientSide(**params) if params.pop("client_side", False) else Redis(**params)


@contextlib.asynccontextmanager
async def _caches(url: str) -> AsyncIterator[dict[str, tuple[Get, Set]]]:
    """Open every peer: how it gets a decision, and how it stores one.

    All of them decode JSON, which the decisions are kept as. cashews has no name for unix sockets;
    the classes behind the name are its own.
    """
    register_backend("unix", _cashews, pass_uri=True, pickler=PicklerType.JSON)
    plain, near = Cache(), Cache()
    plain.setup(url, max_connections=CONNECTIONS)
    near.setup(f"{url}?client_side=true", max_connections=CONNECTIONS)
    third = RedisCache(serializer=JsonSerializer(), namespace="aiocache")
    third.client = redis_asyncio.Redis.from_url(url)
    await plain.init()
    await near.init()
    try:
        yield {
            "cashews": (plain.get, lambda k, v: plain.set(k, v, expire=TTL_SECONDS)),
            "cashews, client side": (near.get, lambda k, v: near.set(k, v, expire=TTL_SECONDS)),
            "aiocache": (third.get, lambda k, v: third.set(k, v, ttl=TTL_SECONDS)),
        }
    finally:
        await plain.close()
        await near.close()
        await third.client.aclose()


async def _serve(lines: asyncio.StreamReader) -> None:
    task = json.loads(await lines.readline())
    asked = [question for question, _ in task["decisions"]]
    async with _caches(task["url"]) as caches:
        for get, put in caches.values():
            for question, decision in task["decisions"]:
                key = _key(question)
                await put(key, decision)
                if await get(key) != decision:
                    raise BenchmarkError(f"not what was stored under {key}")
        _answer({"ready": list(caches)})
        async for line in lines:
            order = json.loads(line)
            try:
                _answer(await _round(caches[order["case"]][0], asked, order))
            except (BenchmarkError, OSError) as error:
                _answer({"error": str(error) or type(error).__name__})


def _key(asked: list[Any]) -> str:
    """Derive a key as the optimization guide does."""
    policy, user_id, action, resource, context = asked
    data = {
        "policy": policy,
        "user_id": user_id,
        "action": action,
        "resource": resource,
        "context": context,
    }
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return f"peers::decision:{digest}"


async def _round(get: Get, asked: list[Any], order: dict[str, Any]) -> dict[str, Any]:
    first, calls, callers = order["first"], order["calls"], order["callers"]
    keys = [_key(one) for one in asked]

    def known(number: int) -> Awaitable[Any]:
        return get(keys[number % len(keys)])

    def derived(number: int) -> Awaitable[Any]:
        return get(_key(asked[number % len(asked)]))

    operation = derived if order["derive"] else known

    with no_collection():
        if callers == 1:
            sample = await one_after_the_other(operation, calls, first=first, accept=_is_decision)
        else:
            sample = await several_at_once(
                operation, calls, callers=callers, first=first, accept=_is_decision
            )
    return {"latencies": list(sample.latencies), "elapsed": sample.elapsed}


def _is_decision(found: Any) -> bool:
    return isinstance(found, dict) and "allow" in found


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _main() -> None:
    lines = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    await _serve(lines)


if __name__ == "__main__":
    (asyncio.run if "--asyncio" in sys.argv else uvloop.run)(_main())
