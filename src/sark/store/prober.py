"""Watching over one server: counts its failures, and asks a dead one until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sark.events import GuardChanged, Hub
from sark.keyspace import Role
from sark.store.connection import connection_factory
from sark.store.guard import Guard

__all__ = ["Prober"]

PROBE_TIMEOUT_SECONDS = 1.0


class Prober:
    """Runs the guard of one server.

    Args:
        connections: Makes connections to the server.
        role: A label for events.
        hub: Where they go.
        give_up: Closes the connections to a server that was found dead.

    Attributes:
        guard: Says whether the server may be asked.
    """

    def __init__(
        self,
        connections: connection_factory,
        *,
        role: Role,
        hub: Hub,
        give_up: Callable[[], Awaitable[None]],
    ) -> None:
        self.guard = Guard(connections.address)
        self._connections = connections
        self._role = role
        self._hub = hub
        self._give_up = give_up
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def succeeded(self) -> None:
        """Note an answer of the server."""
        if self.guard.failures and self.guard.succeeded():
            self._hub.emit(GuardChanged(self._role, is_open=False, reason=""))

    def failed(self, reason: str) -> None:
        """Note a failure that speaks for a dead server; the last straw starts the probe."""
        if not self.guard.failed(reason):
            return
        self._hub.emit(GuardChanged(self._role, is_open=True, reason=reason))
        # A probe that has not yet noticed that the guard was closed meanwhile goes on with it.
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._probe(), name=f"sark-probe-{self._role}")

    async def close(self) -> None:
        """Stop probing."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _probe(self) -> None:
        """Connect and shake hands, again and again, until the server answers."""
        while self.guard.is_open:
            await self._give_up()
            await asyncio.sleep(self.guard.next_pause())
            connection = self._connections()
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                    await connection.open()
            except Exception as error:  # noqa: BLE001 - without its probe the guard stays open for good
                self.guard.reason = str(error) or type(error).__name__
            else:
                self.succeeded()
            finally:
                await connection.disconnect(nowait=True)
