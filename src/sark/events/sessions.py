"""What happens to sessions, tokens and the keys that sign them."""

from __future__ import annotations

from typing import Literal

from sark.events.hub import Event

__all__ = [
    "IssuerKeysFetched",
    "IssuerUnavailable",
    "RefreshRepeated",
    "RefreshReused",
    "SessionCreated",
    "SessionEnded",
    "SessionRefused",
    "SigningKeysChanged",
    "SigningKeysRefused",
    "TokenRefreshed",
]


class SessionCreated(Event, frozen=True):
    """A user logged in."""


class SessionEnded(Event, frozen=True):
    """Sessions were ended before their time.

    Attributes:
        reason: ``revoked``, ``cap`` (a newer one took its place) or ``reuse`` (of a refresh token).
        sessions: How many.
    """

    reason: Literal["revoked", "cap", "reuse"]
    sessions: int


class SessionRefused(Event, frozen=True):
    """A token or session was not accepted; ``code`` is that of its ``SessionError``."""

    code: str


class TokenRefreshed(Event, frozen=True):
    """A refresh token was traded for its successor."""


class RefreshRepeated(Event, frozen=True):
    """A refresh token that was just traded came again: it gave the tokens that are current."""


class RefreshReused(Event, frozen=True):
    """A refresh token that was traded before came again: somebody has a copy of it.

    Attributes:
        user_id: Whose session has ended.
        session_id: The session.
        failure: Why its end may not outlive a crash of the server; empty when it does.
    """

    user_id: str
    session_id: str
    failure: str


class SigningKeysChanged(Event, frozen=True):
    """Other signing keys are in force in this process.

    Attributes:
        active: Kid of the one that signs.
        keys: How many there are.
    """

    active: str
    keys: int


class SigningKeysRefused(Event, frozen=True):
    """Changed signing keys could not be read; the known ones stay in force."""

    reason: str


class IssuerKeysFetched(Event, frozen=True):
    """An outside issuer gave its keys.

    Attributes:
        issuer: One of ``SARK_TRUSTED_ISSUERS``.
        keys: How many of them can be used.
        changed: Whether they differ from those known before.
    """

    issuer: str
    keys: int
    changed: bool


class IssuerUnavailable(Event, frozen=True):
    """An outside issuer did not give its keys.

    Attributes:
        issuer: One of ``SARK_TRUSTED_ISSUERS``.
        reason: Why, without addresses.
        usable: Whether the keys known before are still in use.
    """

    issuer: str
    reason: str
    usable: bool
