"""Waiting for something to become true, with a deadline and a message."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.01


async def until(
    condition: Callable[[], object] | Callable[[], Awaitable[object]], *, within: float, what: str
) -> None:
    """Wait until a condition, a plain or an async function, holds.

    Args:
        condition: Called again and again until its result is true.
        within: Seconds after which to give up.
        what: What was expected, as a clause: "the queue is empty".

    Raises:
        AssertionError: It did not come true in time.
    """
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        await asyncio.sleep(POLL_SECONDS)


def until_sync(condition: Callable[[], object], *, within: float, what: str) -> None:
    """Wait until a condition holds, for tests without a loop.

    Args:
        condition: Called again and again until its result is true.
        within: Seconds after which to give up.
        what: What was expected, as a clause: "the process is gone".

    Raises:
        AssertionError: It did not come true in time.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(POLL_SECONDS)
