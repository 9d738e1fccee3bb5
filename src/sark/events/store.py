"""What happens between this process and its Valkey servers."""

from __future__ import annotations

from typing import Literal

from sark.events.hub import Event

__all__ = ["CallResult", "GuardChanged", "RoundTrip", "ScriptLoaded", "ServerClockRead"]

CallResult = Literal["ok", "error", "timeout", "lost", "unavailable"]


class RoundTrip(Event, frozen=True):
    """One exchange with a Valkey server ended.

    Attributes:
        role: Which role of server was asked.
        commands: How many commands the exchange carried.
        seconds: From asking for a connection to the last reply.
        result: How it ended.
    """

    role: str
    commands: int
    seconds: float
    result: CallResult


class ScriptLoaded(Event, frozen=True):
    """A server did not know a script (NOSCRIPT) and was given it."""

    role: str
    script: str


class GuardChanged(Event, frozen=True):
    """A server was found dead, or alive again, and callers stop or resume asking it."""

    role: str
    is_open: bool
    reason: str


class ServerClockRead(Event, frozen=True):
    """The clock of the ``state`` server, which dates access tokens, was compared with ours.

    Attributes:
        offset: How far it is ahead, in seconds.
        leeway: How far it may be when the times in a token are checked.
        warn: Whether it is further off now, and was not at the last reading.
    """

    offset: float
    leeway: float
    warn: bool
