"""Near caches for tests: gateways that have one, and revocations from elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import valkey.asyncio

from sark.events import Enforced, Hub
from sark.gateway import Gateway
from sark.policy import Decision, Question
from sark.policy.decisions import Decisions
from sark.policy.evaluators import Evaluator
from sark.policy.near import NearCache
from sark.policy.near_feed import NearFeed
from tests.support.gateways import Scripted, ask, open_gateway, open_store, question
from tests.support.polling import until

BOUND_SECONDS = 0.25
# The bound is judged on a machine that runs other tests too.
MARGIN_SECONDS = 0.05


@asynccontextmanager
async def open_near(
    url: str,
    *,
    bound: float = BOUND_SECONDS,
    entries: int = 10_000,
    size: int = 10_000_000,
    hub: Hub | None = None,
) -> AsyncIterator[NearFeed]:
    """Open a near cache that hears the server at ``url``, and wait until it does."""
    async with open_store(url, hub=hub) as store:
        cache = NearCache(
            max_entries=entries, max_bytes=size, generation_key=store.keys.policy_generation
        )
        near = NearFeed(store, cache, bound=bound)
        near.start()
        try:
            await serving(near)
            yield near
        finally:
            await near.close()


@asynccontextmanager
async def near_gateway(
    url: str,
    evaluator: Evaluator | None = None,
    *,
    feed_url: str | None = None,
    hub: Hub | None = None,
    near: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """Open a gateway with a near cache, whose feed may have a way of its own.

    Args:
        url: The server.
        evaluator: Decides.
        feed_url: The server by way of which the feed hears changes.
        hub: Where events go.
        near: Options of ``open_near``.
        options: Options of ``open_gateway``.
    """
    async with (
        open_gateway(url, evaluator, hub=hub, **options) as gateway,
        open_near(feed_url or url, hub=hub, **(near or {})) as feed,
    ):
        gateway.decisions.near = feed
        yield gateway


async def serving(near: NearFeed) -> None:
    """Wait until a near cache may answer by itself."""
    await until(lambda: near.serving, within=10, what="the near cache serves")


async def warm(decisions: Decisions, *questions: Question) -> None:
    """Ask until the near cache answers."""
    for asked in questions:
        deadline = time.monotonic() + 10
        while (await decisions.decide(asked)).source != "near":
            assert time.monotonic() < deadline, "the near cache never answers"
            await asyncio.sleep(0.001)


def near_of(decisions: Decisions) -> NearFeed:
    """Give the near cache of something that has one."""
    assert decisions.near is not None
    return decisions.near


class Numbered(Scripted):
    """Gives each evaluation the next number as its reason, so that answers have an age."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.number = 0
        self.fields = fields
        self.decide = self._next

    async def _next(self, _policy: str, _input: bytes) -> Decision:
        self.number += 1
        return Decision(allow=True, reason=str(self.number), **self.fields)


# Several processes at once. What they run must be found by name, so it stands here.

FLAG = "test:denied:{}"
READY = "test:readers"
DONE = "test:readers:done"
MAX_READ_SECONDS = 60.0


class Flagged(Scripted):
    """Denies the users that are flagged in Valkey, which is how a test changes its mind."""

    def __init__(self, url: str) -> None:
        super().__init__(self._flagged)
        self._client = valkey.asyncio.Valkey.from_url(url, socket_timeout=5.0)

    async def _flagged(self, _policy: str, input_json: bytes) -> Decision:
        user: str = msgspec.json.decode(input_json)["user_id"]
        return Decision(allow=not await self._client.exists(FLAG.format(user)))

    async def close(self) -> None:
        await self._client.aclose()


class ReaderReport(NamedTuple):
    """What one reader saw.

    Attributes:
        allowed: By way of asking and user, when the last question began that was answered with
            allow; on the system's monotonic clock, in seconds.
        denied: By way of asking, the users that were denied at last.
        sources: How many answers came from where.
        enforced: Seconds from each revocation to its effect here.
    """

    allowed: dict[str, dict[str, float]]
    denied: dict[str, set[str]]
    sources: dict[str, int]
    enforced: list[float]


@dataclass(frozen=True)
class ReadWork:
    """Asks about users without end: near cache, ``authorize``, and neither.

    It ends when ``DONE`` is set, and about each user is asked once more then.

    Args:
        url: The server.
        users: Who is asked about.
        feed_url: The server by way of which near caches hear changes.
    """

    url: str
    users: tuple[str, ...]
    feed_url: str | None = None

    def __call__(self, _number: int) -> ReaderReport:
        return asyncio.run(self._run())

    async def _run(self) -> ReaderReport:
        hub, enforced = Hub(), list[Enforced]()
        hub.on(Enforced, enforced.append)
        evaluator = Flagged(self.url)
        ways = ("decide", "authorize", "plain")
        allowed: dict[str, dict[str, float]] = {way: {} for way in ways}
        denied: dict[str, set[str]] = {way: set() for way in ways}
        sources: Counter[str] = Counter()
        async with (
            near_gateway(self.url, evaluator, feed_url=self.feed_url, hub=hub) as near,
            open_gateway(self.url, evaluator) as plain,
        ):
            await until(lambda: near_of(near.decisions)._clock.known, within=10, what="clock")
            await plain.store.state.execute("INCR", READY)
            done = False

            async def ask_on(way: str, users: Iterable[str]) -> None:
                for user in users:
                    began = time.monotonic()
                    if done and users is not self.users:
                        return
                    if way == "authorize":
                        answer = await near.authorize(ask(user))
                        allow, source = answer.allow, str(answer.cached)
                    else:
                        gateway = near if way == "decide" else plain
                        outcome = await gateway.decisions.decide(question(user))
                        allow, source = outcome.allow, str(outcome.source)
                        # A near hit never waits; others must have their turn.
                        await asyncio.sleep(0)
                    sources[f"{way} {source}"] += 1
                    if allow:
                        allowed[way][user] = began
                        denied[way].discard(user)
                    else:
                        denied[way].add(user)

            asking = asyncio.gather(
                *(ask_on(way, itertools.cycle(self.users)) for way in ways for _ in range(2))
            )
            deadline = time.monotonic() + MAX_READ_SECONDS
            while not await plain.store.state.execute("EXISTS", DONE):
                assert time.monotonic() < deadline, "nobody says that it is over"
                await asyncio.sleep(0.05)
            done = True
            await asking
            await asyncio.gather(*(ask_on(way, self.users) for way in ways))
        await evaluator.close()
        return ReaderReport(allowed, denied, dict(sources), [e.seconds for e in enforced])
