"""Sessions for tests: real access tokens by PyJWT, and a clock that a test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt

from sark.errors import SessionError, TokenError
from sark.events import Hub
from sark.sessions import (
    AccessClaims,
    Grant,
    RefreshTokens,
    SessionRules,
    Sessions,
)
from sark.store import Store
from tests.support.gateways import generations, open_store

KEY = b"a key of the tests, 32 bytes long"
ISSUER = "https://sark.test"
CLOCK_KEY = "test:clock:offset"
BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36 Edg/126.0.2592.113"
)


class SignedTokens:
    """Access tokens signed with HS256.

    Args:
        expire: Whether a token's own time is looked at. Off where a test turns the server's clock.
    """

    def __init__(self, *, expire: bool = True) -> None:
        self._expire = expire

    def issue(self, claims: AccessClaims) -> str:
        spelled = {
            "iss": claims.issuer,
            "sub": claims.user_id,
            "sid": claims.session_id,
            "jti": claims.jti,
            "client_id": claims.client_id,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            "tier": claims.tier,
        }
        return jwt.encode(spelled, KEY, algorithm="HS256")

    async def verify(self, token: str) -> AccessClaims:
        try:
            said: dict[str, Any] = jwt.decode(
                token,
                KEY,
                algorithms=["HS256"],
                issuer=ISSUER,
                leeway=5,
                options={"verify_exp": self._expire, "verify_iat": False},
            )
        except jwt.ExpiredSignatureError:
            raise TokenError("expired", "the token has expired") from None
        except jwt.PyJWTError:
            raise TokenError("invalid", "the token is not accepted") from None
        return AccessClaims(
            said["iss"],
            said["sub"],
            said["sid"],
            said["jti"],
            said["client_id"],
            said["iat"],
            said["exp"],
            said["tier"],
        )


def sessions_on(store: Store, rules: SessionRules | None = None, **options: Any) -> Sessions:
    """Make sessions on a store."""
    tokens = options.pop("tokens", None) or SignedTokens()
    return Sessions(
        store,
        tokens,
        refresh_tokens=RefreshTokens(KEY),
        rules=rules or SessionRules(),
        issuer=ISSUER,
        invalidate_user=generations(store).invalidate_user,
        **options,
    )


@asynccontextmanager
async def open_sessions(
    url: str, rules: SessionRules | None = None, *, hub: Hub | None = None, **options: Any
) -> AsyncIterator[Sessions]:
    """Open sessions on a server."""
    async with open_store(url, hub=hub) as store:
        yield sessions_on(store, rules, **options)


async def log_in(sessions: Sessions, user_id: str = "alice", **fields: Any) -> Grant:
    """Begin a session."""
    return await sessions.create(user_id, **{"client_id": "web", **fields})


async def code_of(awaitable: Any) -> str:
    """Tell how a call ended: ``ok``, or the code of its refusal."""
    try:
        await awaitable
    except SessionError as error:
        return error.code
    return "ok"
