"""Our ``Server`` on a test's server, with what it reports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sark.events import GuardChanged, Hub, RoundTrip, ScriptLoaded
from sark.keyspace import Role
from sark.store import Argument, Server
from sark.store.connection import StoreConnection, connection_factory
from sark.store.lane import Lane
from sark.store.lanes import Lanes
from sark.store.pool import ConnectionPool

CLIENT_NAME = "sark-under-test"


class Reports:
    """The events of one ``Server``, in order."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.round_trips: list[RoundTrip] = []
        self.guard_changes: list[GuardChanged] = []
        self.scripts_loaded: list[ScriptLoaded] = []
        self.hub.on(RoundTrip, self.round_trips.append)
        self.hub.on(GuardChanged, self.guard_changes.append)
        self.hub.on(ScriptLoaded, self.scripts_loaded.append)


@asynccontextmanager
async def open_server(
    url: str,
    *,
    password: str | None = None,
    pool_size: int = 4,
    timeout: float = 5.0,  # noqa: ASYNC109 - an option that is passed on
    connect_timeout: float = 1.0,
    health_check_interval: float = 0.0,
    reports: Reports | None = None,
) -> AsyncIterator[Server]:
    """Open a ``Server`` and close it at the end.

    Args:
        url: Where the server is, directly or by way of a proxy.
        password: As in ``connection_factory``.
        pool_size: As in ``Server``.
        timeout: Likewise.
        connect_timeout: Likewise.
        health_check_interval: Likewise.
        reports: Where its events go.
    """
    server = Server(
        connection_factory(url, password=password, client_name=CLIENT_NAME),
        role=Role.STATE,
        pool_size=pool_size,
        timeout=timeout,
        connect_timeout=connect_timeout,
        health_check_interval=health_check_interval,
        hub=(reports or Reports()).hub,
    )
    try:
        yield server
    finally:
        await server.close()


def pool_of(server: Server) -> ConnectionPool:
    """Reach into a server for the pool of its exclusive connections."""
    return server._calls._pool


def idle_of(server: Server) -> list[StoreConnection]:
    """Reach into a server for its unused exclusive connections."""
    return pool_of(server)._idle


def lanes_of(server: Server) -> Lanes:
    """Reach into a server for what keeps its shared connection."""
    lanes = server._calls._lanes
    assert lanes is not None, "the server has no shared connection"
    return lanes


def lane_of(server: Server) -> Lane:
    """Reach into a server for its shared connection."""
    lane = lanes_of(server)._lane
    assert lane is not None, "the shared connection is not open"
    return lane


async def alone(server: Server, *command: Argument, **options: Any) -> Any:
    """Send a command on a connection of its own, behind one that may not share any."""
    _, reply = await server.pipeline([("UNWATCH",), command], **options)
    return reply
