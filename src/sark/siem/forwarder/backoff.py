"""When to send again to a receiver that is down or asks to be sent less.

Each failure doubles the longest pause, up to a cap, and the pause itself is drawn evenly between
nothing and that ("full jitter"): workers that failed together don't come back together. A receiver
that names a time is given it, within the cap, with a little on top for the same reason.

Several batches may be under way when a receiver goes down. Only the first of them to fail counts;
the others were sent before that was known.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random

__all__ = ["FIRST_PAUSE_SECONDS", "Backoff"]

FIRST_PAUSE_SECONDS = 0.2
SPREAD = 0.1
"""Most of a named pause that is added to it."""
MAX_DOUBLINGS = 40


class Backoff:
    """The pause of one sink. Times are seconds on one clock, which the caller reads.

    Args:
        cap: Longest pause, whatever a receiver asks for.
        draw: Gives a number from 0 up to 1.
    """

    def __init__(self, *, cap: float, draw: Callable[[], float] = random) -> None:
        self._cap = cap
        self._draw = draw
        self._failures = 0
        self._failed_at = float("-inf")
        self._until = float("-inf")

    @property
    def until(self) -> float:
        """When the receiver may be asked again."""
        return self._until

    def failed(self, *, sent: float, now: float, after: float | None = None) -> float:
        """Note a failure; returns the seconds to wait from now.

        Args:
            sent: When what failed was sent.
            now: The time.
            after: Seconds that the receiver asked to wait.
        """
        if sent >= self._failed_at:
            self._failures += 1
            self._failed_at = now
            doublings = min(self._failures - 1, MAX_DOUBLINGS)
            pause = self._draw() * min(self._cap, FIRST_PAUSE_SECONDS * 2**doublings)
            self._until = now + pause
        if after is not None:
            named = max(0.0, after) * (1 + SPREAD * self._draw())
            self._until = max(self._until, now + min(self._cap, named))
        return max(0.0, self._until - now)

    def hold(self, *, now: float, seconds: float) -> float:
        """Wait for a while without a failure; returns the seconds to wait from now."""
        self._until = max(self._until, now + min(self._cap, seconds))
        return max(0.0, self._until - now)

    def end(self) -> None:
        """Wait no longer; the failures still count."""
        self._until = float("-inf")

    def succeeded(self) -> None:
        """Note that the receiver took something: the next failure is the first again."""
        self._failures = 0
