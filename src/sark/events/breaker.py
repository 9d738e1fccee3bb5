"""What happens to circuit breakers."""

from __future__ import annotations

from typing import Literal

from sark.events.hub import Event

__all__ = ["BreakerChanged"]


class BreakerChanged(Event, frozen=True):
    """A shared circuit breaker changed its state, as this process has come to know.

    Attributes:
        name: Which.
        state: What it has become.
        reason: Why, without secrets.
        shared: Whether that is the state in Valkey; otherwise this process decides alone.
    """

    name: str
    state: Literal["closed", "open", "half_open", "forced_open", "forced_closed"]
    reason: str
    shared: bool = True
