"""Sessions: who is logged in, from when to when, and with which tokens."""

from sark.sessions.claims import AccessClaims, AccessTokens

__all__ = ["AccessClaims", "AccessTokens"]
