"""The shared connection to one server: made when it is needed, replaced when it breaks.

Who finds no connection, or no room on it, waits in line, first come first served. However many
wait, one task connects for all of them. A connection that breaks while nothing is under way costs
no call: the next one has it made anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from libvalkey import pack_command

from sark.errors import PoolExhaustedError, StoreError, StoreUnavailableError
from sark.store.alarm import Alarm
from sark.store.dialer import Attempt, Dialer
from sark.store.failures import translate
from sark.store.lane import Call, Lane

__all__ = ["Lanes"]

NEVER = float("inf")
PING = pack_command(("PING",))


class _NobodyWaitsError(Exception):
    """All who waited for a connection have gone."""


class Lanes:
    """See the module's description.

    Args:
        dialer: Connects.
        address: For messages.
        check_server: Raises when the server is known to be down.
        spare: How many connections may be open that have been given up, but are still waited for.
        idle_check: Seconds of idleness after which a connection is asked PING before use; 0: never.
        failed: Told of each failure that speaks for a dead server.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        address: str,
        check_server: Callable[[], None],
        spare: int,
        idle_check: float,
        failed: Callable[[str], None],
    ) -> None:
        self._dialer = dialer
        self._address = address
        self._check_server = check_server
        self._spare = spare
        self._idle_check = idle_check or NEVER
        self.failed = failed
        self._lane: Lane | None = None
        self._given_up: list[Lane] = []
        self._line: deque[Call] = deque()
        self._alarm = Alarm(self._expire)
        self._preparing: asyncio.Task[None] | None = None
        self._checked: Lane | None = None
        self._attempt = Attempt()
        self._closed = False
        self.waits = self.exhausted = self.discarded = 0
        self.wait_seconds = 0.0

    @property
    def open(self) -> list[Lane]:
        """The open connections."""
        return [*self._given_up, *([] if self._lane is None else [self._lane])]

    @property
    def waiters(self) -> int:
        """Calls that wait in line."""
        return sum(not call.future.done() for call in self._line)

    def submit(self, packed: bytes, count: int, now: float, deadline: float) -> Call:
        """Send a call, or let it wait in line.

        Args:
            packed: Its commands.
            count: How many they are.
            now: On the event loop's clock, in seconds.
            deadline: Likewise; the call's future fails when it has passed.

        Returns:
            The call; whoever stops waiting for it says so with ``forget``.

        Raises:
            StoreUnavailableError: It has been closed.
        """
        if self._closed:
            raise StoreUnavailableError(f"{self._address}: closed")
        call = Call(packed, count, deadline, asyncio.get_running_loop().create_future())
        lane = self._lane
        if lane is None or self._line or lane.full or self._idle_too_long(lane, now):
            self._wait_in_line(call, now)
        else:
            lane.send(call, now)
        return call

    def forget(self, call: Call) -> None:
        """Take a call out of the line; one that was sent keeps its place for its reply."""
        if call.lane is None and call in self._line:
            self._line.remove(call)
            self._leave(call)
            self.exhausted += self._preparing is None

    def reset(self) -> None:
        """Give everything up, as the server is known to be down; who waits in line is told so."""
        if self._preparing is not None:
            self._preparing.cancel()
        try:
            self._check_server()
        except StoreUnavailableError as error:
            self._refuse(error)
        if self._lane is not None:
            self.silent(self._lane)

    async def close(self) -> None:
        """Close what nobody waits for now, and the rest when it has been answered."""
        self._closed = True
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        self._refuse(StoreUnavailableError(f"{self._address}: closed"))
        lanes = self.open
        for lane in lanes:
            lane.retire()
        await asyncio.gather(*(lane.ended for lane in lanes if lane not in self.open))

    def room(self) -> None:
        """Send those who wait in line, as far as there is room."""
        now = asyncio.get_running_loop().time()
        while self._line and self._lane is not None and not self._lane.full:
            call = self._line.popleft()
            if not call.future.done():
                self._leave(call)
                self._lane.send(call, now)
        if self._line and self._lane is None:
            self._prepare()

    def silent(self, lane: Lane) -> None:
        """Give a connection up: new calls go over another one."""
        if lane is not self._lane:
            return
        self._lane = None
        self._given_up.append(lane)
        lane.retire()
        while len(self._given_up) > self._spare:
            self._given_up[0].abort("given up, as nothing came")
        if self._line:
            self.room()

    def lost(self, lane: Lane, reason: str, unanswered: int) -> None:
        """Count a lost connection: one failure, however many calls were under way on it."""
        if lane is self._lane:
            self._lane = None
        else:
            self._given_up.remove(lane)
        if not self._closed:
            self.discarded += 1
        if unanswered and lane is not self._checked:
            self.failed(reason)
        if self._line:
            self.room()

    def _idle_too_long(self, lane: Lane, now: float) -> bool:
        return now - lane.heard_at >= self._idle_check and not lane.busy

    def _wait_in_line(self, call: Call, now: float) -> None:
        call.since = now
        self._line.append(call)
        self.waits += 1
        self._alarm.by(call.deadline)
        if self._lane is None or self._idle_too_long(self._lane, now):
            self._prepare()

    def _leave(self, call: Call) -> None:
        self.wait_seconds += asyncio.get_running_loop().time() - call.since

    def _prepare(self) -> None:
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._make_ready(), name="sark-connect")

    async def _make_ready(self) -> None:
        """Prove that the connection lives, or make a new one, for all who wait in line."""
        self._attempt = Attempt()
        try:
            if self._lane is None or not await self._answers(self._lane):
                await self._connect()
        except _NobodyWaitsError:
            pass
        except Exception as error:  # noqa: BLE001 - it is passed on to all who wait for this
            self._refuse(error)
        finally:
            self._preparing = self._checked = None
            self.room()

    async def _answers(self, lane: Lane) -> bool:
        # Any answer proves that it lives, also the error that this user may not ask.
        loop = asyncio.get_running_loop()
        self._checked = lane
        ping = Call(PING, 1, NEVER, loop.create_future())
        lane.send(ping, loop.time())
        try:
            async with asyncio.timeout(self._dialer.timeout):
                await ping.future
        except (StoreError, TimeoutError):
            self.silent(lane)
            return False
        return True

    async def _connect(self) -> None:
        connection = self._dialer.make()
        try:
            await self._dialer.dial(connection, self._attempt, self._check_going_on)
            self._lane = Lane(connection, self, self._line, self._address)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    def _check_going_on(self) -> None:
        self._check_server()
        if not self.waiters:
            raise _NobodyWaitsError

    def _refuse(self, error: Exception) -> None:
        """Tell all who wait in line that there will be no connection: one failure of the server."""
        refused = [call for call in self._line if not call.future.done()]
        self._line.clear()
        self._alarm.cancel()
        for call in refused:
            self._leave(call)
            call.future.set_exception(_copy(error, self._address))
        ours = isinstance(error, StoreError)  # the guard's own words, for instance
        if not ours and isinstance(_copy(error, self._address), StoreUnavailableError):
            self.failed(str(error) or type(error).__name__)

    def _expire(self) -> None:
        """End the calls in line whose time is up."""
        now = asyncio.get_running_loop().time()
        waiting = [call for call in self._line if not call.future.done()]
        self._line.clear()
        self._line.extend(call for call in waiting if call.deadline > now)
        if self._line:
            self._alarm.by(min(call.deadline for call in self._line))
        for call in waiting:
            if call.deadline <= now:
                self._leave(call)
                call.future.set_exception(self._not_sent())

    def _not_sent(self) -> StoreUnavailableError:
        if self._preparing is None:
            # Our own lack of room says nothing about the server.
            self.exhausted += 1
            return PoolExhaustedError(f"{self._address}: no room came free in time")
        reason = self._attempt.reason or "no connection in time"
        self.failed(reason)
        return StoreUnavailableError(f"{self._address}: {reason}")


def _copy(error: Exception, address: str) -> Exception:
    """Make an error of our own for one of several callers; each adds its traceback to it."""
    if isinstance(error, StoreError):
        return type(error)(*error.args)
    try:
        failure = translate(error, sent=False, server=address)
    except Exception as unknown:  # noqa: BLE001 - a mistake of the program, for the caller to see
        return unknown
    failure.__cause__ = error
    return failure
