"""What a sink is: it sends a batch of events once, and tells what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sark.siem.sinks.verdict import Verdict

__all__ = ["Entry", "Sink", "SinkLimits"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, in the format of its sink.

    Attributes:
        id: The event's stable id.
        time: Seconds since the epoch.
        body: One JSON object, or one line of CEF; without a line break.
    """

    id: str
    time: float
    body: bytes


@dataclass(frozen=True, slots=True)
class SinkLimits:
    """What a receiver takes at most in one batch.

    Attributes:
        events: Events.
        bytes: Bytes of their bodies together, with what the protocol puts around each.
        event_bytes: Bytes of one body; a larger event becomes a dead letter.
        seconds: Longest that sending one batch may take, where that is more than one exchange.
    """

    events: int
    bytes: int
    event_bytes: int
    seconds: float = 0.0


class Sink(Protocol):
    """Sends events to one receiver. Opened and closed by whoever made it."""

    @property
    def limits(self) -> SinkLimits:
        """What its receiver takes at most."""
        ...

    async def open(self) -> None:
        """Prepare to send. No network: a receiver that is down is told by ``send``.

        Raises:
            SinkError: The configuration cannot work, for instance a file that cannot be written.
        """
        ...

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Send a batch once, within the sink's timeout. Never raises for what a receiver does.

        Args:
            entries: At least one, within ``limits``.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...
