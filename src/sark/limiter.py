"""A rate limiter without the rest: no policies, no audit queue."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from sark.events import Hub
from sark.ratelimit import Limit, RateLimiter
from sark.runtime import background
from sark.settings import Settings
from sark.store import Store, Topology
from sark.store.embedded import EmbeddedServer
from sark.store.embedded.watch import keep_running

__all__ = ["open_limiter"]


@contextlib.asynccontextmanager
async def open_limiter(
    settings: Settings, *, hub: Hub | None = None, ephemeral: bool = False
) -> AsyncIterator[RateLimiter]:
    """Open a limiter, on an embedded Valkey unless ``VALKEY_URL`` is set.

    Args:
        settings: Where Valkey is and what the limits are.
        hub: Where events go.
        ephemeral: Let an embedded server forget its data at the end.

    Raises:
        ConfigurationError: The settings are not usable or the embedded server doesn't start.
    """
    async with contextlib.AsyncExitStack() as stack:
        topology = Topology.of(settings)
        if topology is None:
            embedded = EmbeddedServer(settings.data_dir, ephemeral=ephemeral)
            await stack.enter_async_context(embedded)
            await stack.enter_async_context(background(keep_running(embedded), "sark-embedded"))
            topology = Topology.single(embedded.url)
        store = await stack.enter_async_context(Store(topology, settings, hub or Hub()))
        most = settings.limit_per_minute
        limiter = RateLimiter(store, Limit(most) if most else None)
        await stack.enter_async_context(
            background(limiter.near.flush_forever(), "sark-near-limits")
        )
        yield limiter
