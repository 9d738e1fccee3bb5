"""A session as it is stored and shown, what it is given, and what its end returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sark.errors import InvalidRequestError
from sark.sessions.hidden import HidesTokens
from sark.settings import SessionBind, SessionCapPolicy

__all__ = [
    "Grant",
    "Revocation",
    "Session",
    "SessionRules",
    "check_text",
    "milliseconds",
    "session_of",
]

MAX_USER_ID_BYTES = 256
MAX_CLIENT_ID_BYTES = 256
MAX_TIER_BYTES = 64
MAX_USER_AGENT_BYTES = 4096
MEMORY_SLACK_SECONDS = 60.0
"""What is remembered of a token outlives it by this much, whatever a clock does meanwhile."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """How long sessions live and how many a user may have; times in seconds.

    Attributes:
        lifetime: A session's longest life, however it is used.
        idle: The longest time without use.
        access: Life of an access token.
        grace: How long a traded refresh token gives the same successor again.
        seen_every: A session's use is noted at most once in so long.
        cap: Most sessions of one user at a time.
        at_cap: What a login beyond the cap does.
        bind: What sessions are bound to.
        adopt: Whether the token of an outside issuer begins a session when it is first seen.
        leeway: How long after its ``exp`` and before its ``iat`` a token is accepted.
    """

    lifetime: float = 7 * 86_400
    idle: float = 86_400
    access: float = 900
    grace: float = 10
    seen_every: float = 60
    cap: int = 10
    at_cap: SessionCapPolicy = "end_oldest"
    bind: SessionBind = "none"
    adopt: bool = False
    leeway: float = 30

    def token_memory(self, token_life: float) -> float:
        """How long a token has to be remembered that lives so long: seconds from its first use.

        The clock that judged its times may be ahead or behind by the leeway.
        """
        return token_life + 2 * self.leeway + MEMORY_SLACK_SECONDS

    @property
    def end_memory(self) -> float:
        """How long the end of an outside session is remembered: as its longest token, in seconds.

        Tokens that live longer than a session may are refused.
        """
        return self.token_memory(self.lifetime)


class Session(msgspec.Struct, frozen=True):
    """A session; times in seconds since the epoch, by the server's clock.

    Attributes:
        user_id: Whose it is.
        session_id: Its id: a UUIDv7, or a digest when an outside issuer vouches for it.
        client_id: The client that logged the user in.
        tier: The user's plan at the login.
        created_at: When it began.
        last_seen: When it was last in use, within a minute.
        expires_at: When it ends however it is used.
        ip: The address that it began from; empty when unknown.
        user_agent: The user agent that it began with, shortened; empty when unknown.
        outside: Whether an outside issuer vouches for it.
    """

    user_id: str
    session_id: str
    client_id: str
    tier: str
    created_at: float
    last_seen: float
    expires_at: float
    ip: str
    user_agent: str
    outside: bool = False


class Grant(HidesTokens, frozen=True):
    """What a login or a refresh hands out.

    Attributes:
        user_id: The user.
        session_id: The session.
        access_token: For requests.
        refresh_token: For the next refresh; works once.
        expires_in: Seconds that the access token is good for, from this answer.
        session_expires_at: When the session ends at the latest, in seconds since the epoch.
    """

    user_id: str
    session_id: str
    access_token: str
    refresh_token: str
    expires_in: int
    session_expires_at: float


class Revocation(msgspec.Struct, frozen=True):
    """What a revocation did.

    Attributes:
        ended: Ids of the sessions that were alive and have ended.
        freshness: A freshness token: a request that carries it is answered by later decisions only.
    """

    ended: tuple[str, ...]
    freshness: str


def session_of(user_id: str, session_id: str, reply: Sequence[bytes]) -> Session | None:
    """Read a hash as ``HGETALL`` returns it; None when there is none."""
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    if b"expires_at" not in fields:
        return None

    def text(name: bytes) -> str:
        return fields.get(name, b"").decode(errors="replace")

    def seconds(name: bytes) -> float:
        return int(fields[name]) / 1000

    return Session(
        user_id,
        session_id,
        client_id=text(b"client_id"),
        tier=text(b"tier"),
        created_at=seconds(b"created_at"),
        last_seen=seconds(b"last_seen"),
        expires_at=seconds(b"expires_at"),
        ip=text(b"ip"),
        user_agent=text(b"user_agent"),
        outside=b"outside" in fields,
    )


def check_text(field: str, value: object, *, most: int, empty: bool = False) -> str:
    """Refuse what is no text of at most ``most`` bytes.

    Raises:
        InvalidRequestError: It names the field, what came and what was expected.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"got {type(value).__name__}, expected a string")
    if not value and not empty:
        raise InvalidRequestError(field, "got an empty string, expected at least one character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequestError(field, "is not valid Unicode (a lone surrogate)") from None
    if size > most:
        raise InvalidRequestError(
            field, f"got {size} bytes, expected at most {most} bytes of UTF-8"
        )
    return value


def milliseconds(seconds: float) -> int:
    """Turn seconds into what the scripts count in."""
    return round(seconds * 1000)
