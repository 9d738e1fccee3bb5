"""Work that has to go on for as long as its process does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

__all__ = ["lasting"]

FAULT_SECONDS = 5.0

_log = logging.getLogger("sark.siem")


async def lasting(work: Callable[[], Awaitable[None]], name: str) -> None:
    """Do what never ends by itself, until cancelled.

    What it expects to go wrong it deals with by itself. Anything else is a fault of ours: it is
    logged, and the work begins again, since events that nobody moves any more would be as good as
    lost.

    Args:
        work: Begins it.
        name: What it does, for the log.
    """
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - see above
            _log.exception("%s failed, and begins again", name)
        await asyncio.sleep(FAULT_SECONDS)
