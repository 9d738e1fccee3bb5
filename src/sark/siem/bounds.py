"""How much a queue may hold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QueueBounds"]


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much one sink's queue may hold, what is in flight included, and its dead letters.

    Attributes:
        events: Most events.
        bytes: Most bytes of their JSON.
    """

    events: int = 100_000
    bytes: int = 268_435_456
