"""A rate limiter without the rest: no policies, no audit queue."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from sark.events import Hub
from sark.file_watch import FileWatcher, fingerprint
from sark.ops.logs import report_events
from sark.parts.background import background
from sark.parts.limits import default_limit, limiter_of
from sark.ratelimit import RateLimiter
from sark.ratelimit.reload import LimitsReloader
from sark.ratelimit.rules_file import read_rules
from sark.settings import Settings
from sark.store import Store, Topology
from sark.store.embedded import EmbeddedServer
from sark.store.embedded.watch import keep_running

__all__ = ["open_limiter"]


@contextlib.asynccontextmanager
async def open_limiter(
    settings: Settings, *, hub: Hub | None = None, ephemeral: bool = False, logs: bool = True
) -> AsyncIterator[RateLimiter]:
    """Open a limiter, on an embedded Valkey unless ``VALKEY_URL`` is set.

    Its rules come from ``SARK_LIMITS_FILE`` and are read again when that changes.

    Args:
        settings: Where Valkey is and what the limits are.
        hub: Where events go, for metrics and reports of one's own.
        ephemeral: Let an embedded server forget its data at the end.
        logs: Log what goes wrong, under the name ``sark``; False for a hub that is logged already.

    Raises:
        ConfigurationError: The limits file is not usable or the embedded server doesn't start.
    """
    hub = hub or Hub()
    if logs:
        report_events(hub)
    default = default_limit(settings)
    paths = [] if settings.limits_file is None else [settings.limits_file]
    seen = fingerprint(paths)
    rules = read_rules(settings.limits_file, default)
    async with contextlib.AsyncExitStack() as stack:
        topology = Topology.of(settings)
        if topology is None:
            embedded = EmbeddedServer(settings.data_dir, ephemeral=ephemeral)
            await stack.enter_async_context(embedded)
            await stack.enter_async_context(background(keep_running(embedded), "sark-embedded"))
            topology = Topology.single(embedded.url)
        store = await stack.enter_async_context(Store(topology, settings, hub))
        limiter = limiter_of(settings, store, rules)
        await stack.enter_async_context(
            background(limiter.near.flush_forever(), "sark-near-limits")
        )
        reloader = LimitsReloader(limiter, settings.limits_file, default, hub=hub)
        watcher = FileWatcher(reloader, paths, seen, interval=settings.policy_watch_interval)
        await stack.enter_async_context(background(watcher.run(), "sark-limits"))
        yield limiter
