"""The public keys with which others verify our access tokens (RFC 7517)."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sark.http.service import ServiceOf
from sark.sessions.tokens import JWKS_MAX_AGE_SECONDS

__all__ = ["JWKS_PATH", "router"]

JWKS_PATH = "/.well-known/jwks.json"
MEDIA_TYPE = "application/jwk-set+json"
ETAG_BYTES = 12

_KEY: dict[str, Any] = {
    "type": "object",
    "required": ["kty", "kid", "alg", "use"],
    "properties": {
        "kty": {"type": "string", "enum": ["OKP", "RSA"]},
        "kid": {"type": "string", "description": "Thumbprint of the key (RFC 7638)"},
        "alg": {"type": "string", "enum": ["EdDSA", "RS256"]},
        "use": {"type": "string", "enum": ["sig"]},
        "crv": {"type": "string", "description": "Ed25519, of an OKP key"},
        "x": {"type": "string", "description": "Of an OKP key"},
        "n": {"type": "string", "description": "Of an RSA key"},
        "e": {"type": "string", "description": "Of an RSA key"},
    },
}
_SET: dict[str, Any] = {
    "type": "object",
    "required": ["keys"],
    "properties": {"keys": {"type": "array", "items": _KEY}},
}

router = APIRouter(tags=["sessions"])


@router.get(
    JWKS_PATH,
    response_class=Response,
    responses={
        200: {"description": "The keys", "content": {MEDIA_TYPE: {"schema": _SET}}},
        304: {"description": "They are those of If-None-Match"},
    },
)
async def jwks(request: Request, service: ServiceOf) -> Response:
    """The public keys of the access tokens, those that will sign next among them."""
    body = service.runtime.tokens.jwks()
    etag = f'"{urlsafe_b64encode(sha256(body).digest()[:ETAG_BYTES]).decode()}"'
    headers = {"Cache-Control": f"public, max-age={JWKS_MAX_AGE_SECONDS}", "ETag": etag}
    if _matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=MEDIA_TYPE)


def _matches(condition: str, etag: str) -> bool:
    """Compare entity tags weakly (RFC 9110 section 13.1.2)."""
    listed = {tag.strip().removeprefix("W/") for tag in condition.split(",")}
    return "*" in listed or etag in listed
