"""What became of some calls, in order, in as few numbers as the rules need.

Two tallies can be put together, so results are counted in the process and sent now and then. To
find consecutive failures across the seams, a tally knows the runs of failures at both its ends and
the longest one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Counts results.

    Attributes:
        calls: How many.
        failures: How many failed.
        slow: How many were slow.
        leading: Failures before the first success.
        longest: The longest run of failures.
        trailing: Failures after the last success.
    """

    calls: int = 0
    failures: int = 0
    slow: int = 0
    leading: int = 0
    longest: int = 0
    trailing: int = 0

    def add(self, failed: bool, slow: bool = False) -> None:
        """Count one result."""
        if failed:
            if self.failures == self.calls:
                self.leading += 1
            self.failures += 1
            self.trailing += 1
            self.longest = max(self.longest, self.trailing)
        else:
            self.trailing = 0
        self.calls += 1
        if slow:
            self.slow += 1

    def longest_run(self, before: int) -> int:
        """Find the longest run of failures when ``before`` of them came just before these."""
        return max(before + self.leading, self.longest)

    def trailing_run(self, before: int) -> int:
        """Find the run of failures at the end, likewise."""
        return before + self.failures if self.failures == self.calls else self.trailing
