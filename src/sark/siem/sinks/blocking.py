"""Calls that block, kept off the event loop.

Files and sockets tell what the kernel took only to a caller that waits for it. So the sinks that
need to know wait in a thread. A thread cannot be cancelled: a call that was given up goes on, and
the next one waits until it has ended, so that two never write at the same time and none pile up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["OneAtATime"]

T = TypeVar("T")


class OneAtATime:
    """Runs one blocking call at a time in a thread of its own.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn = asyncio.Lock()
        self._last: asyncio.Future[Any] | None = None

    async def run(self, call: Callable[[], T], *, timeout: float) -> T:  # noqa: ASYNC109
        """Run a call.

        Args:
            call: Should end within the timeout by itself; if it doesn't, later calls time out too.
            timeout: Seconds, the wait for earlier calls included.

        Raises:
            TimeoutError: It has not begun, or not ended; then its outcome is unknown.
        """
        async with asyncio.timeout(timeout), self._turn:
            if self._last is not None:
                await asyncio.wait([self._last])
            future = asyncio.get_running_loop().run_in_executor(self._executor, call)
            future.add_done_callback(_retrieve)
            self._last = future
            return await asyncio.shield(future)

    def close(self) -> None:
        """Take no further calls; one that runs goes on to its end."""
        self._executor.shutdown(wait=False)


def _retrieve(future: asyncio.Future[T]) -> None:
    """Mark the outcome of a call as seen: of one that was given up, nobody will ask."""
    if not future.cancelled():
        future.exception()
