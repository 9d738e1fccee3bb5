"""Near caches for tests: gateways that have one, and revocations from elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sark.events import Hub
from sark.gateway import Gateway
from sark.policy import Decision, Question
from sark.policy.decisions import Decisions
from sark.policy.evaluators import Evaluator
from sark.policy.near import NearCache
from sark.policy.near_feed import NearFeed
from tests.support.gateways import Scripted, open_gateway, open_store
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
    for question in questions:
        deadline = time.monotonic() + 10
        while (await decisions.decide(question)).source != "near":
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
