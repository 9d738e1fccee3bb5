"""Work beside a block."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine

__all__ = ["background"]

_log = logging.getLogger("sark")


@contextlib.asynccontextmanager
async def background(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Run something beside the block, and cancel it at the end.

    A fault that ends it before that is logged at once.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell_fault)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _tell_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.error("%s has ended", task.get_name(), exc_info=fault)
