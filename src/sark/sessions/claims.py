"""What a verified access token says, and what signs and verifies one."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Protocol

import msgspec

__all__ = ["AccessClaims", "AccessTokens"]


class AccessClaims(msgspec.Struct, frozen=True):
    """What a verified access token says. Times in seconds since the epoch (RFC 9068).

    Attributes:
        issuer: Who signed it (``iss``).
        user_id: Whom it speaks for (``sub``).
        session_id: The session it belongs to (``sid``).
        jti: Its own id.
        client_id: The client that it was issued to.
        issued_at: When it was issued (``iat``).
        expires_at: From when on it is refused (``exp``).
        tier: The user's plan, for rate limits; empty when there is none.
        outside: Whether an outside identity provider signed it.
        single: Whether its session is this token alone, as its provider names no session.
    """

    issuer: str
    user_id: str
    session_id: str
    jti: str
    client_id: str
    issued_at: int
    expires_at: int
    tier: str = ""
    outside: bool = False
    single: bool = False

    @property
    def token_id(self) -> str:
        """The name of its ``session:token`` key.

        Ours is the ``jti``, which nobody can choose. A provider's is unique among its own tokens
        only, so it becomes a digest with the issuer and the user: it names no token of ours, of
        another provider, or of another user.
        """
        if not self.outside:
            return self.jti
        named = msgspec.json.encode([self.issuer, self.user_id, self.jti])
        return urlsafe_b64encode(sha256(named).digest()).decode().rstrip("=")


class AccessTokens(Protocol):
    """Signs and verifies access tokens."""

    def issue(self, claims: AccessClaims) -> str:
        """Sign a token; the same claims always make a token that says the same."""
        ...

    async def verify(self, token: str) -> AccessClaims:
        """Read a token.

        Raises:
            TokenError: Its form, signature, issuer, audience or time isn't accepted.
        """
        ...
