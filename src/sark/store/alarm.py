"""One timer for many deadlines.

Nearly every call is answered long before its deadline, and a timer that is made and cancelled for
each costs more than sending it. So whoever watches many deadlines has one timer, for the earliest;
when it rings, they look which deadlines have passed and set it for the earliest that is left. The
next deadline is usually later than what the timer is set for, and costs a comparison.

After a stall of the process an event loop may run timers before it reads what has arrived
meanwhile. An answer that is here counts, so the loop is given a turn to read it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm"]

NEVER = float("inf")
# Event loops round to milliseconds and may ring early; trying again at once would spin.
SHORTEST_SECONDS = 0.001


class Alarm:
    """See the module's description.

    Args:
        ring: Called when the time has come; the alarm is then unset.

    Attributes:
        when: When it rings, on the event loop's clock, in seconds.
    """

    __slots__ = ("_ring", "_timer", "when")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.Handle | None = None
        self.when = NEVER

    def by(self, when: float) -> None:
        """Ring at ``when``, or earlier as it was set before."""
        if when >= self.when:
            return
        self.cancel()
        loop = asyncio.get_running_loop()
        self.when = when
        self._timer = loop.call_at(max(when, loop.time() + SHORTEST_SECONDS), self._expire)

    def cancel(self) -> None:
        """Don't ring."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.when = None, NEVER

    def _expire(self) -> None:
        # Twice: uvloop runs the first before it looks for input, and the second after.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_soon(self._look_once_more)

    def _look_once_more(self) -> None:
        self._timer = asyncio.get_running_loop().call_soon(self._fire)

    def _fire(self) -> None:
        self._timer, self.when = None, NEVER
        self._ring()
