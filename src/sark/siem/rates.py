"""How fast a queue drains, and when it would be full: computed from two readings of its account."""

from __future__ import annotations

from dataclasses import dataclass

from sark.siem.account import SinkStatus
from sark.siem.bounds import QueueBounds

__all__ = ["Rates", "rates_between"]


@dataclass(frozen=True, slots=True)
class Rates:
    """How one sink's queue moves.

    Attributes:
        inflow: Events taken per second, copies included.
        drain: Events per second that were delivered or became dead letters.
        seconds_to_empty: Until nothing is queued or in flight, if it goes on so; None when it does
            not get shorter.
        seconds_to_full: Until the queue is at its bound of events or bytes, whichever comes first;
            0 when it is, None when it does not grow.
    """

    inflow: float
    drain: float
    seconds_to_empty: float | None
    seconds_to_full: float | None


def rates_between(
    before: SinkStatus, after: SinkStatus, seconds: float, bounds: QueueBounds
) -> Rates:
    """Compare two readings.

    Dead letters that are replayed come in again without having been accepted again; they are part
    of the growth that ``seconds_to_full`` is computed from, and of neither rate.

    Args:
        before: The earlier one.
        after: The later one, of the same sink.
        seconds: Between them; more than 0.
        bounds: How much the queue may hold.
    """
    held = after.queued.events + after.in_flight.events
    held_bytes = after.queued.bytes + after.in_flight.bytes
    growth = (held - before.queued.events - before.in_flight.events) / seconds
    growth_bytes = (held_bytes - before.queued.bytes - before.in_flight.bytes) / seconds
    until_full = [
        max(bound - now, 0) / rate
        for bound, now, rate in (
            (bounds.events, held, growth),
            (bounds.bytes, held_bytes, growth_bytes),
        )
        if rate > 0
    ]
    full = held >= bounds.events or held_bytes >= bounds.bytes
    return Rates(
        inflow=(_taken(after) - _taken(before)) / seconds,
        drain=max(_gone(after) - _gone(before), 0) / seconds,
        seconds_to_empty=0.0 if not held else held / -growth if growth < 0 else None,
        seconds_to_full=0.0 if full else min(until_full, default=None),
    )


def _taken(status: SinkStatus) -> int:
    return status.accepted.events + status.duplicates.events


def _gone(status: SinkStatus) -> int:
    return status.delivered.events + status.failed.events
