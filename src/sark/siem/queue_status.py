"""The queues in short: what health checks and whoever needs room look at."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sark.keyspace import SinkKeys
from sark.siem.bounds import QueueBounds
from sark.store import Argument, Server

__all__ = ["QueueStatus", "read_queues"]

FIELDS = ("queued_bytes", "accepted", "purged", "inflight", "inflight_bytes")


class QueueStatus(msgspec.Struct, frozen=True):
    """One queue in short.

    Attributes:
        queued: Events in the queue now.
        queued_bytes: Bytes of their JSON.
        accepted: Events ever accepted.
        purged: Events dropped by an operator.
        in_flight: Events that are leased; they count towards the bound.
        in_flight_bytes: Bytes of their JSON.
    """

    queued: int
    queued_bytes: int
    accepted: int
    purged: int
    in_flight: int = 0
    in_flight_bytes: int = 0

    def is_full(self, bounds: QueueBounds) -> bool:
        """Whether the queue is at its bound."""
        return (
            self.queued + self.in_flight >= bounds.events
            or self.queued_bytes + self.in_flight_bytes >= bounds.bytes
        )


async def read_queues(
    server: Server, of_sinks: Sequence[SinkKeys], *, deadline: float | None = None
) -> list[QueueStatus]:
    """Read the accounts of several sinks in short: one round trip.

    Args:
        server: Where they are.
        of_sinks: Their keys.
        deadline: On the event loop's clock, in seconds.

    Raises:
        StoreError: The server did not answer.
    """
    commands: list[tuple[Argument, ...]] = []
    for keys in of_sinks:
        commands += [("LLEN", keys.queue), ("HMGET", keys.account, *FIELDS)]
    replies, _ = await server.exchange(commands, deadline=deadline, idempotent=True)
    return [
        QueueStatus(length, *(int(field or 0) for field in fields))
        for length, fields in zip(replies[::2], replies[1::2], strict=True)
    ]
