"""What a lease is, and what can become of its events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

__all__ = ["DELIVERED", "KEEP", "RETURN", "Bad", "Lease", "Outcome", "letter_of"]


class _Outcome(Enum):
    DELIVERED = "d"
    KEEP = "k"
    RETURN = "r"


DELIVERED: Final = _Outcome.DELIVERED
"""The receiver has it."""
KEEP: Final = _Outcome.KEEP
"""It stays leased, to be sent again."""
RETURN: Final = _Outcome.RETURN
"""It goes back to the head of the queue."""


class Bad(NamedTuple):
    """The receiver will never take it: it becomes a dead letter.

    Attributes:
        reason: What the receiver said, without secrets.
    """

    reason: str


Outcome = _Outcome | Bad


@dataclass(frozen=True, slots=True)
class Lease:
    """Events that one worker holds.

    Attributes:
        sink: Whose.
        worker: Who holds them.
        token: Fencing token; larger than that of every earlier lease.
        events: Their JSON, oldest first.
        bytes: Size of all of them.
        behind: How many events stayed in the queue when it was given; 0 when that is not known.
    """

    sink: str
    worker: str
    token: int
    events: tuple[bytes, ...]
    bytes: int
    behind: int = 0


def letter_of(outcome: Outcome) -> str:
    """Spell an outcome as ``settle.lua`` reads it."""
    return "b" if isinstance(outcome, Bad) else outcome.value
