"""The scripts' verdicts as errors."""

from __future__ import annotations

from typing import TypeVar

from sark.errors import (
    BindingError,
    RefreshReuseError,
    SessionCapError,
    SessionEndedError,
    SessionError,
    TokenError,
)
from sark.events import Hub, SessionRefused

__all__ = ["error_of", "refused"]

E = TypeVar("E", bound=SessionError)


_ERRORS: dict[str, tuple[type[SessionError], str, str]] = {
    "ended": (
        SessionEndedError,
        "ended",
        "the session has ended: revoked, expired or not used for too long",
    ),
    "no_session": (
        TokenError,
        "no_session",
        "no session of this token was begun here: outside tokens begin none (SARK_SESSION_ADOPT)",
    ),
    "cap": (SessionCapError, "cap", "the user has as many sessions as are allowed"),
    "network": (BindingError, "network", "the session began in another network"),
    "user_agent": (BindingError, "user_agent", "the session began with another user agent"),
    "revoked": (TokenError, "revoked", "the token was revoked or has expired"),
    "reuse": (
        RefreshReuseError,
        "refresh_reused",
        "the refresh token was used before: its session has been ended",
    ),
    "unknown": (TokenError, "invalid", "the refresh token is not one of this service"),
}


def error_of(verdict: str) -> SessionError:
    """Tell a verdict to people."""
    kind, code, reason = _ERRORS[verdict]
    return kind(code, reason)


def refused(hub: Hub, error: E, user_id: str = "") -> E:
    """Report that a token or session isn't accepted; ``user_id`` only if it was verified."""
    error.user_id = user_id
    hub.emit(SessionRefused(error.code))
    return error
