"""The guard: stop asking a server that is dead.

A pure state machine without I/O. It counts consecutive failures of one server; at
``FAILURES_TO_OPEN`` it opens, and calls are refused at once instead of each waiting for its budget
to run out. One background probe (see ``server.py``) keeps asking with growing pauses; its first
success closes the guard. Requests themselves are never spent as probes.

Only failures that speak for a dead server count: no connection, no answer in time, a connection
lost (once, however many calls were under way on it). An error reply proves that the server lives,
and so does anything else that arrived on a connection after a call was sent there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from sark.errors import StoreUnavailableError

__all__ = ["FAILURES_TO_OPEN", "Guard"]

FAILURES_TO_OPEN = 3
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# Doublings after which the pause is at its longest for certain; 2.0 ** 1024 would overflow.
MOST_DOUBLINGS = 16


@dataclass(slots=True)
class Guard:
    """Counts failures of one server and says whether it may be asked.

    Attributes:
        server: Address for messages.
        failures: Consecutive failures so far.
        is_open: Whether calls are refused.
        reason: The failure that opened the guard.
        opened: How often it opened since the start.
    """

    server: str
    failures: int = 0
    is_open: bool = False
    reason: str = ""
    opened: int = 0
    _probes: int = field(default=0, repr=False)

    def check(self) -> None:
        """Refuse the call when the guard is open.

        Raises:
            StoreUnavailableError: The server is known to be down; nothing was sent.
        """
        if self.is_open:
            raise StoreUnavailableError(f"{self.server} is down: {self.reason}")

    def succeeded(self) -> bool:
        """Record an answer of the server; True when this closes the guard."""
        self.failures = 0
        was_open, self.is_open = self.is_open, False
        self._probes = 0
        return was_open

    def failed(self, reason: str) -> bool:
        """Record a failure; True when this opens the guard."""
        self.failures += 1
        if self.is_open or self.failures < FAILURES_TO_OPEN:
            return False
        self.is_open, self.reason = True, reason
        self.opened += 1
        return True

    def next_pause(self) -> float:
        """Seconds until the next probe: doubling, capped, with jitter against synchrony."""
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._probes, LONGEST_PAUSE_SECONDS)
        self._probes = min(self._probes + 1, MOST_DOUBLINGS)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is not cryptography
