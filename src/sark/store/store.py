"""The servers of a deployment by role."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sark.errors import StoreError
from sark.events import Hub
from sark.keyspace import Keyspace, Role
from sark.settings import Settings
from sark.store.connection import connection_factory
from sark.store.failures import is_refusal
from sark.store.server import Server
from sark.store.topology import Topology
from sark.store.tracking import ChangeFeed

__all__ = ["Store", "StoreHealth"]


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """What one role of server says of itself.

    Attributes:
        role: The role.
        address: Where the server is, without credentials.
        ok: Whether it answered.
        reason: Why not.
        refused: Whether it answers, but refuses the password or the user.
    """

    role: Role
    address: str
    ok: bool
    reason: str = ""
    refused: bool = False


class Store:
    """Holds one ``Server`` per role; the same one twice when a single server has both.

    Use it as an async context manager, or call ``close``.

    Args:
        topology: Where the servers are.
        settings: Pool size and timeouts.
        hub: Where events go.
    """

    def __init__(self, topology: Topology, settings: Settings, hub: Hub | None = None) -> None:
        self.hub = hub or Hub()
        self.keys = Keyspace(cluster=settings.cluster_tags)
        self.shared = topology.shared
        self._settings = settings
        self._password = topology.password
        self.state = self._server(topology.state_url, Role.STATE)
        self.cache = self.state if self.shared else self._server(topology.cache_url, Role.CACHE)

    def _server(self, url: str, role: Role) -> Server:
        settings = self._settings
        return Server(
            connection_factory(url, password=self._password, client_name=f"sark-{role}"),
            role=role,
            pool_size=settings.valkey_pool_size,
            timeout=settings.valkey_socket_timeout,
            connect_timeout=settings.valkey_socket_connect_timeout,
            health_check_interval=settings.valkey_health_check_interval,
            hub=self.hub,
        )

    @property
    def servers(self) -> tuple[Server, ...]:
        """The distinct servers."""
        return (self.state,) if self.shared else (self.state, self.cache)

    def change_feed(
        self,
        *,
        on_change: Callable[[Sequence[bytes] | None], None],
        on_message: Callable[[bytes], None],
        interval: float,
    ) -> ChangeFeed:
        """Listen to the generations on the ``state`` server.

        Args:
            on_change: Given the names of changed keys; None when anything may have changed.
            on_message: Given each message about an invalidation.
            interval: Seconds between heartbeats.
        """
        return ChangeFeed(
            self.state.connections,
            prefixes=self.keys.generation_prefixes,
            channel=self.keys.policy_changes,
            on_change=on_change,
            on_message=on_message,
            interval=interval,
        )

    async def check(self, *, timeout: float) -> list[StoreHealth]:  # noqa: ASYNC109 - a bound, passed on
        """Ask every server PING, all at once.

        Args:
            timeout: Seconds for each.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        return list(await asyncio.gather(*(_health(s, deadline) for s in self.servers)))

    async def close(self) -> None:
        """Close all connections."""
        for server in self.servers:
            await server.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()


async def _health(server: Server, deadline: float) -> StoreHealth:
    try:
        await server.execute("PING", deadline=deadline, idempotent=True)
    except StoreError as error:
        return StoreHealth(
            server.role, server.address, ok=False, reason=str(error), refused=is_refusal(error)
        )
    return StoreHealth(server.role, server.address, ok=True)
