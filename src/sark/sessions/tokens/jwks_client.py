"""Fetching the public keys of outside issuers: bounded in time and size, from fixed addresses."""

from __future__ import annotations

import asyncio
import os
import ssl
from http import HTTPStatus
from typing import Any, Self

import aiohttp
from yarl import URL

from sark.errors import IssuerUnavailableError
from sark.sessions.tokens.keys import VerificationKey
from sark.sessions.tokens.strict_json import strict_object

__all__ = ["FETCH_SECONDS", "LARGEST_JWKS_BYTES", "JwksClient", "read_jwks"]

FETCH_SECONDS = 3.0
LARGEST_JWKS_BYTES = 256 * 1024
MOST_KEYS = 100
MAX_KID_BYTES = 256

_FAILURES: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, f"no complete answer within {FETCH_SECONDS:g} s"),
    (aiohttp.ClientSSLError, "TLS failed, or its certificate is refused"),
    (ssl.SSLError, "TLS failed"),
    (aiohttp.ClientConnectorDNSError, "its host name can't be resolved"),
    (aiohttp.ServerDisconnectedError, "it closed the connection"),
    (aiohttp.ClientPayloadError, "it closed the connection"),
    (aiohttp.ClientResponseError, "its answer is not HTTP"),
)


class JwksClient:
    """Fetches key sets. An async context manager, which owns the connections."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            headers={
                "Accept": "application/jwk-set+json, application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "sark",
            },
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Nothing is asked to be compressed, and a small body could expand to a huge one.
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def fetch(self, issuer: str, url: str) -> dict[str, VerificationKey]:
        """Fetch the keys of an issuer.

        Args:
            issuer: Who it is, for error messages.
            url: Where they are published. Redirects are not followed: they would choose another
                source of trust than the operator did.

        Returns:
            The usable ones by kid.

        Raises:
            IssuerUnavailableError: No usable key came.
        """
        if self._session is None:
            raise IssuerUnavailableError(issuer, "the client is not open")
        try:
            async with (
                asyncio.timeout(FETCH_SECONDS),
                self._session.get(URL(url, encoded=True), allow_redirects=False) as response,
            ):
                body = await _read(issuer, response)
        except (aiohttp.ClientError, OSError) as error:
            raise IssuerUnavailableError(issuer, _reason(error)) from None
        try:
            return read_jwks(body)
        except ValueError as error:
            raise IssuerUnavailableError(issuer, f"its answer is {error}") from None


def read_jwks(body: bytes) -> dict[str, VerificationKey]:
    """Read a JSON Web Key Set (RFC 7517 section 5).

    Keys of other kinds or for other uses are left out, as the RFC asks for. Of two keys with one
    kid the first counts.

    Raises:
        ValueError: It is no key set, or holds no key that can be used.
    """
    listed: Any = strict_object(body).get("keys")
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise ValueError(f"not a set of at most {MOST_KEYS} keys")
    found: dict[str, VerificationKey] = {}
    for jwk in listed:
        key = _usable(jwk)
        if key is not None:
            found.setdefault(key.kid, key)
    if not found:
        raise ValueError("without a key that can be used")
    return found


def _usable(jwk: object) -> VerificationKey | None:
    if not isinstance(jwk, dict) or len(str(jwk.get("kid", ""))) > MAX_KID_BYTES:
        return None
    try:
        return VerificationKey.from_jwk(jwk)
    except ValueError:
        return None


async def _read(issuer: str, response: aiohttp.ClientResponse) -> bytes:
    status = response.status
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise IssuerUnavailableError(issuer, f"it answers {status}; redirects are not followed")
    if status != HTTPStatus.OK:
        raise IssuerUnavailableError(issuer, f"it answers {status}")
    body = bytearray()
    announced = response.content_length or 0
    while max(announced, len(body)) <= LARGEST_JWKS_BYTES:
        part = await response.content.readany()
        if not part:
            return bytes(body)
        body += part
    response.close()
    raise IssuerUnavailableError(issuer, f"it answers more than {LARGEST_JWKS_BYTES} bytes")


def _reason(error: BaseException) -> str:
    """Say what went wrong in our own words: the library's may hold addresses and headers."""
    for kind, reason in _FAILURES:
        if isinstance(error, kind):
            return reason
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return "the connection failed"
