"""Waiting in line for a policy engine: so many at a time, the others in the order they came in.

The line stands before the engine's deadline and its breaker: who waits here has not asked yet, and
giving up says nothing about the engine. A pool of connections can't stand in for it, since a wait
inside the pool looks like a slow engine, and a burst of misses like a dead one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sark.errors import EvaluatorBusyError
from sark.store import Deadline

__all__ = ["Line"]


class Line:
    """A line before a number of places.

    Args:
        places: How many may be under way at a time.

    Attributes:
        places: The same.
        waiting: How many wait.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.waiting = 0
        # Fair: whoever waits is served before who comes now.
        self._free = asyncio.Semaphore(places)

    @property
    def is_full(self) -> bool:
        """Whether who comes now has to wait."""
        return self._free.locked()

    @asynccontextmanager
    async def place(self, within: float) -> AsyncIterator[None]:
        """Wait for a place, and keep it for the block.

        Args:
            within: Seconds to wait at most.

        Raises:
            EvaluatorBusyError: No place came free in time.
        """
        if self.is_full:
            await self._wait(within)
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self, within: float) -> None:
        deadline = asyncio.get_running_loop().time() + within
        self.waiting += 1
        try:
            with Deadline(deadline):
                await self._free.acquire()
        except TimeoutError:
            raise EvaluatorBusyError(
                f"OPA: {self.places} evaluations are under way, and none ended within {within:g} s"
            ) from None
        finally:
            self.waiting -= 1
