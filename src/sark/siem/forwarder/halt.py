"""Stopping to begin anything new, for good or for a while."""

from __future__ import annotations

import asyncio

__all__ = ["Halt"]


class Halt:
    """Told by whoever sees a reason to halt, heeded by all who would begin something."""

    def __init__(self) -> None:
        self._halted = asyncio.Event()
        self._woken = asyncio.Event()
        self._roused = asyncio.Event()
        self._seconds = 0.0
        self.for_good = False

    @property
    def is_set(self) -> bool:
        """Whether nothing new may begin."""
        return self._halted.is_set()

    def set(self, seconds: float) -> None:
        """Halt for a while; the longest one counts."""
        if not self.is_set:
            self._woken.clear()
            self._seconds = 0.0
        self._seconds = max(self._seconds, seconds)
        self._halted.set()
        self._rouse()

    def stop(self) -> None:
        """Halt for good."""
        self.for_good = True
        self._halted.set()
        self._woken.set()
        self._rouse()

    def wake(self) -> None:
        """End a halt that is not for good, and every rest."""
        self._woken.set()
        self._rouse()

    async def rest(self, seconds: float) -> None:
        """Wait, but not longer than until a halt or ``wake``."""
        if seconds > 0 and not self.is_set:
            await _wait(self._roused, seconds)

    async def over(self) -> None:
        """Wait until a halt has ended: by time, by ``wake``, or for good."""
        await _wait(self._woken, self._seconds)
        if not self.for_good:
            self._halted.clear()

    def _rouse(self) -> None:
        """Wake those who rest now, and none who begin to later."""
        self._roused.set()
        self._roused.clear()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
