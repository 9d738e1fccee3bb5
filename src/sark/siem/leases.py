"""Leases on a sink's events: a worker takes some, sends them, and tells what became of each.

A lease moves events from the head of the queue to a list of the worker's own, until an expiry by
the server's clock. It has a fencing token: once it has expired and was reaped, its worker can
change nothing any more, however late it wakes up. Whatever is done is one script that moves the
events and books them, so that the account agrees at every moment.

An event is only ever in one place. What returns goes to the head, in its order, and there is always
room for it: the queue's bound counts what is in flight. An event that outlives leases may be what
kills its workers, so after two of them it is leased alone, and in the end becomes a dead letter
without taking its neighbours along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NamedTuple

from sark.siem.account import SinkStatus
from sark.siem.bounds import QueueBounds
from sark.store import Store

__all__ = ["DELIVERED", "KEEP", "RETURN", "Bad", "Lease", "Outcome", "SinkQueue"]


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
    """

    sink: str
    worker: str
    token: int
    events: tuple[bytes, ...]
    bytes: int


class SinkQueue:
    """One sink's events, as its workers see them. Safe to share between tasks.

    Dead letters and expired leases are reported to the store's hub, by ``DeadLettered`` and
    ``LeaseExpired``.

    Args:
        store: Where the queue lives.
        sink: Whose queue.
        bounds: How much the queue may hold, and how much its dead letters may.
        lease: Seconds after which a lease ends that is not renewed.
        most_expiries: How many leases an event may outlive before it becomes a dead letter.
    """

    def __init__(
        self, store: Store, sink: str, bounds: QueueBounds, *, lease: float, most_expiries: int
    ) -> None:
        raise NotImplementedError

    async def lease(self, worker: str, *, events: int, size: int) -> Lease | None:
        """Take events from the head of the queue: one round trip.

        Args:
            worker: Who asks; one worker holds at most one lease of a sink.
            events: Most events, at most 5,000.
            size: Most bytes of their JSON; a lone event may be larger.

        Returns:
            The lease, or None when nothing is queued.

        Raises:
            DeadLettersFullError: There is no room for dead letters, so nothing is leased.
            LeaseHeldError: The worker holds one already; ``resume`` takes it over.
            StoreError: The server did not answer; whether the events are leased may be unknown.
        """
        raise NotImplementedError

    async def resume(self, worker: str) -> Lease | None:
        """Take over the lease that a worker of this name still holds, under a new token.

        For a worker that did not get the answer to ``lease``. None when it holds none.
        """
        raise NotImplementedError

    async def renew(self, lease: Lease) -> None:
        """Let a lease last for its full time from now on.

        Raises:
            LeaseLostError: It has ended.
            StoreError: The server did not answer.
        """
        raise NotImplementedError

    async def acknowledge(self, lease: Lease) -> None:
        """Book all events of a lease as delivered, and end it. Errors as in ``renew``."""
        raise NotImplementedError

    async def settle(self, lease: Lease, outcomes: Sequence[Outcome]) -> Lease | None:
        """Tell what became of each event.

        A bad event for which the dead letters have no room returns to the queue instead.

        Args:
            lease: The lease.
            outcomes: One per event, in the lease's order.

        Returns:
            The lease of what is kept, under the same token; None when nothing is, and it has ended.

        Raises:
            LeaseLostError: It has ended before.
            StoreError: The server did not answer.
        """
        raise NotImplementedError

    async def give_back(self, lease: Lease) -> None:
        """Return all events to the head of the queue, in order. Errors as in ``renew``."""
        raise NotImplementedError

    async def reap(self) -> int:
        """End the leases that have expired; returns how many events went back or were dead letters.

        Raises:
            StoreError: The server did not answer.
        """
        raise NotImplementedError

    async def peek(self, count: int) -> list[bytes]:
        """Read the oldest events of the queue, without taking them; at most 1,000."""
        raise NotImplementedError

    async def failed(self, count: int) -> list[bytes]:
        """Read the oldest dead letters, at most 1,000."""
        raise NotImplementedError

    async def replay(self, count: int) -> int:
        """Move the oldest dead letters to the tail of the queue, ids kept, as far as it has room.

        Args:
            count: At most so many, and at most 1,000 in one call.

        Returns:
            How many were moved.
        """
        raise NotImplementedError

    async def purge(self, what: Literal["queue", "failed"], count: int) -> int:
        """Drop the oldest events or dead letters, at most 1,000 in one call; returns how many."""
        raise NotImplementedError

    async def status(self, *, deadline: float | None = None) -> SinkStatus:
        """Read the account: one round trip.

        Raises:
            StoreError: The server did not answer.
        """
        raise NotImplementedError
