"""How long a decision may be kept, by the sensitivity of its action.

Which action is how sensitive is a table of patterns, see ``sensitivity_table.py``; a policy file
can replace it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Sensitivity", "TtlTiers"]


class Sensitivity(StrEnum):
    """How much harm a decision that is minutes old can do."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class TtlTiers:
    """Seconds to keep a decision, per sensitivity."""

    high: int = 300
    medium: int = 900
    low: int = 3600

    @property
    def longest(self) -> int:
        """The longest time that any decision is kept, in seconds."""
        return max(self.high, self.medium, self.low)
