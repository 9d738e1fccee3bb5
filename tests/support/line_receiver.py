"""A receiver of audit events over real HTTP, whose answers a test controls, and a sink for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
import msgspec
from aiohttp import web

from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.verdict import (
    Delivered,
    Partly,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
    Verdict,
)

ROOMY = SinkLimits(events=1000, bytes=2**22, event_bytes=2**20)

Answer = Callable[[list[str]], Awaitable[int] | int]
"""Gets the ids of a batch; returns the status of the answer."""


class Receiver:
    """Takes lines of JSON at ``/``. 202 takes them and asks to slow down, 207 takes the first.

    Attributes:
        url: Where it is.
        answer: Decides about a batch; 200 takes it.
        bad: Ids that it never takes: a batch with one of them is answered 400.
        batches: Ids of each batch that it took.
        requests: How many it was sent.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: Answer = lambda _: 200
        self.bad: set[str] = set()
        self.batches: list[list[str]] = []
        self.requests = 0

    @property
    def ids(self) -> list[str]:
        """Every id that it took, in order, as often as it took it."""
        return [event_id for batch in self.batches for event_id in batch]

    @property
    def duplicates(self) -> int:
        """How many it took again."""
        return sum(count - 1 for count in Counter(self.ids).values())

    async def take(self, request: web.Request) -> web.Response:
        """Answer one batch."""
        self.requests += 1
        body = await request.read()
        ids = [str(msgspec.json.decode(line)["id"]) for line in body.splitlines()]
        status = self.answer(ids)
        if not isinstance(status, int):
            status = await status
        if status in {200, 202} and self.bad & set(ids):
            status = 400
        if status == 207 and ids[0] in self.bad:
            status = 503
        if status in {200, 202}:
            self.batches.append(ids)
        if status == 207:
            self.batches.append(ids[:1])
        return web.Response(status=status, text="told by the test")


@asynccontextmanager
async def open_receiver(port: int = 0) -> AsyncIterator[Receiver]:
    """Start a receiver on a free port, or on one that it had before."""
    receiver = Receiver("")
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        found = runner.addresses[0][1]
        receiver.url = f"http://127.0.0.1:{found}/"
        yield receiver
    finally:
        await runner.cleanup()


class LinesSink:
    """Posts a batch as lines. Use as an async context manager."""

    def __init__(self, url: str, limits: SinkLimits = ROOMY, *, seconds: float = 5.0) -> None:
        self._url = url
        self._limits = limits
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    @property
    def limits(self) -> SinkLimits:
        return self._limits

    async def open(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._seconds)
        self._session = aiohttp.ClientSession(timeout=timeout)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        assert self._session is not None
        body = b"\n".join(entry.body for entry in entries)
        try:
            async with self._session.post(self._url, data=body) as response:
                await response.read()
                return _verdict(response.status, len(entries))
        except (aiohttp.ClientError, TimeoutError) as error:
            return Unavailable(type(error).__name__)


def _verdict(status: int, count: int) -> Verdict:
    verdicts: dict[int, Verdict] = {
        200: Delivered(),
        202: Delivered(slow_down=True),
        207: Partly(retry=frozenset(range(1, count)), reason="207"),
        400: Rejected("400"),
        401: Unauthorized("401"),
        413: TooLarge("413"),
        429: Throttled("429", after=0.05),
    }
    return verdicts.get(status, Unavailable(str(status)))


async def hang(_: list[str]) -> int:
    """Answer never, or rather at the end of the test."""
    await asyncio.sleep(3600)
    return 200
