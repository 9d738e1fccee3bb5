"""Whether the server's clock, which dates access tokens, agrees with the one that judges them.

Tokens say when they were issued by the server's clock. The process that verifies one compares that
with its own. When the two differ by more than the leeway, new tokens are refused as not yet valid,
or expired ones are accepted for too long.
"""

from __future__ import annotations

import asyncio
import contextlib

from sark.errors import StoreError
from sark.events import ServerClockRead
from sark.store import ServerClock, Store

__all__ = ["watch_server_clock"]

INTERVAL_SECONDS = 30.0


async def watch_server_clock(
    store: Store, *, leeway: float, interval: float = INTERVAL_SECONDS
) -> None:
    """Report how far the clocks are apart, until cancelled.

    Args:
        store: Whose ``state`` server is asked.
        leeway: Seconds by which clocks may differ.
        interval: Seconds between two questions.
    """
    beyond = False
    while True:
        clock = ServerClock(store.state)
        with contextlib.suppress(StoreError):
            await clock.read()
            # What the round trip may account for is no difference.
            before, beyond = beyond, abs(clock.offset) - clock.error > leeway
            store.hub.emit(ServerClockRead(clock.offset, leeway, warn=beyond and not before))
        await asyncio.sleep(interval)
