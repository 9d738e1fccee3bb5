"""The last reading of each sink's account, to compute from the next one how fast it moves."""

from __future__ import annotations

from sark.siem.account import SinkStatus
from sark.siem.bounds import QueueBounds
from sark.siem.rates import Rates, rates_between

__all__ = ["Readings"]

LEAST_SECONDS = 0.5
"""Of readings that are closer together, the later one is left out: its rates would jump."""


class Readings:
    """Remembers one reading of each sink.

    Args:
        bounds: How much a queue may hold.
    """

    def __init__(self, bounds: QueueBounds) -> None:
        self._bounds = bounds
        self._last: dict[str, tuple[float, SinkStatus]] = {}
        self._rates: dict[str, Rates] = {}

    def rates(self, status: SinkStatus, now: float) -> Rates | None:
        """Compare a reading with the one before; None for the first.

        Args:
            status: The reading.
            now: When it was made, in seconds on any one clock.
        """
        before = self._last.get(status.sink)
        if before is None:
            self._last[status.sink] = now, status
        elif now - before[0] >= LEAST_SECONDS:
            self._rates[status.sink] = rates_between(
                before[1], status, now - before[0], self._bounds
            )
            self._last[status.sink] = now, status
        return self._rates.get(status.sink)
