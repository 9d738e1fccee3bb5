"""Reaching OPA: TCP, TLS or a unix socket, with a bounded pool of kept-alive connections.

One exchange per call, neither retried nor limited in time here; ``opa.py`` does both. Every error
of aiohttp becomes an ``OpaUnreachableError`` with a reason of our own words: aiohttp's may hold
addresses and headers.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from http import HTTPStatus

import aiohttp
from pydantic import SecretStr
from yarl import URL

from sark.errors import ConfigurationError, EvaluationError
from sark.policy.evaluators.opa_answers import OpaAnswerError, OpaReply
from sark.policy.evaluators.opa_endpoint import Certificates, OpaEndpoint

__all__ = ["OpaEndpoint", "OpaTransport", "OpaUnreachableError", "unreachable"]

LARGEST_BODY_BYTES = 2**20
# OPA itself never closes an idle connection; balancers and address translation do, after minutes.
KEEP_IDLE_SECONDS = 30.0

_TOKEN = re.compile(r"[!-~]+")
_CERTIFICATE = aiohttp.ClientConnectorCertificateError
# What each error means, and whether asking again may help; the first that fits counts.
_FAILURES: tuple[tuple[type[BaseException], str, bool], ...] = (
    (_CERTIFICATE, "its certificate is refused: ", False),
    (aiohttp.ClientSSLError, "TLS failed", True),
    (ssl.SSLError, "TLS failed", True),
    (aiohttp.ClientConnectorDNSError, "its host name can't be resolved", True),
    (aiohttp.ServerDisconnectedError, "it closed the connection", True),
    (aiohttp.ClientPayloadError, "it closed the connection", True),
    (aiohttp.ClientResponseError, "its answer is not HTTP", False),
    (aiohttp.InvalidURL, "its URL is unusable", False),
)
# A proxy's way of saying that OPA is away; OPA itself answers 500 when it fails.
_AWAY = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)
# Deadlines are the caller's: one for the whole evaluation.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)


class OpaUnreachableError(EvaluationError):
    """No answer of OPA: not connected, disconnected, or a proxy says that it is away.

    Attributes:
        is_transient: Whether asking again may help.
    """

    def __init__(self, reason: str, *, is_transient: bool = True) -> None:
        super().__init__(f"OPA: {reason}")
        self.is_transient = is_transient


class OpaTransport:
    """Sends requests to OPA.

    Args:
        endpoint: Where OPA is.
        connections: Most connections, and so most requests under way.
    """

    def __init__(self, endpoint: OpaEndpoint, connections: int) -> None:
        self._endpoint = endpoint
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._certificates = Certificates(endpoint)

    def open(self) -> None:
        """Make it ready for requests; connections are opened by them. Needs a running loop.

        Raises:
            ConfigurationError: The endpoint's files or token are unusable.
        """
        headers = _headers(self._endpoint.token)
        self._certificates.read()
        self._session = aiohttp.ClientSession(
            connector=_connector(self._endpoint, self._connections),
            headers=headers,
            timeout=_NO_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Nothing is asked to be compressed, and a small body could expand to a huge one.
            auto_decompress=False,
            trust_env=False,
        )

    async def renew(self) -> bool:
        """Use other certificates from now on if their files have changed; True when they have.

        Exchanges under way end as they began.

        Raises:
            ConfigurationError: The files are unusable; those that were read last stay in use.
        """
        return await asyncio.to_thread(self._certificates.read)

    async def get(self, path: str) -> OpaReply:
        """Send a GET request; see ``post``."""
        return await self._exchange("GET", path, None)

    async def post(self, path: str, body: bytes) -> OpaReply:
        """Send a POST request.

        Args:
            path: Path and query, percent-encoded, below the endpoint.
            body: JSON.

        Raises:
            OpaUnreachableError: No complete response came.
            OpaAnswerError: The response is too large.
            EvaluationError: The transport is not open.
        """
        return await self._exchange("POST", path, body)

    async def close(self) -> None:
        """Close all connections, those in use as well."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _exchange(self, method: str, path: str, body: bytes | None) -> OpaReply:
        if self._session is None:
            raise EvaluationError("OPA: the client is not open")
        url = URL(self._endpoint.base + path, encoded=True)
        try:
            response = await self._session.request(
                method,
                url,
                data=body,
                allow_redirects=False,
                # A connection is used again only for the context that it was made with.
                ssl=self._certificates.context,
            )
            reply = OpaReply(response.status, await _read(response))
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from None
        if reply.status in _AWAY:
            raise OpaUnreachableError(f"a proxy answers {reply.status}")
        return reply


def unreachable(error: BaseException) -> OpaUnreachableError:
    """Turn an error of aiohttp or the system into one of ours."""
    for kind, reason, is_transient in _FAILURES:
        if isinstance(error, kind):
            why = _certificate_fault(error) if kind is _CERTIFICATE else ""
            return OpaUnreachableError(reason + why, is_transient=is_transient)
    if isinstance(error, OSError) and error.errno is not None:
        return OpaUnreachableError(os.strerror(error.errno).lower())
    return OpaUnreachableError("the connection failed")


def _certificate_fault(error: BaseException) -> str:
    fault = getattr(error, "certificate_error", None)
    return getattr(fault, "verify_message", None) or "not valid"


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    announced = response.content_length or 0
    try:
        while max(announced, len(body)) <= LARGEST_BODY_BYTES:
            part = await response.content.readany()
            if not part:
                return bytes(body)
            body += part
    finally:
        # The pool has the connection back by now, unless a rest was left unread on it.
        if not response.content.at_eof():
            response.close()
    raise OpaAnswerError(f"OPA answers more than {LARGEST_BODY_BYTES} bytes", response.status)


def _headers(token: SecretStr | None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "sark",
    }
    if token is not None:
        if not _TOKEN.fullmatch(token.get_secret_value()):
            raise ConfigurationError("OPA_TOKEN: expected printable ASCII characters, no spaces")
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    return headers


def _connector(endpoint: OpaEndpoint, connections: int) -> aiohttp.BaseConnector:
    if endpoint.socket:
        return aiohttp.UnixConnector(
            endpoint.socket, limit=connections, keepalive_timeout=KEEP_IDLE_SECONDS
        )
    return aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEP_IDLE_SECONDS)
