"""One Valkey server in one role: every command of SARK goes through ``Server``.

A call acquires a connection, writes all its commands at once, reads all replies, and gives the
connection back, under one deadline. The guard refuses calls to a server known to be dead; the
pool bounds connections; scripts that the server has forgotten are loaded and their calls sent
again on the same connection (``noscript.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from sark.errors import (
    ConnectionLostError,
    PoolExhaustedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.events import CallResult, GuardChanged, Hub, RoundTrip, ScriptLoaded
from sark.keyspace import Role
from sark.store.connection import connection_factory
from sark.store.deadline import Deadline
from sark.store.durability import (
    check_fsync,
    check_replicas,
    wait_for_fsync,
    wait_for_replicas,
)
from sark.store.exchange import (
    Argument,
    Command,
    Reply,
    ScriptCall,
    command_error,
    talk,
    value_of,
)
from sark.store.failures import translate
from sark.store.guard import Guard
from sark.store.noscript import to_repeat
from sark.store.pool import Attempt, ConnectionPool, PoolStats
from sark.store.scripts import Script

__all__ = ["Server"]

PROBE_TIMEOUT_SECONDS = 1.0


class Server:
    """See the module's description.

    Args:
        connections: Makes connections to the server.
        role: What the server is used for; a label for events.
        pool_size: Most connections.
        timeout: Seconds for a call that is given no deadline of its own.
        connect_timeout: Seconds for one attempt to connect.
        health_check_interval: Seconds of idleness before a connection is checked; 0: never.
        hub: Where events go.
    """

    def __init__(
        self,
        connections: connection_factory,
        *,
        role: Role,
        pool_size: int,
        timeout: float,
        connect_timeout: float,
        health_check_interval: float,
        hub: Hub,
    ) -> None:
        self.address = connections.address
        self.role = role
        self.guard = Guard(connections.address)
        self._timeout = timeout
        self._hub = hub
        self.connections = connections
        self._pool = ConnectionPool(
            connections,
            size=pool_size,
            connect_timeout=connect_timeout,
            idle_check=health_check_interval,
            check_going_on=self.guard.check,
        )
        self._prober: asyncio.Task[None] | None = None
        self._closed = False

    async def execute(
        self, *command: Argument, deadline: float | None = None, idempotent: bool = False
    ) -> Any:
        """Send one command and return its reply.

        Args:
            command: Name and arguments.
            deadline: On the event loop's clock, in seconds; default is now plus the timeout.
            idempotent: Whether it may be sent again when the connection was lost.

        Raises:
            StoreUnavailableError: Nothing was sent.
            StoreTimeoutError: No reply in time.
            ConnectionLostError: The connection broke after sending.
            StoreCommandError: The server answered with an error.
        """
        replies, _ = await self._call([command], deadline, idempotent=idempotent)
        return value_of(replies[0], self.address)

    async def exchange(
        self,
        commands: Sequence[Command | ScriptCall],
        *,
        deadline: float | None = None,
        idempotent: bool = False,
    ) -> tuple[list[Any], str]:
        """Send several commands at once, all of which have to succeed.

        Returns:
            Their replies, and the run of the server that gave them.

        Raises:
            StoreError: As in ``execute``; the first error reply, if there is one.
        """
        replies, run_id = await self._call(commands, deadline, idempotent=idempotent)
        for reply in replies:
            value_of(reply, self.address)
        return replies, run_id

    async def transaction(
        self,
        commands: Sequence[Command],
        *,
        deadline: float | None = None,
        idempotent: bool = False,
    ) -> tuple[list[Any], str]:
        """Send several commands that run at one moment (``MULTI``); else as ``exchange``."""
        whole: list[Command | ScriptCall] = [("MULTI",), *commands, ("EXEC",)]
        replies, run_id = await self._call(whole, deadline, idempotent=idempotent)
        results: list[Any] = value_of(replies[-1], self.address)
        for result in results:
            value_of(result, self.address)
        return results, run_id

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument] = (),
        *,
        deadline: float | None = None,
        idempotent: bool = False,
    ) -> Reply:
        """Run one script; arguments and errors as in ``execute``."""
        call = ScriptCall(script, keys, args)
        replies, run_id = await self._call([call], deadline, idempotent=idempotent)
        return Reply(value_of(replies[0], self.address), run_id)

    async def run_replicated(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument] = (),
        *,
        replicas: int,
        deadline: float | None = None,
        idempotent: bool = False,
    ) -> Reply:
        """Run a script and wait until replicas have acknowledged what it wrote.

        Args:
            script: The script.
            keys: Its keys.
            args: Its arguments.
            replicas: How many acknowledgements are needed; 0 waits for none.
            deadline: As in ``execute``.
            idempotent: As in ``execute``.

        Raises:
            ReplicationError: Fewer replicas acknowledged it in time.
            StoreError: As in ``execute``.
        """
        if not replicas:
            return await self.run(script, keys, args, deadline=deadline, idempotent=idempotent)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout if deadline is None else deadline
        wait = wait_for_replicas(replicas, deadline - loop.time())
        commands: list[Command | ScriptCall] = [ScriptCall(script, keys, args), wait]
        replies, run_id = await self._call(commands, deadline, idempotent=idempotent)
        value = value_of(replies[0], self.address)
        check_replicas(replies[1], replicas, self.address)
        return Reply(value, run_id)

    async def run_durable(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument] = (),
        *,
        replicas: int = 0,
        deadline: float | None = None,
        idempotent: bool = False,
    ) -> Reply:
        """Run a script and wait until what it wrote outlives the server's process.

        With replicas that is when so many have acknowledged it, as in ``run_replicated``. Without,
        it is when the server has synced its append-only file, where it keeps one: with
        ``appendfsync everysec`` that takes up to a second, so give it more time than that. A server
        that keeps no such file has nothing to wait for.

        Args:
            script: The script.
            keys: Its keys.
            args: Its arguments.
            replicas: How many acknowledgements are needed.
            deadline: As in ``execute``.
            idempotent: As in ``execute``.

        Raises:
            ReplicationError: Fewer replicas acknowledged it in time.
            DurabilityError: It was not on disk in time.
            StoreError: As in ``execute``.
        """
        if replicas:
            return await self.run_replicated(
                script, keys, args, replicas=replicas, deadline=deadline, idempotent=idempotent
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout if deadline is None else deadline
        wait = wait_for_fsync(deadline - loop.time())
        commands: list[Command | ScriptCall] = [ScriptCall(script, keys, args), wait]
        replies, run_id = await self._call(commands, deadline, idempotent=idempotent)
        value = value_of(replies[0], self.address)
        check_fsync(replies[1], self.address)
        return Reply(value, run_id)

    async def pipeline(
        self,
        commands: Sequence[Command | ScriptCall],
        *,
        deadline: float | None = None,
        idempotent: bool = False,
    ) -> list[Any]:
        """Send several commands at once; they are not a transaction.

        Returns:
            One reply per command; an error reply stands in its place as ``StoreCommandError``.
        """
        if not commands:
            return []
        replies, _ = await self._call(commands, deadline, idempotent=idempotent)
        return [command_error(r, self.address) if isinstance(r, Exception) else r for r in replies]

    def pool_stats(self) -> PoolStats:
        """Count the pool's connections and waits."""
        return self._pool.stats()

    async def close(self) -> None:
        """Close the connections and stop probing."""
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        await self._pool.close()

    async def _call(
        self,
        commands: Sequence[Command | ScriptCall],
        deadline: float | None,
        *,
        idempotent: bool,
    ) -> tuple[list[Any], str]:
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._timeout
        elif deadline <= asyncio.get_running_loop().time():
            raise StoreUnavailableError(f"{self.address}: no time is left to ask")
        try:
            return await self._attempt(commands, deadline)
        except ConnectionLostError:
            if not idempotent:
                raise
        return await self._attempt(commands, deadline)

    async def _attempt(
        self, commands: Sequence[Command | ScriptCall], deadline: float
    ) -> tuple[list[Any], str]:
        self.guard.check()
        started = perf_counter()
        attempt = Attempt()
        result: CallResult | None = None
        try:
            with Deadline(deadline):
                outcome = await self._exchange(commands, attempt)
        except StoreError:
            result = "unavailable"
            raise
        except Exception as error:
            result = "error"
            failure = self._failure(error, attempt)
            result = _result_of(failure)
            raise failure from error
        else:
            result = "ok"
            if self.guard.failures and self.guard.succeeded():
                self._hub.emit(GuardChanged(self.role, is_open=False, reason=""))
            return outcome
        finally:
            if result is not None:  # else cancelled by the caller, which says nothing of the server
                seconds = perf_counter() - started
                self._hub.emit(RoundTrip(self.role, len(commands), seconds, result))

    async def _exchange(
        self, commands: Sequence[Command | ScriptCall], attempt: Attempt
    ) -> tuple[list[Any], str]:
        connection = self._pool.take() or await self._pool.acquire(attempt)
        clean = False
        try:
            attempt.stage = "sent"
            replies = await talk(connection, commands)
            if (repeat := to_repeat(commands, replies)) is not None:
                for script in repeat.merge(replies, await talk(connection, repeat.again)):
                    self._hub.emit(ScriptLoaded(self.role, script.name))
            clean = True
            connection.last_used = asyncio.get_running_loop().time()
            return replies, connection.run_id
        finally:
            await self._pool.release(connection, clean=clean)

    def _failure(self, error: Exception, attempt: Attempt) -> StoreError:
        """Explain what ended an attempt, and let the guard know if the server is to blame."""
        if isinstance(error, TimeoutError):
            if attempt.stage == "waiting":
                return PoolExhaustedError(f"{self.address}: no connection came free in time")
            connecting = attempt.reason or "no connection in time"
            error = TimeoutError("no answer in time" if attempt.stage == "sent" else connecting)
        failure = translate(error, sent=attempt.stage == "sent", server=self.address)
        if isinstance(failure, StoreUnavailableError | StoreTimeoutError | ConnectionLostError):
            self._note_failure(str(error) or type(error).__name__)
        return failure

    def _note_failure(self, reason: str) -> None:
        if not self.guard.failed(reason):
            return
        self._hub.emit(GuardChanged(self.role, is_open=True, reason=reason))
        # A prober that has not yet noticed that the guard was closed meanwhile goes on with it.
        if not self._closed and (self._prober is None or self._prober.done()):
            self._prober = asyncio.create_task(self._probe(), name=f"sark-probe-{self.role}")

    async def _probe(self) -> None:
        """Connect and shake hands, again and again, until the server answers."""
        while self.guard.is_open:
            await self._pool.reset()
            await asyncio.sleep(self.guard.next_pause())
            connection = self.connections()
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                    await connection.open()
            except Exception as error:  # noqa: BLE001 - without its probe the guard stays open for good
                self.guard.reason = str(error) or type(error).__name__
            else:
                if self.guard.succeeded():
                    self._hub.emit(GuardChanged(self.role, is_open=False, reason=""))
            finally:
                await connection.disconnect(nowait=True)


def _result_of(failure: StoreError) -> CallResult:
    match failure:
        case StoreTimeoutError():
            return "timeout"
        case ConnectionLostError():
            return "lost"
        case StoreUnavailableError():
            return "unavailable"
        case _:
            return "error"
