"""What a receiver's answer means for the events that were sent.

A sink turns whatever its protocol says into one of these; the forwarder decides what follows from
it. So a sink never retries, waits or gives an event up by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "Delivered",
    "Partly",
    "Rejected",
    "Throttled",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Verdict",
]


@dataclass(frozen=True, slots=True)
class Delivered:
    """All of them were accepted.

    Attributes:
        slow_down: Whether the receiver asks to be sent less from now on.
    """

    slow_down: bool = False


@dataclass(frozen=True, slots=True)
class Partly:
    """Each has its own outcome; those that are named nowhere were accepted.

    Attributes:
        bad: Position and reason of those that the receiver will never take.
        retry: Positions of those that have to be sent again.
        reason: Why those have to be sent again.
        after: Seconds that the receiver asks to wait before that.
    """

    bad: Mapping[int, str] = field(default_factory=dict)
    retry: frozenset[int] = frozenset()
    reason: str = ""
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The receiver will not take the batch, and does not say which event is to blame.

    Attributes:
        reason: What it said. A lone event becomes a dead letter; a batch is halved.
        suspect: Position of the event that it seems to blame. Only a hint: the batch may be split
            around it instead of in halves, and it is given up only when it is refused alone.
    """

    reason: str
    suspect: int | None = None


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The batch has to be halved; a lone event becomes a dead letter."""

    reason: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """The receiver asks to be sent less: the batch is sent again later.

    Attributes:
        reason: What it said.
        after: Seconds that it asks to wait.
    """

    reason: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The receiver is unreachable or failing: the batch is sent again later.

    Attributes:
        reason: What came.
        after: Seconds that it asks to wait.
    """

    reason: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """The receiver refuses us, whatever we send: nothing is sent until somebody mends that.

    Mostly it is the credential; a wrong path or an index that does not exist are of the kind.

    Attributes:
        reason: What it said.
    """

    reason: str


Verdict = Delivered | Partly | Rejected | TooLarge | Throttled | Unavailable | Unauthorized
