"""Routes of sessions: begin, refresh, look at the current one, log out.

SARK keeps sessions and checks no passwords: whoever may begin one has authenticated the user. The
answers hold tokens or tell who is logged in from where, so nothing on the way may keep them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from sark.http.bodies import decode_body
from sark.http.callers import Peer
from sark.http.service import ServiceOf, require_admin
from sark.ops.session_stats import collect_session_report
from sark.sessions import Grant
from sark.sessions.hidden import HidesTokens

__all__ = ["NewSession", "RefreshRequest", "Tokens", "private_json", "router"]

# Pragma is for caches that know HTTP/1.0 only (RFC 6749 section 5.1).
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_ISSUER: dict[str, Any] = {"security": [{"service": []}, {"bearer": []}]}
_CLIENT: dict[str, Any] = {"security": [{}, {"service": []}, {"bearer": []}]}
_USER: dict[str, Any] = {"security": [{"user": []}]}
_ADMIN: dict[str, Any] = {"security": [{"bearer": []}]}

router = APIRouter(tags=["sessions"])
_encode = msgspec.json.Encoder().encode


class NewSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A login that the caller has checked.

    Attributes:
        user_id: Who logged in; 1 to 256 bytes.
        client_id: The client that the user logged in with; at most 256 bytes.
        ip: The address that the user came from.
        user_agent: The user's ``User-Agent``; at most 4,096 bytes, of which a summary is kept.
        tier: The user's plan, which the access tokens will name; at most 64 bytes.
    """

    user_id: str
    client_id: str = ""
    ip: str | None = None
    user_agent: str | None = None
    tier: str = ""


class RefreshRequest(HidesTokens, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A refresh token to be traded.

    Attributes:
        refresh_token: The token.
        ip: The address that it came from. Only a trusted caller is believed; else it is the peer's.
        user_agent: The ``User-Agent`` that it came with; likewise.
    """

    refresh_token: str
    ip: str | None = None
    user_agent: str | None = None


class Tokens(HidesTokens, frozen=True):
    """What a login or a refresh hands out, in the terms of OAuth (RFC 6749 section 5.1).

    Attributes:
        access_token: For requests, as bearer token.
        token_type: How it is used.
        expires_in: Seconds that it is good for, from its issue.
        refresh_token: For the next refresh; works once.
        user_id: The user.
        session_id: The session.
        session_expires_at: When the session ends at the latest, in seconds since the epoch.
    """

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str
    user_id: str
    session_id: str
    session_expires_at: float


_decode_login = msgspec.json.Decoder(NewSession).decode
_decode_refresh = msgspec.json.Decoder(RefreshRequest).decode


@router.post("/v1/sessions", openapi_extra=_ISSUER)
async def begin(request: Request, service: ServiceOf) -> Response:
    """Begin a session for a user whom the caller has authenticated."""
    actor = await service.check_issuer(request)
    login = await decode_body(request, _decode_login)
    grant = await service.runtime.admission.create(
        login.user_id,
        client_id=login.client_id,
        ip=login.ip,
        user_agent=login.user_agent,
        tier=login.tier,
        by=actor,
    )
    return private_json(_tokens(grant), status=201)


@router.post("/v1/sessions/refresh", openapi_extra=_CLIENT)
async def refresh(request: Request, service: ServiceOf) -> Response:
    """Trade a refresh token, which is the credential, for new tokens."""
    asked = await decode_body(request, _decode_refresh)
    peer = service.peer(request)
    if service.trusted(request) is not None:
        peer = Peer(asked.ip, asked.user_agent)
    grant = await service.runtime.admission.refresh(
        asked.refresh_token, ip=peer.ip, user_agent=peer.user_agent
    )
    return private_json(_tokens(grant))


@router.get("/v1/sessions/current", openapi_extra=_USER)
async def current(request: Request, service: ServiceOf) -> Response:
    """Tell the session of the access token."""
    peer = service.peer(request)
    session = await service.runtime.admission.session(
        await service.access_token(request), ip=peer.ip, user_agent=peer.user_agent
    )
    return private_json(session)


@router.delete("/v1/sessions/current", openapi_extra=_USER)
async def log_out(request: Request, service: ServiceOf) -> Response:
    """End the session of the access token."""
    claims = await service.check_user(request)
    revocation = await service.runtime.admission.revoke(
        claims.user_id, claims.session_id, by="user", ip=service.peer(request).ip
    )
    return private_json(revocation)


@router.get("/v1/sessions/stats", openapi_extra=_ADMIN, dependencies=[Depends(require_admin)])
async def session_stats(service: ServiceOf) -> Response:
    """Logins, refreshes, refusals and ends of this process; what Valkey holds."""
    report = await collect_session_report(service.runtime, service.session_counts)
    return private_json(report)


def private_json(document: object, *, status: int = 200) -> Response:
    """Answer with JSON that nobody on the way may keep."""
    return Response(_encode(document), status, _NO_STORE, media_type="application/json")


def _tokens(grant: Grant) -> Tokens:
    return Tokens(
        access_token=grant.access_token,
        token_type="Bearer",  # noqa: S106 - the name of the scheme
        expires_in=grant.expires_in,
        refresh_token=grant.refresh_token,
        user_id=grant.user_id,
        session_id=grant.session_id,
        session_expires_at=grant.session_expires_at,
    )
