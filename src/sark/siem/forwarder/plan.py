"""What a forwarder is given, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

__all__ = ["Batching", "ForwarderState", "Guard", "PauseKind", "Permit"]

PauseKind = Literal["unauthorized", "dead_letters_full"]


class Permit(Protocol):
    """Leave to send once. Exactly one of its methods is called."""

    def succeeded(self) -> None:
        """The receiver answers."""
        ...

    def failed(self, reason: str) -> None:
        """The receiver is unreachable or failing."""
        ...

    def neutral(self) -> None:
        """What came tells nothing about the receiver's health."""
        ...


class Guard(Protocol):
    """What a forwarder needs of a circuit breaker."""

    async def acquire(self) -> Permit:
        """Ask for leave to send.

        Raises:
            BreakerOpen: There is none now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Batching:
    """How events are put together and sent.

    Attributes:
        events: Most events in one batch.
        bytes: Most bytes of the queued events of one batch.
        age: Longest time that a batch waits to fill up, in seconds.
        concurrency: Most batches sent at a time; above 1 they may arrive out of order.
        retry_cap: Longest pause before a batch is sent again, in seconds.
        lease: Seconds after which a lease ends that is not renewed.
        stop: Most seconds that what is being sent may take to end, once told to stop.
    """

    events: int = 1000
    bytes: int = 2**20
    age: float = 0.5
    concurrency: int = 1
    retry_cap: float = 60.0
    lease: float = 30.0
    stop: float = 5.0


class ForwarderState(msgspec.Struct, frozen=True, kw_only=True):
    """What one forwarder does at the moment.

    Attributes:
        sink: Where it forwards to.
        worker: Its name, with which those of its leases begin.
        leases: Batches that it holds.
        paused: Why it takes nothing, with what came; empty while it does.
        failing: What the receiver's last failure was; empty once it took something again.
        retry_in: Seconds until the receiver is asked again; 0 when it may be asked now.
    """

    sink: str
    worker: str
    leases: int
    paused: dict[PauseKind, str]
    failing: str
    retry_in: float
