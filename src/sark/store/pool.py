"""A bounded, fair pool of connections to one Valkey server.

At most ``size`` connections exist. Who finds all of them in use waits in line, first come first
served: a released connection is handed to the first waiter instead of being put back, so nobody
can overtake and no caller starves. Idle connections are reused last in first out, so that a quiet
service needs few of them.

A connection goes back only when every reply to what was sent on it has been read. Whatever ends a
call early (an error, a timeout, a cancellation) closes its connection: no reply is ever left
behind for the next user.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

from valkey import exceptions as driver

from sark.store.connection import StoreConnection
from sark.store.dialer import Attempt, Dialer

__all__ = ["ConnectionPool"]


class ConnectionPool:
    """See the module's description.

    Args:
        dialer: Connects.
        size: Most connections that may exist.
        idle_check: Seconds of idleness after which a connection is asked PING before use; 0: never.
        check_going_on: Called after each failed attempt to connect; raises to end the retries.

    Attributes:
        size: As given.
        in_use: Connections that calls hold, unconnected ones among them.
        waits: Calls that had to wait for a connection.
        wait_seconds: How long, in sum.
        exhausted: Calls that gave up waiting.
        discarded: Connections closed because a call did not complete or they were found dead.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        size: int,
        idle_check: float,
        check_going_on: Callable[[], None],
    ) -> None:
        self._dialer = dialer
        self.size = size
        self._idle_check = idle_check
        self._check_going_on = check_going_on
        self._idle: list[StoreConnection] = []
        self._waiters: deque[asyncio.Future[StoreConnection]] = deque()
        self.in_use = 0
        self._closed = False
        self.waits = self.exhausted = self.discarded = 0
        self.wait_seconds = 0.0

    @property
    def idle(self) -> int:
        """Connections that are open and unused."""
        return len(self._idle)

    @property
    def waiters(self) -> int:
        """Calls that wait for a connection."""
        return len(self._waiters)

    def take(self) -> StoreConnection | None:
        """Take an idle connection that can be used as it is, or None; costs no suspension."""
        if not self._idle:
            return None
        connection = self._idle[-1]
        if not connection.usable:
            return None
        if self._idle_check:
            idle = asyncio.get_running_loop().time() - connection.last_used
            if idle >= self._idle_check:
                return None
        self._idle.pop()
        self.in_use += 1
        return connection

    async def acquire(self, attempt: Attempt) -> StoreConnection:
        """Take a connected connection; the caller's timeout bounds the wait.

        Args:
            attempt: Notes how far the call came, for whoever has to explain a timeout.

        Raises:
            asyncio.CancelledError: The caller's time ran out; nothing is held.
            StoreUnavailableError: The server was found dead while connecting.
            Exception: The driver's error, when connecting cannot succeed (wrong password).
        """
        connection = await self._slot(attempt)
        try:
            attempt.stage = "connecting"
            if not connection.usable or self._idle_too_long(connection):
                await self._revive(connection, attempt)
        except BaseException:
            await self.release(connection, clean=False)
            raise
        return connection

    async def release(self, connection: StoreConnection, *, clean: bool) -> None:
        """Give a connection back.

        Args:
            connection: What ``acquire`` returned.
            clean: Whether every reply was read. Otherwise the connection is closed.
        """
        if not clean:
            await self._discard(connection)
        elif self._closed:
            await connection.disconnect(nowait=True)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self.in_use -= 1
        if connection.is_connected:
            self._idle.append(connection)

    async def close(self) -> None:
        """Close the idle connections now, and those in use when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect()

    async def reset(self) -> None:
        """Close the idle connections; the next calls connect anew."""
        while self._idle:
            await self._discard(self._idle.pop())

    async def _discard(self, connection: StoreConnection) -> None:
        # The driver may have closed it already, so ``is_connected`` cannot tell what to count.
        self.discarded += connection.counted
        connection.counted = False
        # Without waiting: the caller may be cancelled, and the peer may be gone.
        await connection.disconnect(nowait=True)

    def _idle_too_long(self, connection: StoreConnection) -> bool:
        idle = asyncio.get_running_loop().time() - connection.last_used
        return 0 < self._idle_check <= idle

    async def _slot(self, attempt: Attempt) -> StoreConnection:
        if self._idle:
            self.in_use += 1
            return self._idle.pop()
        if self.in_use < self.size:
            self.in_use += 1
            return self._dialer.make()
        attempt.stage = "waiting"
        return await self._wait_in_line()

    async def _wait_in_line(self) -> StoreConnection:
        waiter: asyncio.Future[StoreConnection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.waits += 1
        started = perf_counter()
        try:
            return await waiter
        except asyncio.CancelledError:
            self.exhausted += 1
            if waiter.done() and not waiter.cancelled():
                # Handed over in the same moment as the caller gave up: pass it on.
                await self.release(waiter.result(), clean=True)
            elif waiter in self._waiters:  # else a release came across it and took it out
                self._waiters.remove(waiter)
            raise
        finally:
            self.wait_seconds += perf_counter() - started

    async def _revive(self, connection: StoreConnection, attempt: Attempt) -> None:
        """Make a connection usable: prove that it lives, or connect it (again)."""
        if connection.is_connected:
            if connection.usable and await self._answers_ping(connection):
                return
            await self._discard(connection)
        await self._dialer.dial(connection, attempt, self._check_going_on)
        connection.counted = True

    async def _answers_ping(self, connection: StoreConnection) -> bool:
        try:
            async with asyncio.timeout(self._dialer.timeout):
                await connection.send_command("PING", check_health=False)
                reply: object = await connection.read_response()
        except (driver.ValkeyError, TimeoutError, OSError):
            return False
        return reply == b"PONG"
