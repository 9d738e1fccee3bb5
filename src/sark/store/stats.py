"""What the connections to one server are doing, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from sark.store.dialer import Dialer
from sark.store.lanes import Lanes
from sark.store.pool import ConnectionPool

__all__ = ["PoolStats", "count"]


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The connections to a server at one moment, and what happened since the start.

    Attributes:
        size: Most connections that may exist, the shared one included.
        in_use: Connections on which replies are still to come, or that are being made for a call.
        idle: Connections that are open and unused.
        in_flight: Calls that were sent and whose callers wait for replies.
        waiters: Calls that wait for a connection, for one to be made, or for room on it.
        waits: Calls that had to wait so.
        wait_seconds: Time that those spent waiting, in sum.
        exhausted: Calls that gave up waiting for a free connection or for room.
        connects: Connections made.
        connect_failures: Attempts that failed.
        discarded: Connections closed because a call on them did not complete, or they or their
            server were found dead.
    """

    size: int
    in_use: int
    idle: int
    in_flight: int
    waiters: int
    waits: int
    wait_seconds: float
    exhausted: int
    connects: int
    connect_failures: int
    discarded: int


def count(size: int, dialer: Dialer, pool: ConnectionPool, lanes: Lanes | None) -> PoolStats:
    """Count connections and waits, those of the pool and the shared ones together.

    Args:
        size: Most connections that may exist.
        dialer: Made them.
        pool: The exclusive connections.
        lanes: The shared ones, if there may be any.
    """
    shared = lanes.open if lanes is not None else []
    busy = sum(lane.busy for lane in shared)
    return PoolStats(
        size=size,
        in_use=pool.in_use + busy,
        idle=pool.idle + len(shared) - busy,
        in_flight=pool.in_use + sum(lane.in_flight for lane in shared),
        waiters=pool.waiters + (lanes.waiters if lanes is not None else 0),
        waits=pool.waits + (lanes.waits if lanes is not None else 0),
        wait_seconds=pool.wait_seconds + (lanes.wait_seconds if lanes is not None else 0.0),
        exhausted=pool.exhausted + (lanes.exhausted if lanes is not None else 0),
        connects=dialer.connects,
        connect_failures=dialer.failures,
        discarded=pool.discarded + (lanes.discarded if lanes is not None else 0),
    )
