"""What keeps the near cache coherent: the change feed, the bound, and how soon changes arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import get_args

from sark.errors import StoreError
from sark.events import Enforced, GenerationChanged, Hub, NearCacheChanged
from sark.policy.freshness import Scope, generation_time
from sark.policy.near import NearCache, NearEntry
from sark.store import ServerClock, Store

__all__ = ["NearFeed"]

HEARTBEATS_PER_BOUND = 5
CLOCK_INTERVAL_SECONDS = 5.0
# Anyone may publish anything; ours are far shorter.
MAX_MESSAGE_BYTES = 256
SCOPES = get_args(Scope)


class NearFeed:
    """A near cache with its change feed.

    Args:
        store: Whose generations are followed.
        cache: The near cache.
        bound: Most seconds that the feed may lag when the near cache is used alone.
    """

    def __init__(self, store: Store, cache: NearCache, *, bound: float) -> None:
        self.cache = cache
        self.bound = bound
        self.now: Callable[[], float] = asyncio.get_running_loop().time
        self._hub: Hub = store.hub
        self._clock = ServerClock(store.state)
        self._serving = False
        self._feed = store.change_feed(
            on_change=cache.changed,
            on_message=self._revoked,
            interval=bound / HEARTBEATS_PER_BOUND,
        )
        self._clock_task: asyncio.Task[None] | None = None
        self._keys = store.keys
        # Who revokes in this process need not wait for the news to come back from the server.
        store.hub.on(GenerationChanged, self._changed_here)

    @property
    def lag(self) -> float:
        """Seconds since the moment up to which everything has been heard."""
        return self.now() - self._feed.coherent_at

    @property
    def serving(self) -> bool:
        """Whether the feed is within the bound."""
        return self.lag <= self.bound

    def start(self) -> None:
        """Follow changes in the background until ``close``."""
        self._feed.start()
        self._clock_task = asyncio.create_task(self._read_clock_forever(), name="sark-clock")

    async def close(self) -> None:
        """Stop, and drop everything."""
        if self._clock_task is not None:
            self._clock_task.cancel()
            await asyncio.gather(self._clock_task, return_exceptions=True)
        await self._feed.close()

    def get(self, key: bytes, now: float) -> NearEntry | None:
        """Find a decision whose stamp will be compared with the server's tokens."""
        return self.cache.get(key, now)

    def get_coherent(self, key: bytes, now: float) -> NearEntry | None:
        """Find a decision that is valid as of no longer than the bound ago."""
        within = now - self._feed.coherent_at <= self.bound
        if within is not self._serving:
            self._switch(within)
        return self.cache.get(key, now) if within else None

    def _switch(self, serving: bool) -> None:
        self._serving = serving
        if not serving:
            # What was kept while the feed was silent is suspect, also when it speaks again.
            self.cache.empty()
        self._hub.emit(NearCacheChanged(serving))

    def _changed_here(self, event: GenerationChanged) -> None:
        match event.scope:
            case "all":
                self.cache.empty()
            case "policy":
                self.cache.changed([self._keys.policy_version(event.name).encode()])
            case "user":
                self.cache.changed([self._keys.policy_user_version(event.name).encode()])

    def _revoked(self, message: bytes) -> None:
        """Measure how long an invalidation took from the server to here."""
        scope, _, token = message[:MAX_MESSAGE_BYTES].decode(errors="replace").partition(" ")
        written = generation_time(token.encode()) / 1_000_000
        if self._clock.known and written and scope in SCOPES:
            seconds = max(0.0, self._clock.now() - written)
            self._hub.emit(Enforced(scope, seconds))

    async def _read_clock_forever(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                await self._clock.read()
            await asyncio.sleep(CLOCK_INTERVAL_SECONDS if self._clock.known else 0.05)
