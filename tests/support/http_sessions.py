"""Sessions of a running service, as its clients use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
from yarl import URL

__all__ = ["SERVICE_TOKEN", "TRUSTED", "ask", "bearer", "call", "issue"]

SERVICE_TOKEN = "service-token-5d1f7a3c9e2b8046"
QUESTION = {"action": "x:read", "resource": "r"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


TRUSTED = bearer(SERVICE_TOKEN)


async def issue(
    http: aiohttp.ClientSession, user_id: str = "ann", *, headers: Any = None, **fields: Any
) -> dict[str, Any]:
    """Begin a session; returns what was handed out."""
    status, grant = await call(
        http, "POST", "/v1/sessions", headers or TRUSTED, {"user_id": user_id, **fields}
    )
    assert status == 201, grant
    return grant


async def call(
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Send a request as it stands; returns the status and the document."""
    url = URL(path, encoded=True)
    async with http.request(method, url, json=body, headers=headers) as response:
        document: dict[str, Any] = await response.json(content_type=None)
        return response.status, document


async def ask(
    http: aiohttp.ClientSession, access_token: str, **members: Any
) -> tuple[int, dict[str, Any]]:
    """Ask for a decision as a user."""
    return await call(http, "POST", "/v1/authorize", bearer(access_token), {**QUESTION, **members})
