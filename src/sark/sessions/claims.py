"""What a verified access token says, and what signs and verifies one."""

from __future__ import annotations

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
