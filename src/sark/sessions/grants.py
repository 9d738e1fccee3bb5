"""What a login or a refresh hands out: made from what is stored alone, so it can be repeated."""

from __future__ import annotations

from sark.sessions.claims import AccessClaims, AccessTokens
from sark.sessions.refresh_token import RefreshClaims, RefreshKey
from sark.sessions.session import Grant

__all__ = ["Grants"]


class Grants:
    """Makes grants; no I/O.

    Args:
        tokens: Signs access tokens.
        issuer: Named in the access tokens.
        access_life: Seconds that an access token lives.
    """

    def __init__(
        self,
        tokens: AccessTokens,
        *,
        issuer: str,
        access_life: float,
    ) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._access_life = int(access_life)

    def grant(
        self,
        claims: RefreshClaims,
        key: RefreshKey,
        *,
        client_id: str,
        tier: str,
        issued_ms: int,
        ends_ms: int,
        now_ms: int,
    ) -> Grant:
        """Make the tokens that belong to a refresh token's claims.

        Args:
            claims: What the refresh token says.
            key: The key that it is made with.
            client_id: As the session has it.
            tier: As the session has it.
            issued_ms: When the refresh token became the current one, in milliseconds.
            ends_ms: When the session ends at the latest; the access token doesn't outlive it.
            now_ms: The time of the answer, by the same clock.
        """
        issued_at = issued_ms // 1000
        access = AccessClaims(
            self._issuer,
            claims.user_id,
            claims.session_id,
            key.access_token_id(claims),
            client_id,
            issued_at,
            expires_at=min(issued_at + self._access_life, ends_ms // 1000),
            tier=tier,
        )
        return Grant(
            claims.user_id,
            claims.session_id,
            self._tokens.issue(access),
            key.issue(claims),
            max(0, access.expires_at - now_ms // 1000),
            ends_ms / 1000,
        )
