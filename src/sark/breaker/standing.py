"""What one process knows of a breaker, and what follows from it for a call. Pure; no I/O."""

from __future__ import annotations

from math import inf

from sark.breaker.snapshot import MICROSECONDS, Mode, Snapshot, mode_of, snapshot_of
from sark.breaker.state import View

__all__ = ["SYNC_SECONDS", "Standing"]

SYNC_SECONDS = 0.08
"""Pause between two exchanges: what has changed is known within 100 ms, the exchange included."""

_UNKNOWN = View("closed", "", 0, 0, 0, 0, 0, 0, 0, "", 0, 0, 0, 0)


class Standing:
    """The last view of a breaker. Times are on the event loop's clock, in seconds.

    Attributes:
        view: What was seen.
        shared: Whether it came from Valkey.
        passes: Whether calls are admitted without asking anybody.
        epoch: Changes whenever results of earlier calls no longer count.
        refused_until: Until when calls are refused without asking anybody.
    """

    __slots__ = ("_at", "_serial", "epoch", "passes", "refused_until", "shared", "view")

    def __init__(self) -> None:
        self.view = _UNKNOWN
        self.shared = True
        self.passes = False
        self.epoch = 0
        self.refused_until = 0.0
        self._at = 0.0
        self._serial = 0

    @property
    def mode(self) -> Mode:
        """The state, and whether it is held there."""
        return mode_of(self.view)

    def is_late(self, serial: int) -> bool:
        """Whether an answer has been overtaken by that to a later question."""
        return serial < self._serial

    def take(self, view: View, *, shared: bool, at: float, serial: int) -> bool:
        """Take what was seen; True when that differs in state, or in who decides.

        Args:
            view: What was seen.
            shared: Whether in Valkey.
            at: When.
            serial: Number of the question; views that were overtaken are left out.
        """
        if self.is_late(serial):
            return False
        known = (self.mode, self.shared)
        if (view.period, shared) != (self.view.period, self.shared):
            self.epoch += 1
        self.view, self.shared, self._at, self._serial = view, shared, at, serial
        self.passes = view.state == "closed"
        self.refused_until = self._refused_until()
        return (self.mode, shared) != known

    def retry_after(self, now: float) -> float:
        """Seconds after which asking again makes sense."""
        if self.view.state == "half_open":
            # A probe may end at any moment.
            return SYNC_SECONDS
        return max(self._at + self.view.retry / MICROSECONDS - now, SYNC_SECONDS)

    def aged(self, now: float) -> View:
        """Give the view as it would be now."""
        passed = max(0, round((now - self._at) * MICROSECONDS))
        seen = self.view
        spent = {seen.state: getattr(seen, seen.state) + passed}
        return seen._replace(age=seen.age + passed, retry=max(0, seen.retry - passed), **spent)

    def is_forgotten_by(self, seen: View) -> bool:
        """Whether the server has lost its memory since the last view: it speaks of less."""
        return (seen.period, seen.age) < (self.view.period, self.view.age)

    def snapshot(self, name: str, now: float) -> Snapshot:
        """Show it as of now."""
        passed = max(0.0, now - self._at)
        return snapshot_of(name, self.view, shared=self.shared, passed=passed)

    def _refused_until(self) -> float:
        if self.view.forced:
            # Until the next view says otherwise.
            return inf
        retry = self.view.retry / MICROSECONDS
        if self.view.state == "half_open":
            retry = min(retry, SYNC_SECONDS)
        return self._at + retry
