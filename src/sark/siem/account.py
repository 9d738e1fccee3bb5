"""A sink's account: where every event that was ever accepted is now."""

from __future__ import annotations

import msgspec

__all__ = ["Booked", "SinkStatus"]


class Booked(msgspec.Struct, frozen=True):
    """How many events, and the bytes of their JSON."""

    events: int = 0
    bytes: int = 0


class SinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One sink's account at one moment.

    Attributes:
        sink: Whose.
        accepted: Events that the queue took.
        duplicates: Copies it took of events that may have been accepted before.
        delivered: Events that the receiver has.
        failed: Dead letters now.
        queued: Events that wait.
        in_flight: Events that workers hold.
        dropped: Events given up to make room.
        purged: Events and dead letters dropped by an operator.
        leases: How many workers hold events.
        oldest_seconds: Age of the oldest event that is queued or in flight; None without any.
    """

    sink: str
    accepted: Booked
    duplicates: Booked
    delivered: Booked
    failed: Booked
    queued: Booked
    in_flight: Booked
    dropped: Booked
    purged: Booked
    leases: int
    oldest_seconds: float | None

    @property
    def balanced(self) -> bool:
        """Whether every event that came in is in exactly one place."""
        came = (self.accepted, self.duplicates)
        places = (
            self.delivered,
            self.failed,
            self.queued,
            self.in_flight,
            self.dropped,
            self.purged,
        )
        return all(
            sum(getattr(each, unit) for each in came) == sum(getattr(each, unit) for each in places)
            for unit in ("events", "bytes")
        )
