"""Calls to one server: each under its deadline, past the guard, over the connection that fits it.

Ordinary calls share one connection (``lanes.py``). Those that would block or change it, and large
ones, get a connection of the pool to themselves (``routing.py`` decides).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from time import perf_counter
from typing import Any

from valkey import exceptions as driver

from sark.errors import (
    ConnectionLostError,
    PoolExhaustedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.events import CallResult, Hub, RoundTrip, ScriptLoaded
from sark.keyspace import Role
from sark.store.connection import connection_factory
from sark.store.deadline import Deadline
from sark.store.dialer import Attempt, Dialer
from sark.store.exchange import Command, ScriptCall, pack, talk
from sark.store.failures import translate
from sark.store.lane import Call
from sark.store.lanes import Lanes
from sark.store.noscript import Repeat, to_repeat
from sark.store.pool import ConnectionPool
from sark.store.prober import Prober
from sark.store.routing import BULK_BYTES, needs_own_connection
from sark.store.stats import PoolStats, count

__all__ = ["Calls"]

Commands = Sequence[Command | ScriptCall]
Outcome = tuple[list[Any], str]
"""The replies, and the run of the server that gave them."""


class Calls:
    """See the module's description.

    Args:
        connections: Makes connections to the server.
        role: What the server is used for; a label for events.
        size: Most connections. With 1 there is no shared one: calls take turns.
        connect_timeout: Seconds for one attempt to connect.
        idle_check: Seconds of idleness before a connection is checked; 0: never.
        hub: Where events go.
    """

    def __init__(
        self,
        connections: connection_factory,
        *,
        role: Role,
        size: int,
        connect_timeout: float,
        idle_check: float,
        hub: Hub,
    ) -> None:
        self._address = connections.address
        self._role = role
        self._size = size
        self._hub = hub
        self._prober = Prober(connections, role=role, hub=hub, give_up=self._give_up)
        self.guard = self._prober.guard
        self._dialer = Dialer(connections, timeout=connect_timeout)
        # Two are set aside for what is shared: the connection in use, and one given up before it on
        # which callers still wait. With few connections that one is closed instead.
        spare = min(max(size - 2, 0), 1)
        self._pool = ConnectionPool(
            self._dialer,
            size=max(size - 1 - spare, 1),
            idle_check=idle_check,
            check_going_on=self.guard.check,
        )
        self._lanes: Lanes | None = None
        if size > 1:
            self._lanes = Lanes(
                self._dialer,
                address=self._address,
                check_server=self.guard.check,
                spare=spare,
                idle_check=idle_check,
                failed=self._prober.failed,
            )

    def send(
        self, commands: Commands, now: float, deadline: float, *, idempotent: bool
    ) -> Coroutine[Any, Any, Outcome]:
        """Send commands and return their replies; an error reply is returned, not raised.

        It chooses among coroutines instead of being one: each that wraps another costs every call.

        Args:
            commands: What to send, at least one.
            now: On the event loop's clock, in seconds.
            deadline: Likewise.
            idempotent: Whether it may be sent again when the connection was lost.

        Raises:
            StoreUnavailableError: Nothing was sent.
            StoreTimeoutError: No reply in time.
            ConnectionLostError: The connection broke after sending.
        """
        packed = [pack(command) for command in commands]
        whole = packed[0] if len(packed) == 1 else b"".join(packed)
        lanes = self._lanes
        if lanes is None or len(whole) > BULK_BYTES or needs_own_connection(commands):
            once = self._alone(commands, packed, deadline)
        else:
            once = self._shared(lanes, commands, whole, now, deadline)
        return self._again_if_lost(once, commands, deadline) if idempotent else once

    def stats(self) -> PoolStats:
        """Count connections and waits."""
        return count(self._size, self._dialer, self._pool, self._lanes)

    async def close(self) -> None:
        """Close the connections and stop probing."""
        await self._prober.close()
        if self._lanes is not None:
            await self._lanes.close()
        await self._pool.close()

    async def _give_up(self) -> None:
        if self._lanes is not None:
            self._lanes.reset()
        await self._pool.reset()

    async def _again_if_lost(
        self, once: Coroutine[Any, Any, Outcome], commands: Commands, deadline: float
    ) -> Outcome:
        try:
            return await once
        except ConnectionLostError:
            now = asyncio.get_running_loop().time()
        return await self.send(commands, now, deadline, idempotent=False)

    async def _shared(
        self, lanes: Lanes, commands: Commands, packed: bytes, now: float, deadline: float
    ) -> Outcome:
        self.guard.check()
        started = perf_counter()
        result: CallResult | None = None
        call: Call | None = None
        try:
            call = lanes.submit(packed, len(commands), now, deadline)
            replies = await call.future
            for reply in replies:
                if isinstance(reply, Exception):
                    call = await self._mend(lanes, call, commands, replies)
                    break
        except StoreError as error:
            result = _result_of(error)
            raise
        except asyncio.CancelledError:
            if call is not None:
                lanes.forget(call)
            raise
        else:
            result = "ok"
            if self.guard.failures:
                self._prober.succeeded()
            return replies, _run_of(call)
        finally:
            if result is not None:  # else cancelled by the caller, which says nothing of the server
                self._report(commands, started, result)

    async def _mend(self, lanes: Lanes, call: Call, commands: Commands, replies: list[Any]) -> Call:
        """Load scripts that the server did not know, and repeat what did not run.

        The connection may have been closed meanwhile. Another one will do, since the scripts travel
        with their calls; but replies of two runs of the server are not one outcome.

        Returns:
            The call that brought the last replies.
        """
        self._raise_refusal(replies)
        repeat = to_repeat(commands, replies)
        if repeat is None:
            return call
        now = asyncio.get_running_loop().time()
        packed = b"".join([pack(command) for command in repeat.again])
        again = lanes.submit(packed, len(repeat.again), now, call.deadline)
        try:
            answers = await again.future
        except asyncio.CancelledError:
            lanes.forget(again)
            raise
        except StoreUnavailableError as error:
            if repeat.whole(commands):
                raise
            raise ConnectionLostError(f"{error}, after a part was done") from error
        self._raise_refusal(answers)
        if _run_of(again) != _run_of(call) and not repeat.whole(commands):
            raise ConnectionLostError(f"{self._address}: restarted after a part was done")
        self._merge(repeat, replies, answers)
        return again

    def _raise_refusal(self, replies: list[Any]) -> None:
        """Raise what the driver holds for the end of the connection: LOADING, for instance."""
        for reply in replies:
            if isinstance(reply, driver.ConnectionError):
                failure = translate(reply, sent=True, server=self._address)
                self._prober.failed(str(reply))
                raise failure from reply

    async def _alone(self, commands: Commands, packed: Sequence[bytes], deadline: float) -> Outcome:
        self.guard.check()
        started = perf_counter()
        attempt = Attempt()
        result: CallResult | None = None
        try:
            with Deadline(deadline):
                outcome = await self._exchange(commands, packed, attempt)
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
            self._prober.succeeded()
            return outcome
        finally:
            if result is not None:  # else cancelled by the caller
                self._report(commands, started, result)

    async def _exchange(
        self, commands: Commands, packed: Sequence[bytes], attempt: Attempt
    ) -> Outcome:
        connection = self._pool.take() or await self._pool.acquire(attempt)
        clean = False
        try:
            attempt.stage = "sent"
            replies = await talk(connection, packed)
            if (repeat := to_repeat(commands, replies)) is not None:
                again = [pack(command) for command in repeat.again]
                self._merge(repeat, replies, await talk(connection, again))
            clean = True
            connection.last_used = asyncio.get_running_loop().time()
            return replies, connection.run_id
        finally:
            await self._pool.release(connection, clean=clean)

    def _merge(self, repeat: Repeat, replies: list[Any], again: list[Any]) -> None:
        for script in repeat.merge(replies, again):
            self._hub.emit(ScriptLoaded(self._role, script.name))

    def _failure(self, error: Exception, attempt: Attempt) -> StoreError:
        """Explain what ended an attempt, and let the guard know if the server is to blame."""
        if isinstance(error, TimeoutError):
            if attempt.stage == "waiting":
                return PoolExhaustedError(f"{self._address}: no connection came free in time")
            connecting = attempt.reason or "no connection in time"
            error = TimeoutError("no answer in time" if attempt.stage == "sent" else connecting)
        failure = translate(error, sent=attempt.stage == "sent", server=self._address)
        if isinstance(failure, StoreUnavailableError | StoreTimeoutError | ConnectionLostError):
            self._prober.failed(str(error) or type(error).__name__)
        return failure

    def _report(self, commands: Commands, started: float, result: CallResult) -> None:
        seconds = perf_counter() - started
        self._hub.emit(RoundTrip(self._role, len(commands), seconds, result))


def _run_of(call: Call) -> str:
    assert call.lane is not None  # noqa: S101 - it has been answered
    return call.lane.run_id


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
