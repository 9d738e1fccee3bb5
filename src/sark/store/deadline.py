"""A deadline for a block of code, cheaper than ``asyncio.timeout``.

The same algorithm as the standard library's: a timer cancels the task, and the cancellation is
turned into ``TimeoutError`` unless somebody else asked for one too. It leaves out rescheduling and
the states that go with it, which cost about three times as much as the timer itself; every
exchange with Valkey has a deadline, so this is paid for on each of them.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Deadline"]


class Deadline:
    """Context manager that raises ``TimeoutError`` when the block outlasts ``when``.

    Args:
        when: On the event loop's clock, in seconds.
    """

    __slots__ = ("_cancelling", "_expired", "_task", "_timer", "_when")

    def __init__(self, when: float) -> None:
        self._when = when

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - there is no coroutine outside a task
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._timer = asyncio.get_running_loop().call_at(self._when, self._expire)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if not self._expired:
            return
        # Take our own request back; what is left was asked for by others and goes on.
        others = self._task.uncancel() > self._cancelling
        if kind is asyncio.CancelledError and not others:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
