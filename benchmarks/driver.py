"""The baseline: the driver as its users configure it, and as lean as its pool can be."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from valkey.asyncio import BlockingConnectionPool, ConnectionPool, Valkey

__all__ = ["Drivers", "open_drivers"]

GUIDE_CONNECTIONS = 20
GUIDE_TIMEOUT_SECONDS = 5
GUIDE_CONNECT_TIMEOUT_SECONDS = 2
GUIDE_HEALTH_CHECK_SECONDS = 30
LEAN_CONNECTIONS = 1000


@dataclass(frozen=True, slots=True)
class Drivers:
    """Two clients of the same server.

    Attributes:
        guide: With the settings that the optimization guide gives, in a pool that waits when all
            connections are in use: what a user would have.
        lean: Without time limits, health checks and decoding, in a pool that does not wait: the
            least that the driver can do with a pool. A server that hangs would hang its callers.
    """

    guide: Valkey
    lean: Valkey


@contextlib.asynccontextmanager
async def open_drivers(url: str) -> AsyncIterator[Drivers]:
    """Open both clients.

    Args:
        url: The server, with its password.
    """
    guide = BlockingConnectionPool.from_url(
        url,
        max_connections=GUIDE_CONNECTIONS,
        socket_timeout=GUIDE_TIMEOUT_SECONDS,
        socket_connect_timeout=GUIDE_CONNECT_TIMEOUT_SECONDS,
        retry_on_timeout=True,
        health_check_interval=GUIDE_HEALTH_CHECK_SECONDS,
        decode_responses=True,
    )
    lean = ConnectionPool.from_url(url, max_connections=LEAN_CONNECTIONS, socket_timeout=None)
    async with Valkey.from_pool(guide) as first, Valkey.from_pool(lean) as second:
        yield Drivers(first, second)
