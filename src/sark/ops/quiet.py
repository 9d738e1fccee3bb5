"""Reports that come with every request of an outage, let through once a second."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

__all__ = ["Quiet"]

QUIET_SECONDS = 1.0


class Quiet:
    """Lets one report through per ``QUIET_SECONDS`` and counts the others."""

    def __init__(self, report: Callable[..., Any]) -> None:
        self._report = report
        self._next = 0.0
        self._left_out = 0

    def __call__(self, message: str, **fields: Any) -> None:
        """Report, or count."""
        now = monotonic()
        if now < self._next:
            self._left_out += 1
            return
        if self._left_out:
            fields["left_out"] = self._left_out
        self._next, self._left_out = now + QUIET_SECONDS, 0
        self._report(message, **fields)
