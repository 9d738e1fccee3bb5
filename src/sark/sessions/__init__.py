"""Sessions: who is logged in, from when to when, and with which tokens."""

from sark.sessions.claims import AccessClaims, AccessTokens
from sark.sessions.refresh_token import RefreshTokens
from sark.sessions.session import Grant, Revocation, Session, SessionRules
from sark.sessions.sessions import Sessions

__all__ = [
    "AccessClaims",
    "AccessTokens",
    "Grant",
    "RefreshTokens",
    "Revocation",
    "Session",
    "SessionRules",
    "Sessions",
]
