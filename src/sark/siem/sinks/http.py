"""Sending over HTTP: kept-alive connections, compression, TLS, and errors as verdicts.

One exchange per call; nothing is retried and no redirect is followed here, since a redirected
request would carry the credential to somebody else. Errors become verdicts in our own words:
aiohttp's may hold addresses and headers.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import json
import os
import ssl
from collections.abc import Mapping
from urllib.parse import quote

import aiohttp
from pydantic import SecretStr
from yarl import URL

from sark.errors import SinkError
from sark.siem.sinks.answers import Answer, retry_after
from sark.siem.sinks.kind import SinkPlan
from sark.siem.sinks.tls import TLS_OPTIONS, check_tls_options, client_context
from sark.siem.sinks.verdict import Unavailable

__all__ = ["HttpClient", "address_url", "secret_forms"]

ANSWER_BYTES = 65_536
# Below this, headers weigh more than what compression saves.
SMALLEST_GZIP_BYTES = 1024
# Compressing this much takes about a millisecond: longer than the event loop may be held up.
LARGEST_INLINE_BYTES = 65_536
# Most of the gain at a fraction of the time that the default level takes.
GZIP_LEVEL = 2
# Splunk closes idle connections after 12 s; one of ours that it has closed looks like a failure.
KEEP_IDLE_SECONDS = 10.0

_FAILURES: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "no answer in time"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is refused"),
    (aiohttp.ClientSSLError, "TLS failed"),
    (ssl.SSLError, "TLS failed"),
    (aiohttp.ClientConnectorDNSError, "its host name cannot be resolved"),
    (aiohttp.ServerDisconnectedError, "it closed the connection"),
    (aiohttp.ClientPayloadError, "it closed the connection"),
    (aiohttp.ClientResponseError, "its answer is not HTTP"),
)


class HttpClient:
    """Posts to one receiver.

    Args:
        plan: The sink; its options hold those of ``TLS_OPTIONS``.
        url: Where to, without query.
        headers: Sent with every request; the credential among them.
        gzip_bodies: Whether the receiver takes compressed bodies.
        keep_cookies: Whether cookies that it sets are sent back.

    Raises:
        ConfigurationError: Options that contradict each other.
    """

    def __init__(
        self,
        plan: SinkPlan,
        url: str,
        headers: Mapping[str, str],
        *,
        gzip_bodies: bool = True,
        keep_cookies: bool = False,
    ) -> None:
        self._url = url
        self._headers = {"User-Agent": "sark", "Accept-Encoding": "identity", **headers}
        self._gzip = gzip_bodies and plan.common.gzip
        self._keep_cookies = keep_cookies
        self._timeout = plan.common.timeout
        self._retry_cap = plan.common.retry_cap
        self._secrets = secret_forms(plan.token)
        self._is_secure = url.startswith("https://")
        check_tls_options(plan.options, tls=self._is_secure)
        self._files = tuple(plan.options[name] for name in TLS_OPTIONS)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make it ready; connections are opened by requests.

        Raises:
            SinkError: The files of certificates are unusable.
        """
        context = await asyncio.to_thread(client_context, *self._files) if self._is_secure else True
        connector = aiohttp.TCPConnector(ssl=context, keepalive_timeout=KEEP_IDLE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=self._cookies(),
            # A small answer could expand to a huge one.
            auto_decompress=False,
            trust_env=False,
        )

    async def post(
        self,
        body: bytes,
        *,
        path: str = "",
        headers: Mapping[str, str] | None = None,
        answer_bytes: int = ANSWER_BYTES,
    ) -> Answer | Unavailable:
        """Post a body once.

        Args:
            body: What to send, not compressed.
            path: Path and query behind the address.
            headers: Headers of this request.
            answer_bytes: How much of the answer to read at most.

        Returns:
            The answer, or why there is none.
        """
        if self._session is None:
            raise SinkError("the sink is not open")
        packed, encoding = await self._pack(body)
        try:
            async with self._session.post(
                URL(self._url + path, encoded=True),
                data=packed,
                headers={**(headers or {}), **encoding},
                allow_redirects=False,
            ) as response:
                return await self._answer(response, answer_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Unavailable(self._failure(error))

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _pack(self, body: bytes) -> tuple[bytes, dict[str, str]]:
        if not self._gzip or len(body) < SMALLEST_GZIP_BYTES:
            return body, {}
        if len(body) <= LARGEST_INLINE_BYTES:
            packed = gzip.compress(body, GZIP_LEVEL, mtime=0)
        else:
            packed = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL, mtime=0)
        return packed, {"Content-Encoding": "gzip"}

    async def _answer(self, response: aiohttp.ClientResponse, most: int) -> Answer:
        body = bytearray()
        while len(body) < most and (part := await response.content.readany()):
            body += part
        if not response.content.at_eof():
            # Its rest would be read as the next answer.
            response.close()
        after = retry_after(
            response.headers.get("Retry-After"), response.headers.get("Date"), self._retry_cap
        )
        return Answer(response.status, bytes(body[:most]), after, self._secrets)

    def _failure(self, error: BaseException) -> str:
        for kind, reason in _FAILURES:
            if isinstance(error, kind):
                return reason
        if isinstance(error, OSError) and error.errno is not None:
            return os.strerror(error.errno).lower()
        return "the connection failed"

    def _cookies(self) -> aiohttp.abc.AbstractCookieJar:
        # Unsafe means: from addresses without a name as well. There is one receiver only.
        return aiohttp.CookieJar(unsafe=True) if self._keep_cookies else aiohttp.DummyCookieJar()


def address_url(plan: SinkPlan) -> str:
    """Return where the sink's receiver is, without a slash at the end."""
    address = plan.address
    return f"{address.transport}://{address.location}{address.path.rstrip('/')}"


def secret_forms(token: SecretStr | None) -> tuple[str, ...]:
    """Return a credential in the forms in which a receiver may echo it, the longest first."""
    if token is None:
        return ()
    text = token.get_secret_value()
    plain = {text, text.partition(":")[2]} - {""}
    forms = plain | {base64.b64encode(text.encode()).decode()}
    forms |= {quote(form, safe="") for form in plain} | {html.escape(form) for form in plain}
    escaped = {json.dumps(form)[1:-1] for form in forms}
    # Some write a slash in JSON as \/.
    forms |= escaped | {form.replace("/", r"\/") for form in escaped}
    return tuple(sorted(forms, key=len, reverse=True))
