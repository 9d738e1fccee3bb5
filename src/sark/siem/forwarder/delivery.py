"""Delivering one leased batch: what to send next, given what came of the part last sent.

A batch starts as the parts that the receiver's limits allow, and is sent part by part, in order.
Each answer decides events, splits the part, or leaves it to be sent again:

- taken: all of the part is delivered;
- too large, or refused as a whole: halved, or split around the event that seems to be to blame,
  until a lone event is bad;
- an outcome for each: those that were taken and those that are bad are decided, the rest is sent
  again before anything behind it;
- throttled or unavailable: the part is sent again after a pause;
- unauthorized: likewise, once somebody has mended the credential.

So an event is bad only when the receiver refuses it by name or alone, and a receiver that is down
decides nothing. A batch of n events with b bad ones takes at most about 2 b log2(n) sendings more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from sark.siem.sinks.base import SinkLimits
from sark.siem.sinks.verdict import (
    Delivered,
    Partly,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
    Verdict,
)

__all__ = ["Again", "Delivery", "Outcome", "Stop"]

OPEN = None
DELIVERED = ""

Outcome = str | None
"""``OPEN``, ``DELIVERED``, or why the event is bad."""


@dataclass(frozen=True, slots=True)
class Again:
    """The part, or some of it, has to be sent again after a pause.

    Attributes:
        kind: Whether the receiver is down or asks to be sent less.
        reason: What came.
        after: Seconds that it asks to wait.
    """

    kind: Literal["unavailable", "throttled"]
    reason: str
    after: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing can be sent until somebody mends the credential.

    Attributes:
        reason: What came.
    """

    reason: str


class Delivery:
    """The state of one batch.

    Args:
        sizes: Bytes of each event as it would be sent.
        limits: What the receiver takes at most.
        bad: Position and reason of those that can't be sent at all.
    """

    def __init__(
        self, sizes: Sequence[int], limits: SinkLimits, bad: Mapping[int, str] | None = None
    ) -> None:
        self._outcomes: list[Outcome] = [OPEN] * len(sizes)
        self._unsettled = list(range(len(sizes)))
        for position, reason in (bad or {}).items():
            self._outcomes[position] = _told(reason)
        for position, size in enumerate(sizes):
            if size > limits.event_bytes and self._outcomes[position] is OPEN:
                self._outcomes[position] = (
                    f"the event has {size} bytes, the receiver takes {limits.event_bytes}"
                )
        self._parts = _cut(self._open(range(len(sizes))), sizes, limits)

    @property
    def part(self) -> Sequence[int] | None:
        """Positions of the events to send next; None when every event is decided."""
        return self._parts[0] if self._parts else None

    def answer(self, verdict: Verdict) -> Again | Stop | None:
        """Take in what came of the part; None when the next can be sent at once."""
        part = self._parts[0]
        match verdict:
            case Delivered():
                self._decide(part, DELIVERED)
            case Partly():
                return self._divide(part, verdict)
            case Rejected(reason, suspect):
                self._split(part, reason, suspect)
            case TooLarge(reason):
                self._split(part, reason, None)
            case Throttled(reason, after):
                return Again("throttled", reason, after)
            case Unavailable(reason, after):
                return Again("unavailable", reason, after)
            case Unauthorized(reason):
                return Stop(reason)
        return None

    def taken(self, part: Sequence[int]) -> list[int]:
        """Say which positions of a part the receiver has."""
        return [position for position in part if self._outcomes[position] == DELIVERED]

    def unsettled(self) -> list[Outcome]:
        """List the outcomes of the events that are not settled yet, in order."""
        return [self._outcomes[position] for position in self._unsettled]

    def settled(self) -> None:
        """Note that what is decided has been settled with the queue."""
        self._unsettled = self._open(self._unsettled)

    def _open(self, positions: Sequence[int]) -> list[int]:
        return [position for position in positions if self._outcomes[position] is OPEN]

    def _decide(self, part: Sequence[int], outcome: Outcome) -> None:
        self._parts.popleft()
        for position in part:
            self._outcomes[position] = outcome

    def _split(self, part: Sequence[int], reason: str, suspect: int | None) -> None:
        if len(part) == 1:
            self._decide(part, _told(reason))
            return
        self._parts.popleft()
        if suspect is None or not 0 <= suspect < len(part):
            cuts = [0, len(part) // 2, len(part)]
        else:
            cuts = [0, suspect, suspect + 1, len(part)]
        pieces = [part[start:end] for start, end in pairwise(cuts) if start < end]
        self._parts.extendleft(reversed(pieces))

    def _divide(self, part: Sequence[int], verdict: Partly) -> Again | None:
        self._parts.popleft()
        for index, position in enumerate(part):
            if index in verdict.bad:
                self._outcomes[position] = _told(verdict.bad[index])
            elif index not in verdict.retry:
                self._outcomes[position] = DELIVERED
        left = self._open(part)
        if not left:
            return None
        self._parts.appendleft(left)
        return Again("throttled", verdict.reason, verdict.after)


def _told(reason: str) -> str:
    """Make sure that a bad event's reason is told apart from ``DELIVERED``."""
    return reason or "refused without a reason"


def _cut(
    positions: Sequence[int], sizes: Sequence[int], limits: SinkLimits
) -> deque[Sequence[int]]:
    """Cut a batch into parts within the limits, in order."""
    parts: deque[Sequence[int]] = deque()
    part: list[int] = []
    size = 0
    for position in positions:
        size += sizes[position]
        if part and (len(part) >= limits.events or size > limits.bytes):
            parts.append(part)
            part, size = [], sizes[position]
        part.append(position)
    if part:
        parts.append(part)
    return parts
