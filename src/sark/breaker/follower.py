"""Keeping one process in step with a breaker's shared state.

While a breaker is in use, a task exchanges results for the state every ``SYNC_SECONDS`` with one
script call; with nothing to tell it only asks whether something has happened, which costs the
server three plain reads. Asking was preferred over being told by a subscription: a lost message
would go unnoticed without a heartbeat of the same rate, on a connection of its own. A failure that
may be the last straw, and the result of a probe, wake the task at once.

When the server does not answer, the process goes on alone from what it last saw, and says so; the
task keeps asking, and with the first answer the shared state is in force again. What was counted
alone is left behind.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from sark.breaker.alone import AloneState
from sark.breaker.config import BreakerConfig, Outcome
from sark.breaker.shared import MOST_ENDED, Ended, Results, SharedState
from sark.breaker.standing import SYNC_SECONDS, Standing
from sark.breaker.state import View
from sark.breaker.tally import Tally
from sark.errors import StoreError

__all__ = ["Follower"]

ANSWER_SECONDS = 0.25
"""How long a call waits for the server, as any call on a request's path."""


class Follower:
    """See the module's description.

    Args:
        shared: The shared state.
        config: The rules.
        on_change: Called with why, when the state or who decides has changed.

    Attributes:
        standing: What is known.
        alone: The process's own state, while the server is away.
    """

    def __init__(
        self, shared: SharedState, config: BreakerConfig, on_change: Callable[[str], None]
    ) -> None:
        self.standing = Standing()
        self.alone: AloneState | None = None
        self._shared = shared
        self._config = config
        self._on_change = on_change
        self._tally = Tally()
        self._reason = ""
        self._ended: deque[Ended] = deque(maxlen=MOST_ENDED)
        self._serial = 0
        self._enlisted = False
        self._wake = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Keep in step until ``stop``, and bring the last results."""
        loop = asyncio.get_running_loop()
        while not self._stopping:
            timer = loop.call_later(SYNC_SECONDS, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
            self._wake.clear()
            await self.sync()
        if self._tally.calls or self._ended:
            await self.sync()

    def stop(self) -> None:
        """Let ``run`` come to its end."""
        self._stopping = True
        self._wake.set()

    def count(self, failed: bool, slow: bool, reason: str) -> None:
        """Count the result of a call that was admitted in the current epoch."""
        if self.alone is not None:
            now = asyncio.get_running_loop().time()
            self.alone.report(now, failed=failed, slow=slow, reason=reason)
            self.show_alone(now)
            return
        self._tally.add(failed, slow)
        if failed:
            self._reason = reason
            run = self._tally.longest_run(self.standing.view.failures)
            if 0 < self._config.failures <= run:
                self._wake.set()

    def end(self, token: int, outcome: Outcome, reason: str) -> None:
        """Bring the result of a probe soon. Brought twice it counts once, by its token."""
        self._ended.append(Ended(token, outcome, reason))
        self._wake.set()

    async def sync(self) -> None:
        """Exchange results for the state."""
        results = self._take_results()
        serial, deadline = self._question()
        try:
            if self._may_be_still(results):
                if await self._shared.is_still(self.standing.view, deadline=deadline):
                    return
                serial, deadline = self._question()
            seen = await self._shared.sync(results, deadline=deadline)
            self.take(seen, serial)
            if not self._enlisted:
                await self._shared.enlist(deadline=self._question()[1])
                self._enlisted = True
        except StoreError as error:
            self._ended.extendleft(reversed(results.ended))
            self.go_alone(str(error), serial)

    async def admit(self) -> int | None:
        """Ask the server for a call to be admitted; None when it does not answer."""
        serial, deadline = self._question()
        try:
            granted, seen = await self._shared.admit(deadline=deadline)
        except StoreError as error:
            self.go_alone(str(error), serial)
            return None
        self.take(seen, serial)
        return granted

    def take(self, seen: View, serial: int | None = None) -> None:
        """Take the shared state from an answer."""
        if serial is None:
            serial, _ = self._question()
        if self.standing.is_late(serial):
            return
        if self.alone is None and self.standing.is_forgotten_by(seen):
            self._enlisted = False
        self.alone = None
        self._show(seen, serial=serial, reason=seen.reason if seen.state == "open" else "")

    def go_alone(self, reason: str, serial: int) -> None:
        """Decide alone from now on, unless a later question has been answered."""
        if self.alone is not None or self.standing.is_late(serial):
            return
        now = asyncio.get_running_loop().time()
        self.alone = AloneState.after(self.standing.aged(now), self._config, now)
        self._enlisted = False
        self._show(self.alone.view(now), serial=serial, reason=reason)

    def show_alone(self, now: float) -> None:
        """Take over what the process's own state has become."""
        if self.alone is not None:
            seen = self.alone.view(now)
            self._show(seen, serial=self._serial, reason=seen.reason)

    def _show(self, seen: View, *, serial: int, reason: str) -> None:
        standing, epoch = self.standing, self.standing.epoch
        now = asyncio.get_running_loop().time()
        changed = standing.take(seen, shared=self.alone is None, at=now, serial=serial)
        if standing.epoch != epoch:
            self._tally = Tally()
        if changed:
            self._on_change(reason)

    def _may_be_still(self, results: Results) -> bool:
        seen = self.standing.view
        return (
            self._enlisted
            and not results.tally.calls
            and not results.ended
            and not seen.forced
            and seen.state != "half_open"
        )

    def _take_results(self) -> Results:
        results = Results(
            self.standing.view.period if self.alone is None else 0,
            self._tally,
            self._reason,
            tuple(self._ended),
        )
        self._tally, self._reason = Tally(), ""
        self._ended.clear()
        return results

    def _question(self) -> tuple[int, float]:
        self._serial += 1
        return self._serial, asyncio.get_running_loop().time() + ANSWER_SECONDS
