"""The shared circuit breaker: stop calling what is down, and find out with few calls when it is up.

::

    breaker = Breaker(store, "billing", BreakerConfig(failures=3))
    async with breaker.running():
        async with breaker:
            await call_billing()

All processes that use a name share its state; see ``rules.py`` for what that is and ``follower.py``
for how each of them comes to know it. A call through a closed breaker costs no round trip, a probe
of a half-open one costs one before the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from sark.breaker.config import BreakerConfig, Outcome
from sark.breaker.follower import Follower
from sark.breaker.permit import Permit
from sark.breaker.rules import REFUSED
from sark.breaker.shared import SharedState
from sark.breaker.snapshot import Snapshot
from sark.errors import BreakerOpen
from sark.events import BreakerChanged, Hub
from sark.store import Store

__all__ = ["Breaker"]

# The permit of the block that a task is in; a block within it has that as its ``outer``.
_innermost: ContextVar[Permit | None] = ContextVar("sark_breaker_permit", default=None)

P = ParamSpec("P")
R = TypeVar("R")


class Breaker:
    """Guards calls; see the module's description.

    Args:
        store: Where its state is.
        name: Shared by all who guard the same thing.
        config: Its rules; the same everywhere.
        hub: Where ``BreakerChanged`` goes; default is the store's.
        on_change: Called with each such event, too.

    Raises:
        InvalidRequestError: The name is empty or no text.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        config: BreakerConfig | None = None,
        *,
        hub: Hub | None = None,
        on_change: Callable[[BreakerChanged], None] | None = None,
    ) -> None:
        self.name = name
        self.config = config or BreakerConfig()
        self._hub = hub or store.hub
        self._listeners = Hub()
        if on_change is not None:
            self._listeners.on(BreakerChanged, on_change)
        self._shared = SharedState(store, name, self.config)
        self._follower = Follower(self._shared, self.config, self._changed)
        self._standing = self._follower.standing
        self._running = False
        self._asks: set[asyncio.Task[Permit]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Breaker]:
        """Keep in step with the other processes for the duration of a block.

        It begins with the shared state, or alone if Valkey does not answer, and at its end brings
        the last results.
        """
        if self._running:
            raise RuntimeError(f"the breaker {self.name} is running already")
        self._running = True
        follower = self._follower = Follower(self._shared, self.config, self._changed)
        self._standing = follower.standing
        await follower.sync()
        task = asyncio.create_task(follower.run(), name=f"sark-breaker-{self.name}")
        try:
            yield self
        finally:
            self._running = self._standing.passes = False
            await asyncio.gather(*self._asks, return_exceptions=True)
            follower.stop()
            try:
                await asyncio.shield(task)
            finally:
                task.cancel()

    async def acquire(self) -> Permit:
        """Ask for leave to make one call.

        Returns:
            A permit. Say how the call ended with one of its methods, whatever happens; the context
            manager and the decorator do so by themselves.

        Raises:
            BreakerOpen: The call may not be made.
            RuntimeError: The breaker is not running.
        """
        if self._standing.passes:
            return Permit(self, self._standing.epoch)
        return await self._ask()

    async def __aenter__(self) -> Permit:
        standing = self._standing
        permit = Permit(self, standing.epoch) if standing.passes else await self._ask()
        permit.outer = _innermost.get()
        _innermost.set(permit)
        return permit

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        permit = _innermost.get()
        if permit is None or permit.breaker is not self:
            # Left in another context than it was entered in, as generators may be: whose call it
            # was is not known. The lease of a probe ends by itself.
            return
        _innermost.set(permit.outer)
        if error is None:
            permit.succeeded()
        else:
            permit.raised(error)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """Guard every call of a coroutine function."""

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            permit = await self.acquire()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                permit.raised(error)
                raise
            classify = self.config.classify_result
            if classify is None:
                permit.succeeded()
            else:
                permit.ended(classify(result), "unwanted result")
            return result

        return guarded

    async def force_open(self, seconds: float | None = None) -> Snapshot:
        """Refuse all calls, everywhere, until told otherwise.

        Args:
            seconds: After which the next call is a probe; default: never.

        Raises:
            StoreError: It may not have happened.
        """
        return await self._force("open", seconds)

    async def force_closed(self, seconds: float | None = None) -> Snapshot:
        """Admit all calls, everywhere, whatever becomes of them; else as ``force_open``.

        Args:
            seconds: After which results count again; default: never.
        """
        return await self._force("closed", seconds)

    async def reset(self) -> Snapshot:
        """Close it everywhere as if nothing had happened; errors as in ``force_open``."""
        return await self._force("reset", None)

    def snapshot(self) -> Snapshot:
        """Show what this process knows; while it is running that is at most 100 ms old."""
        return self._standing.snapshot(self.name, asyncio.get_running_loop().time())

    def settle(self, permit: Permit, outcome: Outcome, reason: str, *, slow: bool) -> None:
        """Take how a call ended, from its permit."""
        if permit.token:
            self._settle_probe(permit, outcome, reason, slow=slow)
        elif outcome != "neutral" and permit.epoch == self._standing.epoch:
            self._follower.count(outcome == "failed", slow, reason)

    def _settle_probe(self, permit: Permit, outcome: Outcome, reason: str, *, slow: bool) -> None:
        if slow and self.config.slow_rate:
            outcome = "failed"
        if permit.alone is None:
            self._follower.end(permit.token, outcome, reason)
        elif permit.alone is self._follower.alone:
            now = asyncio.get_running_loop().time()
            permit.alone.conclude(now, permit.token, outcome, reason)
            self._follower.show_alone(now)

    async def _force(
        self, what: Literal["open", "closed", "reset"], seconds: float | None
    ) -> Snapshot:
        self._follower.take(await self._shared.force(what, seconds or 0.0))
        self._standing.passes = self._standing.passes and self._running
        return self.snapshot()

    async def _ask(self) -> Permit:
        if not self._running:
            raise RuntimeError(f"the breaker {self.name} is not running: use running()")
        if self._follower.alone is not None:
            return self._ask_alone()
        now = asyncio.get_running_loop().time()
        # There are never more questions under way than could be granted.
        if now < self._standing.refused_until or len(self._asks) >= self.config.probes:
            raise self._refusal()
        # A task of its own: whoever is cancelled while asking must not keep what was granted.
        asked = asyncio.create_task(self._ask_shared())
        self._asks.add(asked)
        asked.add_done_callback(self._asks.discard)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(_give_back)
            raise

    async def _ask_shared(self) -> Permit:
        granted = await self._follower.admit()
        if granted is None:
            return self._ask_alone()
        if granted == REFUSED:
            raise self._refusal()
        return Permit(self, self._standing.epoch, granted)

    def _ask_alone(self) -> Permit:
        alone = self._follower.alone
        if alone is None:
            # The server has answered another question meanwhile.
            raise self._refusal()
        now = asyncio.get_running_loop().time()
        granted = alone.admit(now)
        self._follower.show_alone(now)
        if granted == REFUSED:
            raise self._refusal()
        return Permit(self, self._standing.epoch, granted, alone)

    def _refusal(self) -> BreakerOpen:
        now = asyncio.get_running_loop().time()
        return BreakerOpen(self.name, retry_after=self._standing.retry_after(now))

    def _changed(self, reason: str) -> None:
        standing = self._standing
        event = BreakerChanged(self.name, standing.mode, reason, shared=standing.shared)
        self._hub.emit(event)
        self._listeners.emit(event)


def _give_back(asked: asyncio.Task[Permit]) -> None:
    """Free the place of a probe that nobody waits for any more."""
    if not asked.cancelled() and asked.exception() is None:
        asked.result().neutral()
