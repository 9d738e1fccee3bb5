"""Notices that the embedded server has ended by itself, and starts it again."""

from __future__ import annotations

import asyncio
import logging

from sark.store.embedded.server import EmbeddedServer

__all__ = ["keep_running"]

INTERVAL_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# A server that ends sooner than this after a restart counts as one that failed to start.
STEADY_SECONDS = 30.0

_log = logging.getLogger("sark.store.embedded")


async def keep_running(server: EmbeddedServer, *, interval: float = INTERVAL_SECONDS) -> None:
    """Start a server again, at the same address, whenever it has ended by itself.

    Cancel it before the server is stopped.

    Args:
        server: The started server.
        interval: Seconds between looks.
    """
    loop = asyncio.get_running_loop()
    pause, restarted = 0.0, loop.time()
    while True:
        await asyncio.sleep(interval)
        if server.running:
            if loop.time() - restarted >= STEADY_SECONDS:
                pause = 0.0
            continue
        ending = server.describe_end()
        if ending is not None:
            _log.error("the embedded Valkey ended by itself: %s", ending)
        await asyncio.sleep(pause)
        pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        try:
            await server.restart()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next attempt may succeed
            _log.error(
                "the embedded Valkey does not start again, next attempt in %g s: %s", pause, error
            )
        else:
            _log.warning("the embedded Valkey runs again (pid %s)", server.pid)
        restarted = loop.time()
