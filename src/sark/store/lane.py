"""One connection that all ordinary calls share.

Calls are written as they come, without waiting for the answers to earlier ones, and the server
answers in order: so the first call that is still unanswered owns the next reply. Calls that are
made in one turn of the event loop travel in one write, and replies that arrive together are read
together; that saves most of what an exchange costs in Python (Valkey documentation, "pipelining").

A call whose caller has gone, cancelled or out of time, keeps its place until its reply has come,
and that is dropped: no reply is ever given to another call.

A connection is *silent* while calls are unanswered and nothing arrives. When a call runs out of
time on a connection that has been silent for ``SILENCE_SECONDS``, the connection is given up: new
calls go over another one, and those under way keep what is left of their time, in case the server
was only slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from libvalkey import Reader
from valkey import exceptions as driver

from sark.errors import ConnectionLostError, StoreTimeoutError
from sark.store.alarm import Alarm
from sark.store.connection import SERVER_CLOSED, StoreConnection

__all__ = ["MAX_IN_FLIGHT", "Call", "Keeper", "Lane"]

MAX_IN_FLIGHT = 512
# What may be gathered in one turn of the event loop; the transport bounds what it holds itself.
MAX_GATHERED_BYTES = 262_144
# Shorter silences are no reason to give a connection up: calls with little time left are common,
# and so are scripts that keep the server busy for some milliseconds.
SILENCE_SECONDS = 0.1

NOTHING = object()
NO_ANSWER = "no answer in time"


class Call:
    """Commands that travel together, and the future of their replies.

    Attributes:
        packed: What is written.
        count: How many replies it has.
        deadline: On the event loop's clock, in seconds.
        future: Becomes the list of the replies, or one of our errors.
        lane: Where it was sent; None before.
        since: When it was sent or, before that, began to wait in line.
    """

    __slots__ = ("count", "deadline", "future", "lane", "packed", "since")

    def __init__(
        self, packed: bytes, count: int, deadline: float, future: asyncio.Future[list[Any]]
    ) -> None:
        self.packed = packed
        self.count = count
        self.deadline = deadline
        self.future = future
        self.lane: Lane | None = None
        self.since = 0.0


class Keeper(Protocol):
    """Who is told what becomes of a lane."""

    def room(self) -> None:
        """There is room for calls that wait in line."""

    def silent(self, lane: Lane) -> None:
        """A call ran out of time on a silent connection."""

    def lost(self, lane: Lane, reason: str, unanswered: int) -> None:
        """The connection has ended, and so many callers still waited for it."""

    def failed(self, reason: str) -> None:
        """A call got no answer, and nothing else arrived after it was sent."""


class Lane(asyncio.Protocol):
    """See the module's description.

    Args:
        connection: A connected connection; its transport is taken over.
        keeper: Is told what becomes of it.
        line: The calls that wait for room; only looked at.
        address: For messages.

    Attributes:
        run_id: The run of the server at the other end.
        heard_at: When something last arrived, on the event loop's clock, in seconds.
        ended: Done when the connection is closed.
    """

    def __init__(
        self, connection: StoreConnection, keeper: Keeper, line: deque[Call], address: str
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._keeper = keeper
        self._line = line
        self._address = address
        self._connection = connection
        self._reader = Reader(
            protocolError=driver.InvalidResponse,
            replyError=connection.parse_error,
            notEnoughData=NOTHING,
            convertSetsToLists=True,
        )
        self._pending: deque[Call] = deque()
        self._partial: list[Any] = []
        self._outgoing: list[bytes] = []
        self._gathered = 0
        self._alarm = Alarm(self._expire)
        self._paused = self._retired = self._closed = False
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.run_id = connection.run_id
        self.heard_at = self._loop.time()
        self._transport = connection.hand_over(self)

    @property
    def full(self) -> bool:
        """Whether calls have to wait: too many are unanswered, or too much is still to be sent."""
        return (
            self._paused
            or len(self._pending) >= MAX_IN_FLIGHT
            or self._gathered >= MAX_GATHERED_BYTES
        )

    @property
    def busy(self) -> bool:
        """Whether replies are still to come."""
        return bool(self._pending)

    @property
    def in_flight(self) -> int:
        """Calls whose callers wait for replies."""
        return sum(not call.future.done() for call in self._pending)

    def send(self, call: Call, now: float) -> None:
        """Write a call at once, or with the others of this turn of the event loop.

        Args:
            call: What to send.
            now: On the event loop's clock, in seconds.
        """
        call.lane, call.since = self, now
        if call.deadline < self._alarm.when:
            self._alarm.by(call.deadline)
        if self._pending:
            if not self._outgoing:
                self._loop.call_soon(self._flush)
            self._outgoing.append(call.packed)
            self._gathered += len(call.packed)
        else:
            # A lone caller shall not wait for the next turn.
            self._transport.write(call.packed)
        self._pending.append(call)

    def retire(self) -> None:
        """Close the connection as soon as nobody waits for its replies."""
        self._retired = True
        self._close_if_unused()

    def abort(self, reason: str) -> None:
        """Close the connection now; calls under way fail.

        Args:
            reason: What they are told.
        """
        if self._closed:
            return
        self._closed = True
        self._alarm.cancel()
        self._transport.abort()
        unanswered = [call for call in self._pending if not call.future.done()]
        self._pending.clear()
        self._outgoing.clear()
        for call in unanswered:
            call.future.set_exception(ConnectionLostError(f"{self._address}: {reason}"))
        self._keeper.lost(self, reason, len(unanswered))

    def data_received(self, data: bytes) -> None:
        """Give each complete reply to the call that it belongs to."""
        self.heard_at = self._loop.time()
        self._reader.feed(data)
        try:
            self._take_replies()
        except driver.InvalidResponse as error:
            self.abort(str(error))
            return
        if self._retired:
            self._close_if_unused()
        elif self._line:
            self._keeper.room()

    def pause_writing(self) -> None:
        """Take no more calls until what is written has left."""
        self._paused = True

    def resume_writing(self) -> None:
        """Take calls again."""
        self._paused = False
        if self._line:
            self._keeper.room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is unanswered."""
        self.abort(str(exc) if exc is not None else SERVER_CLOSED)
        self._connection.handed_over_lost(exc)
        if not self.ended.done():
            self.ended.set_result(None)

    def _take_replies(self) -> None:
        pending, gets = self._pending, self._reader.gets
        while (reply := gets()) is not NOTHING:
            if not pending:
                raise driver.InvalidResponse("a reply came that nobody had asked for")
            call = pending[0]
            if call.count == 1:
                replies = [reply]
            else:
                replies = self._partial
                replies.append(reply)
                if len(replies) < call.count:
                    continue
                self._partial = []
            pending.popleft()
            if not call.future.done():
                call.future.set_result(replies)
        if not pending and self._reader.has_data():
            raise driver.InvalidResponse("a reply began that nobody had asked for")

    def _flush(self) -> None:
        if self._closed:
            return
        self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()
        self._gathered = 0
        if self._line:
            self._keeper.room()

    def _expire(self) -> None:
        """End the calls whose time is up, and judge the connection by them."""
        now = self._loop.time()
        waiting = [call for call in self._pending if not call.future.done()]
        expired = [call for call in waiting if call.deadline <= now]
        for call in expired:
            call.future.set_exception(StoreTimeoutError(f"{self._address}: {NO_ANSWER}"))
        earliest = min((c.deadline for c in waiting if c.deadline > now), default=None)
        if earliest is not None:
            self._alarm.by(earliest)
        unheard = sum(call.since >= self.heard_at for call in expired)
        for _ in range(unheard):
            self._keeper.failed(NO_ANSWER)
        if unheard and now - max(self.heard_at, self._pending[0].since) >= SILENCE_SECONDS:
            self._keeper.silent(self)
        if self._retired:
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self.in_flight:
            self.abort("no longer in use")
