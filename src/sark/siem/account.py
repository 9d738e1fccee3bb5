"""A sink's account: where every event that was ever accepted is now."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

__all__ = ["Booked", "SinkStatus", "read_status"]

UUID_VERSION = 7


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


class _Id(msgspec.Struct):
    id: str


def read_status(sink: str, reply: Sequence[Any]) -> SinkStatus:
    """Read what ``status.lua`` answers.

    Args:
        sink: Whose account it is.
        reply: The reply.
    """
    now_us, queued, failed, fields, oldest, leases = reply
    numbers = {
        name.decode(): int(value) for name, value in zip(fields[::2], fields[1::2], strict=True)
    }
    if "accepted" in numbers:
        # As ``siem_adopt`` will complete an account from before bytes were accepted.
        numbers.setdefault("accepted_bytes", numbers.get("queued_bytes", 0))

    def line(name: str, events: int | None = None) -> Booked:
        count = numbers.get(name, 0) if events is None else events
        return Booked(count, numbers.get(f"{name}_bytes", 0))

    ids = [record.split()[4].decode() for record in leases]
    if oldest:
        # What is no event has no age; its worker makes a dead letter of it.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            ids.append(msgspec.json.decode(oldest, type=_Id).id)
    return SinkStatus(
        sink=sink,
        accepted=line("accepted"),
        duplicates=line("duplicates"),
        delivered=line("delivered"),
        failed=line("failed", failed),
        queued=line("queued", queued),
        in_flight=line("inflight"),
        dropped=line("dropped"),
        purged=line("purged"),
        leases=len(leases),
        oldest_seconds=_oldest_seconds(ids, int(now_us)),
    )


def _oldest_seconds(ids: Sequence[str], now_us: int) -> float | None:
    """Tell the age of the oldest event by its id, a UUIDv7 (RFC 9562): its first 48 bits."""
    made = [ms for each in ids if (ms := _made_at_ms(each)) is not None]
    return max(now_us / 1000 - min(made), 0) / 1000 if made else None


def _made_at_ms(event_id: str) -> int | None:
    try:
        made = UUID(event_id)
    except ValueError:
        return None
    return made.int >> 80 if made.version == UUID_VERSION else None
