"""What an access token says: the JWT profile of RFC 9068, written and checked.

The checks know no keys and no I/O: they get the members of a token whose signature holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from sark.errors import TokenError
from sark.sessions.claims import AccessClaims
from sark.sessions.tokens.compact import encode_base64url

__all__ = ["MAX_CLAIM_BYTES", "Expectation", "outside_session_id", "read_claims", "write_claims"]

MAX_CLAIM_BYTES = 256
"""As ids in requests."""

MAX_TIER_BYTES = 64

LATEST_SECONDS = 253_402_300_799
"""The end of the year 9999, the latest time that is taken for one."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Expectation:
    """What tokens of one issuer must say.

    Attributes:
        issuer: Who issues them.
        audience: Whom they are for.
        leeway: Seconds by which clocks may differ.
        outside: Whether the issuer is another identity provider.
        user_prefix: Put before its users' ids, so that they are no others' users.
        tier_claim: Names the user's plan in its tokens; empty when they name none.
    """

    issuer: str
    audience: str
    leeway: int
    outside: bool = False
    user_prefix: str = ""
    tier_claim: str = "tier"


def write_claims(claims: AccessClaims, audience: str) -> bytes:
    """Write the payload of a token; equal claims give equal bytes."""
    payload: dict[str, Any] = {
        "iss": claims.issuer,
        "aud": audience,
        "sub": claims.user_id,
        "sid": claims.session_id,
        "jti": claims.jti,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "client_id": claims.client_id,
    }
    if claims.tier:
        payload["tier"] = claims.tier
    return _encode(payload)


def read_claims(payload: Mapping[str, Any], expected: Expectation, now: float) -> AccessClaims:
    """Check what a token says.

    Args:
        payload: Its members.
        expected: What they must say.
        now: Unix time.

    Raises:
        TokenError: ``issuer``, ``audience``, ``claims``, ``expired`` or ``not_yet_valid``. The
            reason names the member; it never quotes a value.
    """
    if payload.get("iss") != expected.issuer:
        raise TokenError("issuer", "iss is not the expected issuer")
    if not _is_for(payload.get("aud"), expected.audience):
        raise TokenError("audience", "aud does not name this service")
    issued_at, expires_at = _time(payload, "iat"), _time(payload, "exp")
    not_before = _time(payload, "nbf") if "nbf" in payload else issued_at
    if expires_at < issued_at:
        raise TokenError("claims", "exp is before iat")
    if now >= expires_at + expected.leeway:
        raise TokenError("expired", "the token has expired")
    if max(issued_at, not_before) > now + expected.leeway:
        raise TokenError("not_yet_valid", "the token is not valid yet")
    user_id, jti = _user_id(payload, expected), _text(payload, "jti")
    plan = expected.tier_claim
    return AccessClaims(
        issuer=expected.issuer,
        user_id=user_id,
        session_id=_session_id(payload, expected, user_id, jti),
        jti=jti,
        client_id=_client_id(payload, expected),
        issued_at=issued_at,
        expires_at=expires_at,
        tier=_text(payload, plan, longest=MAX_TIER_BYTES) if plan and plan in payload else "",
        outside=expected.outside,
        single=expected.outside and "sid" not in payload,
    )


def outside_session_id(issuer: str, user_id: str, *, sid: str = "", jti: str = "") -> str:
    """Derive the session of an outside token.

    It is a digest of the issuer, the user and the provider's session (``sid``), or the single
    token (``jti``) where the provider names no session. So two providers that both count their
    sessions from 1, or one that names a session of SARK's own, never share one.

    Returns:
        43 characters of base64url.
    """
    kind, name = ("sid", sid) if sid else ("jti", jti)
    return encode_base64url(sha256(_encode([issuer, user_id, kind, name])).digest())


def _user_id(payload: Mapping[str, Any], expected: Expectation) -> str:
    taken = len(expected.user_prefix.encode())
    return expected.user_prefix + _text(payload, "sub", longest=MAX_CLAIM_BYTES - taken)


def _session_id(payload: Mapping[str, Any], expected: Expectation, user_id: str, jti: str) -> str:
    if not expected.outside:
        return _text(payload, "sid")
    sid = _text(payload, "sid") if "sid" in payload else ""
    return outside_session_id(expected.issuer, user_id, sid=sid, jti=jti)


def _client_id(payload: Mapping[str, Any], expected: Expectation) -> str:
    if not expected.outside or "client_id" in payload:
        # Empty where a session was asked for without naming a client: in our tokens, and so in
        # those of another deployment of SARK.
        return _text(payload, "client_id", shortest=0)
    # Providers from before RFC 9068 name it as OpenID Connect does.
    return _text(payload, "azp") if "azp" in payload else ""


def _is_for(audience: object, wanted: str) -> bool:
    return audience == wanted or (isinstance(audience, list) and wanted in audience)


def _text(
    payload: Mapping[str, Any], name: str, *, shortest: int = 1, longest: int = MAX_CLAIM_BYTES
) -> str:
    value = payload.get(name)
    try:
        size = len(value.encode()) if isinstance(value, str) else -1
    except UnicodeEncodeError:
        size = -1  # a lone surrogate can be written in JSON, but is no text
    if not isinstance(value, str) or not shortest <= size <= longest:
        raise TokenError("claims", f"{name}: expected text of {shortest} to {longest} bytes")
    return value


def _time(payload: Mapping[str, Any], name: str) -> int:
    value = payload.get(name)
    # A boolean is an int to Python, and equal to 0 or 1.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LATEST_SECONDS:
        raise TokenError("claims", f"{name}: expected whole seconds since 1970")
    return value
