"""Sending to one receiver: through its circuit breaker, at the pace that it can bear.

All batches of a sink share what is known of its receiver. When one of them is told to wait, all do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal

from sark.errors import BreakerOpen
from sark.events import Forwarded, ForwardFailed, Hub
from sark.siem.forwarder.backoff import Backoff
from sark.siem.forwarder.halt import Halt
from sark.siem.forwarder.pace import Pace
from sark.siem.forwarder.plan import Batching, Guard, Permit
from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.verdict import Delivered, Partly, Unavailable, Verdict

__all__ = ["Sender"]

LEAST_REFUSED_SECONDS = 0.1
"""Between two questions to a breaker, which may cost a round trip each."""

_log = logging.getLogger("sark.siem")


class Sender:
    """Sends the events of one sink.

    Args:
        name: Name of the sink.
        sink: Where they go.
        guard: Its circuit breaker.
        hub: Hears what happens.
        halt: Set for a while when the receiver has to be left alone for longer than a lease lasts.
        batching: How events are sent.
    """

    def __init__(
        self, name: str, sink: Sink, guard: Guard, *, hub: Hub, halt: Halt, batching: Batching
    ) -> None:
        self._name = name
        self._sink = sink
        self._guard = guard
        self._hub = hub
        self._halt = halt
        self._batching = batching
        self._backoff = Backoff(cap=batching.retry_cap)
        self.pace = Pace(batching.concurrency)
        self.failing = ""

    @property
    def retry_in(self) -> float:
        """Seconds until the receiver may be asked again."""
        return max(0.0, self._backoff.until - asyncio.get_running_loop().time())

    def retry(self) -> None:
        """Let the receiver be asked again at once; to be followed by ``Halt.wake``."""
        self._backoff.end()

    async def permit(self) -> Permit | None:
        """Wait for leave to send; None when a halt comes first."""
        while True:
            await self._halt.rest(self.retry_in)
            if self._halt.is_set:
                return None
            try:
                return await self._guard.acquire()
            except BreakerOpen as error:
                now = asyncio.get_running_loop().time()
                seconds = max(error.retry_after, LEAST_REFUSED_SECONDS)
                pause = self._backoff.hold(now=now, seconds=seconds)
                self._failed("breaker", str(error), pause)

    async def send(self, entries: Sequence[Entry], permit: Permit) -> Verdict:
        """Send once, and tell the breaker what came of it."""
        try:
            verdict = await self._sink.send(entries)
        except asyncio.CancelledError:
            permit.neutral()
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours must not lose or judge events
            _log.exception("the sink %s failed", self._name)
            verdict = Unavailable(f"the sink failed: {type(error).__name__}")
        if isinstance(verdict, Unavailable):
            permit.failed(verdict.reason)
        elif _answers(verdict, len(entries)):
            permit.succeeded()
        else:
            permit.neutral()
        return verdict

    def took(self, events: int, size: int, *, sent: float, slow_down: bool) -> None:
        """Note that the receiver took events.

        Args:
            events: How many.
            size: Their bytes, as they were queued.
            sent: When they were sent, on the event loop's clock.
            slow_down: Whether it asks to be sent less.
        """
        self.failing = ""
        self._backoff.succeeded()
        now = asyncio.get_running_loop().time()
        if slow_down:
            self.pace.slow_down(sent=sent, now=now)
        else:
            self.pace.taken()
        self._hub.emit(Forwarded(self._name, events, size, now - sent))

    def hold_off(
        self,
        kind: Literal["unavailable", "throttled"],
        reason: str,
        *,
        sent: float,
        after: float | None,
    ) -> None:
        """Note that something has to be sent again, and let everybody wait before that."""
        now = asyncio.get_running_loop().time()
        if kind == "throttled":
            self.pace.slow_down(sent=sent, now=now)
        self._failed(kind, reason, self._backoff.failed(sent=sent, now=now, after=after))

    def _failed(
        self, kind: Literal["unavailable", "throttled", "breaker"], reason: str, pause: float
    ) -> None:
        self.failing = reason
        self._hub.emit(ForwardFailed(self._name, kind, reason, pause))
        if pause > self._batching.lease:
            self._halt.set(pause)


def _answers(verdict: Verdict, events: int) -> bool:
    """Tell whether a verdict shows a receiver that is well: it has judged some of the events."""
    if isinstance(verdict, Partly):
        return len(verdict.retry) < events
    return isinstance(verdict, Delivered)
