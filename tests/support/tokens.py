"""Access tokens for tests: made by the book, forged, and issued by a real local issuer."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from sark.events import Hub
from sark.sessions.claims import AccessClaims
from sark.sessions.tokens import IssuerKeys, JwtAccessTokens, KeyFile, SigningKeys, retention_of
from sark.sessions.tokens.keys import Algorithm, SigningKey

NOW = 1_790_000_000
TTL = 900
LEEWAY = 30


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def claims(**changes: Any) -> AccessClaims:
    """Claims of a token that has just been issued."""
    given: dict[str, Any] = {
        "issuer": "sark",
        "user_id": "user-0001",
        "session_id": "session-1",
        "jti": "token-1",
        "client_id": "web",
        "issued_at": NOW,
        "expires_at": NOW + TTL,
    }
    return AccessClaims(**{**given, **changes})


def signing_keys(
    directory: Path,
    *,
    algorithm: Algorithm = "EdDSA",
    hub: Hub | None = None,
    clock: Callable[[], float] | None = None,
) -> SigningKeys:
    """Open a key folder as a process does."""
    return SigningKeys(
        KeyFile(directory),
        algorithm=algorithm,
        retention=retention_of(TTL, LEEWAY),
        hub=hub or Hub(),
        clock=clock or Clock(),
    )


def access_tokens(
    keys: SigningKeys,
    *outside: IssuerKeys,
    clock: Callable[[], float] | None = None,
    **options: Any,
) -> JwtAccessTokens:
    """Make what signs and verifies."""
    given: dict[str, Any] = {"issuer": "sark", "audience": "sark", "leeway": LEEWAY}
    given["outside_user_prefix"] = ""
    return JwtAccessTokens(keys, outside=outside, clock=clock or Clock(), **{**given, **options})


def encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a token as anybody can."""
    header, payload, _ = token.split(".")
    return json.loads(decode(header)), json.loads(decode(payload))


def sign(key: SigningKey, header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes) -> str:
    """Sign whatever a test wants, with the right key."""
    spelled = (p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, payload))
    signed = ".".join(encode(part) for part in spelled)
    return f"{signed}.{encode(key._mathematics.sign(signed.encode(), key._private))}"


class Issuer:
    """An outside identity provider: its keys, and how it answers for them.

    Attributes:
        key: What it signs with.
        published: The keys that it publishes.
        asked: How often it was asked.
        answer: Answers instead of the key set, when set.
    """

    def __init__(self, name: str, algorithm: Algorithm = "RS256") -> None:
        self.name = name
        self.key = SigningKey.generate(algorithm)
        self.published: list[dict[str, Any]] = [self.key.public_jwk]
        self.asked = 0
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.url = ""

    def rotate(self) -> None:
        """Sign with another key, and publish that one alone."""
        self.key = SigningKey.generate("RS256" if self.key.algorithm == "RS256" else "EdDSA")
        self.published = [self.key.public_jwk]

    def token(self, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """Issue a token; a claim that is None is left out."""
        payload = {
            "iss": self.name,
            "aud": "sark",
            "sub": "outsider",
            "sid": "s1",
            "jti": "j1",
            "iat": NOW,
            "exp": NOW + TTL,
            "client_id": "portal",
            **changes,
        }
        kept = {name: value for name, value in payload.items() if value is not None}
        usual = {"alg": self.key.algorithm, "kid": self.key.kid, "typ": "at+jwt"}
        return sign(self.key, {**usual, **(header or {})}, kept)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response({"keys": self.published})

    @asynccontextmanager
    async def serve(
        self, port: int = 0, *, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[None]:
        """Answer on a port of this machine."""
        app = web.Application()
        app.router.add_get("/jwks.json", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        host, bound = runner.addresses[0][:2]
        self.url = f"{'https' if tls else 'http'}://{host}:{bound}/jwks.json"
        try:
            yield
        finally:
            await runner.cleanup()


async def cancel(task: asyncio.Task[None]) -> None:
    """End a task of a test."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
