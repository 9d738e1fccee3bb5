"""One Valkey server in one role: every command of SARK goes through ``Server``.

This is the front: commands, transactions, scripts, and scripts that wait until what they wrote is
safe. How a call travels is told in ``calls.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from sark.errors import StoreUnavailableError
from sark.events import Hub
from sark.keyspace import Role
from sark.store.calls import Calls
from sark.store.connection import connection_factory
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
    value_of,
)
from sark.store.scripts import Script
from sark.store.stats import PoolStats

__all__ = ["Server"]


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
        self.connections = connections
        self._timeout = timeout
        self._calls = Calls(
            connections,
            role=role,
            size=pool_size,
            connect_timeout=connect_timeout,
            idle_check=health_check_interval,
            hub=hub,
        )
        self.guard = self._calls.guard

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

    async def count_replicas(self, at_least: int, *, deadline: float) -> int:
        """Count the replicas that keep up, without writing anything.

        Args:
            at_least: As soon as there are so many, they are not waited for any longer.
            deadline: On the event loop's clock, in seconds.

        Raises:
            StoreError: As in ``execute``.
        """
        wait = wait_for_replicas(at_least, deadline - asyncio.get_running_loop().time())
        count: int = await self.execute(*wait, deadline=deadline, idempotent=True)
        return count

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
        """Count the connections and waits."""
        return self._calls.stats()

    async def close(self) -> None:
        """Close the connections and stop probing."""
        await self._calls.close()

    def _call(
        self,
        commands: Sequence[Command | ScriptCall],
        deadline: float | None,
        *,
        idempotent: bool,
    ) -> Coroutine[Any, Any, tuple[list[Any], str]]:
        if not commands:
            raise ValueError("there is no command to send")
        now = asyncio.get_running_loop().time()
        if deadline is None:
            deadline = now + self._timeout
        elif deadline <= now:
            raise StoreUnavailableError(f"{self.address}: no time is left to ask")
        return self._calls.send(commands, now, deadline, idempotent=idempotent)
