"""What time it is on a server, as seen from here.

Measured with ``TIME`` now and then: the server's answer belongs to the middle of the round trip, so
the estimate is off by at most half of it. The estimate of the shortest recent round trip is kept.
For measurement only; whatever depends on time for its correctness asks the server itself.
"""

from __future__ import annotations

import time
from collections import deque

from sark.store.server import Server

__all__ = ["ServerClock"]

SAMPLES = 8


class ServerClock:
    """Estimates a server's clock.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        # (round trip, offset), both in seconds.
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)

    @property
    def known(self) -> bool:
        """Whether the clock has been read."""
        return bool(self._samples)

    @property
    def error(self) -> float:
        """How far the estimate may be off, in seconds."""
        return min(self._samples)[0] / 2 if self._samples else float("inf")

    async def read(self) -> None:
        """Read the server's clock once.

        Raises:
            StoreError: The server did not answer.
        """
        before = time.time()
        seconds, microseconds = await self._server.execute("TIME", idempotent=True)
        after = time.time()
        theirs = int(seconds) + int(microseconds) / 1_000_000
        self._samples.append((after - before, theirs - (before + after) / 2))

    @property
    def offset(self) -> float:
        """How far the server's clock is ahead of ours, in seconds; 0 while it is unknown."""
        return min(self._samples)[1] if self._samples else 0.0

    def now(self) -> float:
        """Tell the server's time, in seconds since the epoch; ours while it is unknown."""
        return time.time() + self.offset
