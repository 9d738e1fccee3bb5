"""What keeps the near cache coherent: the change feed, the bound, and how soon changes arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
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
MAX_MESSAGE_BYTES = 1024
SCOPES = get_args(Scope)
# A start that is refused says itself why; until then nobody has missed the near cache.
PATIENCE_SECONDS = 1.0
NEVER = float("-inf")


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
        self.serves_until = NEVER
        """Until when the cache may be asked without ``get_coherent``, on the event loop's clock.

        That is the bound after the last heartbeat, as ``get_coherent`` saw it last. A break of the
        connection takes it back.
        """
        self._serving = False
        self._told = ""
        self._told_after = float("inf")
        self._closing = False
        self._verified = 0
        self._interval = bound / HEARTBEATS_PER_BOUND
        self._feed = store.change_feed(
            on_change=self._changed, on_message=self._heard, interval=self._interval
        )
        self._tasks: list[asyncio.Task[None]] = []
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

    @property
    def failure(self) -> str:
        """Why it does not serve; empty while it does."""
        if self.serving:
            return ""
        return self._feed.failure or f"nothing was heard for more than {self.bound:g} s"

    @property
    def reconnects(self) -> int:
        """How often the feed's connection failed."""
        return self._feed.reconnects

    @property
    def served(self) -> int:
        """Decisions given by the near cache alone, without asking the server."""
        return self.cache.stats().hits - self._verified

    def start(self) -> None:
        """Follow changes in the background until ``close``."""
        self._told_after = self.now() + PATIENCE_SECONDS
        self._feed.start()
        self._tasks = [
            asyncio.create_task(self._read_clock_forever(), name="sark-clock"),
            asyncio.create_task(self._watch_forever(), name="sark-near-watch"),
        ]

    async def close(self) -> None:
        """Stop, and drop everything."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._feed.close()

    def get(self, key: bytes, now: float) -> NearEntry | None:
        """Find a decision whose stamp will be compared with the server's tokens.

        The tokens don't tell of a decision that was replaced under them, so the bound counts too.
        """
        entry = self.get_coherent(key, now)
        if entry is not None:
            self._verified += 1
        return entry

    def get_coherent(self, key: bytes, now: float) -> NearEntry | None:
        """Find a decision that is valid as of no longer than the bound ago."""
        within = now - self._feed.coherent_at <= self.bound
        if within is not self._serving:
            self._switch(within)
        if not within:
            return None
        self.serves_until = self._feed.coherent_at + self.bound
        return self.cache.get(key, now)

    def _judge(self) -> None:
        """Report what has become of the feed, also when nobody asks."""
        serving = self.serving
        if serving is not self._serving:
            self._switch(serving)
        elif self._feed.failure and not self._told and self.now() > self._told_after:
            # It has never served.
            self._told = self._feed.failure
            self._hub.emit(NearCacheChanged(serving=False, reason=self._told))

    def _switch(self, serving: bool) -> None:
        self._serving = serving
        self._told = self.failure
        if not serving:
            # What was kept while the feed was silent is suspect, also when it speaks again.
            self.cache.empty()
        self._hub.emit(NearCacheChanged(serving, self._told))

    def _changed(self, keys: Sequence[bytes] | None) -> None:
        self.cache.changed(keys)
        if keys is None:
            self.serves_until = NEVER
            if not self._closing:
                self._judge()

    def _changed_here(self, event: GenerationChanged) -> None:
        match event.scope:
            case "all":
                key = self._keys.policy_generation
            case "policy":
                key = self._keys.policy_version(event.name)
            case "user":
                key = self._keys.policy_user_version(event.name)
        self.cache.revoked(key.encode())

    def _heard(self, message: bytes) -> None:
        """Apply what a message tells; anything else in the channel is not ours."""
        kind, _, rest = message[:MAX_MESSAGE_BYTES].partition(b" ")
        first, _, key = rest.partition(b" ")
        if kind == b"decision":
            began = generation_time(first)
            if began:
                self.cache.replaced(key, began)
        elif kind.decode(errors="replace") in SCOPES:
            self._revoked(kind.decode(), first, key)

    def _revoked(self, scope: str, token: bytes, key: bytes) -> None:
        """Enforce an invalidation here, then measure how long it took from the server.

        The message comes before the feed's word of the changed key.
        """
        self.cache.revoked(key)
        written = generation_time(token) / 1_000_000
        if self._clock.known and written:
            seconds = max(0.0, self._clock.now() - written)
            self._hub.emit(Enforced(scope, seconds))

    async def _watch_forever(self) -> None:
        while True:
            self._judge()
            await asyncio.sleep(self._interval)

    async def _read_clock_forever(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                await self._clock.read()
            await asyncio.sleep(CLOCK_INTERVAL_SECONDS if self._clock.known else 0.05)
