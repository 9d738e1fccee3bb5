"""The HTTP client, a process of its own: ``python -m benchmarks.http_load``.

It reads one JSON object per line. The first says what to send, each further one is an order, to
which it answers with a line of times. So the service never pays for the client's Python.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from typing import Any

import aiohttp
import msgspec
import uvloop

from benchmarks.measure import (
    BenchmarkError,
    no_collection,
    one_after_the_other,
    several_at_once,
)

__all__ = ["Order", "Task", "Times"]

HEADERS = {"Content-Type": "application/json"}
OK = 200


class Task(msgspec.Struct, frozen=True):
    """What to send.

    Attributes:
        url: Where to.
        bodies: Request bodies, sent in turn.
    """

    url: str
    bodies: list[str]


class Order(msgspec.Struct, frozen=True):
    """One round.

    Attributes:
        connections: How many connections send requests at the same time.
        requests: How many requests to send in all.
    """

    connections: int
    requests: int


class Times(msgspec.Struct, frozen=True):
    """What a round took, in nanoseconds; ``error`` says why there is nothing to tell."""

    latencies: list[int] = []
    elapsed: int = 0
    error: str | None = None


async def _serve(task: Task, lines: asyncio.StreamReader) -> None:
    bodies = [body.encode() for body in task.bodies]
    numbers = count()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=HEADERS
    ) as session:

        async def post(_: int) -> tuple[int, bytes]:
            body = bodies[next(numbers) % len(bodies)]
            async with session.post(task.url, data=body) as response:
                return response.status, await response.read()

        async for line in lines:
            order = msgspec.json.decode(line, type=Order)
            try:
                times = await _round(post, order)
            except (BenchmarkError, aiohttp.ClientError, OSError) as error:
                times = Times(error=str(error) or type(error).__name__)
            sys.stdout.buffer.write(msgspec.json.encode(times) + b"\n")
            sys.stdout.buffer.flush()


async def _round(post: Any, order: Order) -> Times:
    with no_collection():
        if order.connections == 1:
            sample = await one_after_the_other(post, order.requests, first=0, accept=_is_hit)
        else:
            sample = await several_at_once(
                post, order.requests, callers=order.connections, first=0, accept=_is_hit
            )
    return Times(list(sample.latencies), sample.elapsed)


def _is_hit(reply: tuple[int, bytes]) -> bool:
    status, body = reply
    return status == OK and b'"cached":false' not in body


async def _main() -> None:
    lines = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    await _serve(msgspec.json.decode(await lines.readline(), type=Task), lines)


if __name__ == "__main__":
    uvloop.run(_main())
