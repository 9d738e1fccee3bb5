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
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from valkey import exceptions as driver

from sark.store.connection import StoreConnection

__all__ = ["Attempt", "ConnectionPool", "PoolStats"]

FIRST_BACKOFF_SECONDS = 0.01
LONGEST_BACKOFF_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment, and what happened since it was made.

    Attributes:
        size: Most connections that may exist.
        in_use: Connections that calls hold now.
        idle: Connections that are open and unused.
        waiters: Calls that wait for a connection now.
        waits: Calls that had to wait.
        wait_seconds: Time that those spent waiting, in sum.
        exhausted: Calls that gave up waiting.
        connects: Connections made.
        connect_failures: Attempts that failed.
        discarded: Connections closed because a call on them did not complete, or they or their
            server were found dead.
    """

    size: int
    in_use: int
    idle: int
    waiters: int
    waits: int
    wait_seconds: float
    exhausted: int
    connects: int
    connect_failures: int
    discarded: int


@dataclass(slots=True)
class Attempt:
    """How far one call came before it failed, and why it last failed to connect."""

    stage: Literal["starting", "waiting", "connecting", "sent"] = "starting"
    reason: str = ""


class ConnectionPool:
    """See the module's description.

    Args:
        make: Makes an unconnected connection.
        size: Most connections that may exist.
        connect_timeout: Seconds for one attempt to connect, handshake included.
        idle_check: Seconds of idleness after which a connection is asked PING before use; 0: never.
        check_going_on: Called after each failed attempt to connect; raises to end the retries.
    """

    def __init__(
        self,
        make: Callable[[], StoreConnection],
        *,
        size: int,
        connect_timeout: float,
        idle_check: float,
        check_going_on: Callable[[], None],
    ) -> None:
        self._make = make
        self._size = size
        self._connect_timeout = connect_timeout
        self._idle_check = idle_check
        self._check_going_on = check_going_on
        self._idle: list[StoreConnection] = []
        self._waiters: deque[asyncio.Future[StoreConnection]] = deque()
        self._in_use = 0
        self._closed = False
        self._waits = self._exhausted = self._connects = 0
        self._connect_failures = self._discarded = 0
        self._wait_seconds = 0.0

    def stats(self) -> PoolStats:
        """Count what the pool holds and what has happened to it."""
        return PoolStats(
            size=self._size,
            in_use=self._in_use,
            idle=len(self._idle),
            waiters=len(self._waiters),
            waits=self._waits,
            wait_seconds=self._wait_seconds,
            exhausted=self._exhausted,
            connects=self._connects,
            connect_failures=self._connect_failures,
            discarded=self._discarded,
        )

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
        self._in_use += 1
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
        self._in_use -= 1
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
        self._discarded += connection.counted
        connection.counted = False
        # Without waiting: the caller may be cancelled, and the peer may be gone.
        await connection.disconnect(nowait=True)

    def _idle_too_long(self, connection: StoreConnection) -> bool:
        idle = asyncio.get_running_loop().time() - connection.last_used
        return 0 < self._idle_check <= idle

    async def _slot(self, attempt: Attempt) -> StoreConnection:
        if self._idle:
            self._in_use += 1
            return self._idle.pop()
        if self._in_use < self._size:
            self._in_use += 1
            return self._make()
        attempt.stage = "waiting"
        return await self._wait_in_line()

    async def _wait_in_line(self) -> StoreConnection:
        waiter: asyncio.Future[StoreConnection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._waits += 1
        started = perf_counter()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._exhausted += 1
            if waiter.done() and not waiter.cancelled():
                # Handed over in the same moment as the caller gave up: pass it on.
                await self.release(waiter.result(), clean=True)
            elif waiter in self._waiters:  # else a release came across it and took it out
                self._waiters.remove(waiter)
            raise
        finally:
            self._wait_seconds += perf_counter() - started

    async def _revive(self, connection: StoreConnection, attempt: Attempt) -> None:
        """Make a connection usable: prove that it lives, or connect it (again)."""
        if connection.is_connected:
            if connection.usable and await self._answers_ping(connection):
                return
            await self._discard(connection)
        await self._connect(connection, attempt)

    async def _answers_ping(self, connection: StoreConnection) -> bool:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await connection.send_command("PING", check_health=False)
                reply: object = await connection.read_response()
        except (driver.ValkeyError, TimeoutError, OSError):
            return False
        return reply == b"PONG"

    async def _connect(self, connection: StoreConnection, attempt: Attempt) -> None:
        """Connect; when that fails, again after a jittered pause, while the caller has time."""
        pause = FIRST_BACKOFF_SECONDS
        while True:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    await connection.open()
            except (driver.AuthenticationError, driver.AuthorizationError, driver.ResponseError):
                # The server answers and refuses: asking again would not change its mind.
                self._connect_failures += 1
                raise
            except (driver.ConnectionError, driver.TimeoutError, TimeoutError, OSError) as error:
                self._connect_failures += 1
                attempt.reason = str(error) or "no connection in time"
                await connection.disconnect(nowait=True)
                self._check_going_on()
            else:
                self._connects += 1
                connection.counted = True
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, LONGEST_BACKOFF_SECONDS)
