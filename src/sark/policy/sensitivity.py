"""How long a decision may be kept, by the sensitivity of its action.

The guide gives three tiers and a rule that lets everything unknown live longest, so that
``user:grant`` or ``server:create`` would be kept for an hour. Here an action is looked up by its
verb (what follows the last ``:``) in a table; whatever the table does not know, and everything in
the ``admin:`` namespace, is highly sensitive and kept for the shortest time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Sensitivity", "TtlTiers", "sensitivity_of"]


class Sensitivity(StrEnum):
    """How much harm a decision that is minutes old can do."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


_LOW_VERBS = frozenset({"read", "list", "get", "view", "describe", "search", "head"})
_MEDIUM_VERBS = frozenset({"write", "delete", "create", "update", "edit", "upload", "invoke"})


def sensitivity_of(action: str) -> Sensitivity:
    """Classify an action such as ``server:read``; unknown actions are of high sensitivity."""
    if action.startswith("admin:"):
        return Sensitivity.HIGH
    _, colon, verb = action.rpartition(":")
    if colon and verb in _LOW_VERBS:
        return Sensitivity.LOW
    if colon and verb in _MEDIUM_VERBS:
        return Sensitivity.MEDIUM
    return Sensitivity.HIGH


@dataclass(frozen=True, slots=True)
class TtlTiers:
    """Seconds to keep a decision, per sensitivity."""

    high: int = 300
    medium: int = 900
    low: int = 3600

    def sensitivity(self, action: str) -> Sensitivity:
        """Classify an action."""
        return sensitivity_of(action)

    def for_action(self, action: str) -> int:
        """Longest time to keep a decision about ``action``, in seconds."""
        match sensitivity_of(action):
            case Sensitivity.LOW:
                return self.low
            case Sensitivity.MEDIUM:
                return self.medium
            case Sensitivity.HIGH:
                return self.high

    @property
    def longest(self) -> int:
        """The longest time that any decision is kept, in seconds."""
        return max(self.high, self.medium, self.low)
