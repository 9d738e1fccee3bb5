"""A circuit breaker for one policy engine, local to the process. Pure: no I/O, no clock of its own.

Closed, everything passes and consecutive transport failures are counted. At ``FAILURES_TO_OPEN``
it opens: callers are refused at once instead of each waiting for its deadline. After a pause one
caller is let through as a probe (half-open) while the others are still refused. The probe's success
closes the breaker; its failure opens it again for twice as long, up to a cap. Pauses are jittered,
so that the processes of a deployment don't probe in step.

A result counts only in the period it was admitted in: a call that began before the breaker opened
says nothing about the engine of now.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Breaker", "BreakerState", "Permit"]

BreakerState = Literal["closed", "open", "half_open"]

FAILURES_TO_OPEN = 5
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
# Doublings after which the pause is at its longest for certain; 2.0 ** 1024 would overflow.
MOST_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to call the engine; its holder reports how the call ended.

    Attributes:
        is_probe: Whether this call decides if the breaker closes again.
    """

    is_probe: bool
    _period: int


@dataclass(slots=True)
class Breaker:
    """Counts transport failures and says who may call. All times are on one monotonic clock.

    Attributes:
        state: Where it stands; ``half_open`` while a probe is under way.
        failures: Consecutive transport failures while closed.
        reason: The failure that opened it last.
    """

    state: BreakerState = "closed"
    failures: int = 0
    reason: str = ""
    _probe_at: float = field(default=0.0, repr=False)
    _openings: int = field(default=0, repr=False)
    _period: int = field(default=0, repr=False)

    def admit(self, now: float) -> Permit | None:
        """Admit a call; None when it is refused.

        Args:
            now: Seconds.
        """
        if self.state == "closed":
            return Permit(is_probe=False, _period=self._period)
        if self.refuses(now):
            return None
        self._enter("half_open")
        return Permit(is_probe=True, _period=self._period)

    def refuses(self, now: float) -> bool:
        """Whether a call would be refused now."""
        return self.state == "half_open" or (self.state == "open" and now < self._probe_at)

    def wait(self, now: float) -> float:
        """Seconds until a probe may run; 0 when it may, or does."""
        return max(0.0, self._probe_at - now) if self.state == "open" else 0.0

    def succeeded(self, permit: Permit) -> bool:
        """Record that the engine answered; True when this closes the breaker."""
        if permit._period != self._period:  # noqa: SLF001 - only the breaker reads it
            return False
        self.failures = 0
        if not permit.is_probe:
            return False
        self._openings = 0
        self._enter("closed")
        return True

    def failed(self, permit: Permit, now: float, reason: str) -> bool:
        """Record that the engine could not be reached; True when this opens the breaker.

        Args:
            permit: What ``admit`` gave.
            now: Seconds.
            reason: Why, without secrets.
        """
        if permit._period != self._period:  # noqa: SLF001 - only the breaker reads it
            return False
        self.failures += 1
        if not permit.is_probe and self.failures < FAILURES_TO_OPEN:
            return False
        self.reason = reason
        self._probe_at = now + self._next_pause()
        self._enter("open")
        return True

    def abandoned(self, permit: Permit) -> bool:
        """Record that a call was cancelled; True when it was the probe, and the next may be it."""
        if not permit.is_probe or permit._period != self._period:  # noqa: SLF001 - as above
            return False
        self._enter("open")
        return True

    def _enter(self, state: BreakerState) -> None:
        self.state = state
        self._period += 1

    def _next_pause(self) -> float:
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._openings, LONGEST_PAUSE_SECONDS)
        self._openings = min(self._openings + 1, MOST_DOUBLINGS)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is not cryptography
