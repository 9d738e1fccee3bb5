"""What happens to rate limits."""

from __future__ import annotations

from typing import Literal

from sark.events.hub import Event

__all__ = ["LimitFallback", "LimitRefused", "LimitShadowed", "LimitsReloadFailed", "LimitsReloaded"]


class LimitRefused(Event, frozen=True):
    """A rate limit refused a request.

    Attributes:
        policy: The limit's name, which comes from the rules or the code, or ``deny``.
    """

    kind: str
    policy: str = ""


class LimitShadowed(Event, frozen=True):
    """A limit in shadow mode would have refused a request.

    Attributes:
        policy: Its name, which comes from the rules.
    """

    kind: str
    policy: str


class LimitFallback(Event, frozen=True):
    """Valkey did not answer, and a check was decided without it.

    Attributes:
        mode: Counted in this process, admitted, or failed.
    """

    mode: Literal["local", "open", "closed"]


class LimitsReloaded(Event, frozen=True):
    """Other rules of limits are in force."""

    revision: str


class LimitsReloadFailed(Event, frozen=True):
    """New rules of limits were refused; the running ones stay."""

    reason: str
