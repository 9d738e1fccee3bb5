"""A breaker while Valkey is away: the same rules, for this process and on its own clock."""

from __future__ import annotations

from random import random
from typing import Self

from sark.breaker.config import BreakerConfig, Outcome
from sark.breaker.rules import admit, advance, conclude, report, view
from sark.breaker.snapshot import MICROSECONDS
from sark.breaker.state import BreakerState, View
from sark.breaker.tally import Tally

__all__ = ["AloneState"]


class AloneState:
    """The state of one process. Times are on the event loop's clock, in seconds.

    Args:
        state: Where it begins.
        config: Its rules.
    """

    def __init__(self, state: BreakerState, config: BreakerConfig) -> None:
        self._state = state
        self._config = config

    @classmethod
    def after(cls, seen: View, config: BreakerConfig, now: float) -> Self:
        """Go on from what was last seen in Valkey.

        What was half-open is open, with its time over: whoever held the probes is not known here.

        Args:
            seen: That.
            config: The rules.
            now: The time.
        """
        us = _us(now)
        retry = seen.retry if seen.state == "open" else 0
        state = BreakerState(
            since=us - seen.age,
            state="open" if seen.state == "half_open" else seen.state,
            failures=seen.failures,
            open_until=us + retry,
            openings=0 if seen.state == "closed" else 1,
            opened=seen.opened,
            reason=seen.reason,
            forced=seen.forced,
            closed_us=seen.closed - (seen.age if seen.state == "closed" else 0),
            open_us=seen.open - (seen.age if seen.state == "open" else 0),
            half_open_us=seen.half_open,
        )
        return cls(state, config)

    def admit(self, now: float) -> int:
        """See ``rules.admit``."""
        return admit(self._state, self._config, _us(now))

    def report(self, now: float, *, failed: bool, slow: bool, reason: str) -> None:
        """Count one result."""
        tally = Tally()
        tally.add(failed=failed, slow=slow)
        report(
            self._state,
            self._config,
            _us(now),
            period=self._state.period,
            tally=tally,
            reason=reason,
            jitter=random(),  # noqa: S311 - jitter is not cryptography
        )

    def conclude(self, now: float, token: int, outcome: Outcome, reason: str) -> None:
        """See ``rules.conclude``."""
        conclude(
            self._state,
            self._config,
            _us(now),
            token=token,
            outcome=outcome,
            reason=reason,
            jitter=random(),  # noqa: S311 - as above
        )

    def view(self, now: float) -> View:
        """Show it."""
        us = _us(now)
        advance(self._state, us)
        return view(self._state, self._config, us)


def _us(seconds: float) -> int:
    return round(seconds * MICROSECONDS)
