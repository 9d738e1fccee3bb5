"""How much a receiver is sent at a time: additive increase, multiplicative decrease.

Each time that a receiver asks to be sent less, the number of batches under way is halved; each
batch that it takes without complaint adds a share of one, so that a whole round of them adds one.
Where a single batch is still too much, a pause between batches doubles instead, and shrinks again.
Complaints about batches that were sent before the last decrease say nothing new.
"""

from __future__ import annotations

__all__ = ["Pace"]

FIRST_GAP_SECONDS = 0.05
MAX_GAP_SECONDS = 5.0


class Pace:
    """The pace of one sink.

    Args:
        most: Most batches under way at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._window = float(most)
        self._gap = 0.0
        self._slowed_at = float("-inf")

    @property
    def batches(self) -> int:
        """How many batches may be under way now."""
        return int(self._window)

    @property
    def gap(self) -> float:
        """Seconds to wait between two batches."""
        return self._gap

    def taken(self) -> None:
        """Note that a batch was taken without complaint."""
        if self._gap:
            self._gap = self._gap / 2 if self._gap > FIRST_GAP_SECONDS else 0.0
        else:
            self._window = min(self._most, self._window + 1 / self._window)

    def slow_down(self, *, sent: float, now: float) -> None:
        """Note that the receiver asks to be sent less.

        Args:
            sent: When the batch was sent, in seconds on any one clock.
            now: The time.
        """
        if sent < self._slowed_at:
            return
        self._slowed_at = now
        if self._window >= 2:  # noqa: PLR2004 - two halve into one
            self._window /= 2
        else:
            self._window = 1.0
            self._gap = min(MAX_GAP_SECONDS, max(FIRST_GAP_SECONDS, self._gap * 2))
