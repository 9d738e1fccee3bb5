"""Sessions for tests: real access tokens by PyJWT, and a clock that a test turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jwt
import pytest

from sark.errors import SessionCapError, SessionError, TokenError
from sark.events import Hub
from sark.sessions import (
    AccessClaims,
    Grant,
    RefreshTokens,
    SessionRules,
    Sessions,
    scripts,
)
from sark.store import Script, Store
from tests.support.gateways import Meeting, generations, later, open_store
from tests.support.servers import ValkeyServer

KEY = b"a key of the tests, 32 bytes long"
ISSUER = "https://sark.test"
CLOCK_KEY = "test:clock:offset"
BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36 Edg/126.0.2592.113"
)


class SignedTokens:
    """Access tokens signed with HS256.

    Args:
        now: The time in seconds by which tokens expire.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def issue(self, claims: AccessClaims) -> str:
        spelled = {
            "iss": claims.issuer,
            "sub": claims.user_id,
            "sid": claims.session_id,
            "jti": claims.jti,
            "client_id": claims.client_id,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            "tier": claims.tier,
            "outside": claims.outside,
            "single": claims.single,
        }
        return jwt.encode(spelled, KEY, algorithm="HS256")

    async def verify(self, token: str) -> AccessClaims:
        try:
            said: dict[str, Any] = jwt.decode(
                token,
                KEY,
                algorithms=["HS256"],
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.PyJWTError:
            raise TokenError("invalid", "the token is not accepted") from None
        if said["exp"] <= self._now():
            raise TokenError("expired", "the token has expired")
        return AccessClaims(
            said["iss"],
            said["sub"],
            said["sid"],
            said["jti"],
            said["client_id"],
            said["iat"],
            said["exp"],
            said["tier"],
            said["outside"],
            said["single"],
        )


def sessions_on(store: Store, rules: SessionRules | None = None, **options: Any) -> Sessions:
    """Make sessions on a store."""
    tokens = options.pop("tokens", None) or SignedTokens()
    return Sessions(
        store,
        tokens,
        refresh_tokens=RefreshTokens(KEY),
        rules=rules or SessionRules(),
        issuer=ISSUER,
        invalidate_user=generations(store).invalidate_user,
        **options,
    )


@asynccontextmanager
async def open_sessions(
    url: str,
    rules: SessionRules | None = None,
    *,
    hub: Hub | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Sessions]:
    """Open sessions on a server."""
    async with open_store(url, hub=hub, **(settings or {})) as store:
        yield sessions_on(store, rules, **options)


async def log_in(sessions: Sessions, user_id: str = "alice", **fields: Any) -> Grant:
    """Begin a session."""
    return await sessions.create(user_id, **{"client_id": "web", **fields})


def outside_token(
    user_id: str = "alice",
    session_id: str = "idp-1",
    jti: str = "t-1",
    *,
    issuer: str = "https://idp",
    at: float | None = None,
    life: int = 600,
    single: bool = False,
) -> str:
    """Sign a token as an outside issuer would, ``at`` a Unix time."""
    now = int(time.time() if at is None else at)
    ends = now + life
    return SignedTokens().issue(
        AccessClaims(
            issuer, user_id, session_id, jti, "app", now, ends, outside=True, single=single
        )
    )


def tokens_of(grant: Grant) -> tuple[str, str]:
    """Tell grants apart by their tokens; how long those are good for depends on the time."""
    return grant.access_token, grant.refresh_token


async def code_of(awaitable: Awaitable[object]) -> str:
    """Tell how a call ended: ``ok``, or the code of its refusal."""
    try:
        await awaitable
    except SessionError as error:
        return error.code
    return "ok"


class FrozenClock:
    """The time of the scripts of sessions, which only the test moves on.

    Args:
        server: The server whose scripts read it.
    """

    PRELUDE = f"""
    local function now_us()
      return tonumber(server.call('GET', '{CLOCK_KEY}')) * 1000
    end
    """

    def __init__(self, server: ValkeyServer) -> None:
        self._client = server.client()
        # From the real time on: keys get real TTLs, which must not end before their time.
        self.now_ms = int(time.time()) * 1000
        self.advance(0)

    def now(self) -> float:
        return self.now_ms / 1000

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
        self._client.set(CLOCK_KEY, self.now_ms, ex=600)


@contextmanager
def frozen_clock(server: ValkeyServer) -> Iterator[FrozenClock]:
    """Let the scripts of sessions read a clock that stands still unless it is moved."""
    package, name = scripts.CLOCK_FRAGMENT
    clock = files(package).joinpath(name).read_text("utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, script in list(vars(scripts).items()):
            if isinstance(script, Script):
                text = script.text.replace(clock, FrozenClock.PRELUDE)
                assert text != script.text
                patch.setattr(scripts, name, Script(script.name, text))
        yield FrozenClock(server)


def dump(server: ValkeyServer) -> bytes:
    """Read all keys and values of a server."""
    with server.client() as client:
        return dump_of(client)


def dump_of(client: Any) -> bytes:
    """Read all keys and values that a client sees."""
    keys = list(client.scan_iter(count=1000))
    return b"\n".join(part for key in keys for part in [key, *_values(client, key)])


def _values(client: Any, key: bytes) -> list[bytes]:
    match client.type(key):
        case b"none":  # it has gone meanwhile
            return []
        case b"string":
            return [client.get(key) or b""]
        case b"hash":
            return [part for pair in client.hgetall(key).items() for part in pair]
        case b"zset":
            return [*client.zrange(key, 0, -1)]
        case b"list":
            return [*client.lrange(key, 0, -1)]
        case kind:
            raise AssertionError(f"{key!r} is a {kind!r}")


# What other processes run must be found by name, so it stands here.


@dataclass(frozen=True)
class LogInWork:
    """Logs a user in with many tasks at once; returns the ids of the sessions."""

    meeting: Meeting
    rules: SessionRules
    tasks: int

    def __call__(self, _number: int) -> list[str]:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> list[str]:
        async with open_sessions(self.meeting.url, self.rules) as sessions:
            outcomes = await asyncio.gather(
                *(log_in(sessions, deadline=later()) for _ in range(self.tasks)),
                return_exceptions=True,
            )
        assert all(isinstance(each, Grant | SessionCapError) for each in outcomes)
        return [each.session_id for each in outcomes if isinstance(each, Grant)]


@dataclass(frozen=True)
class RefreshWork:
    """Trades one token with many tasks at once; returns the different tokens that came of it."""

    meeting: Meeting
    refresh_token: str
    tasks: int

    def __call__(self, _number: int) -> set[tuple[str, str]]:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> set[tuple[str, str]]:
        async with open_sessions(self.meeting.url) as sessions:
            grants = await asyncio.gather(
                *(sessions.refresh(self.refresh_token, deadline=later()) for _ in range(self.tasks))
            )
        return set(map(tokens_of, grants))


@dataclass(frozen=True)
class UseWork:
    """Uses sessions in every way, all at once; returns how many uses were accepted."""

    meeting: Meeting
    rules: SessionRules
    grants: tuple[Grant, ...]

    def __call__(self, _number: int) -> int:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> int:
        async with open_sessions(self.meeting.url, self.rules) as sessions:
            codes = await asyncio.gather(
                *(code_of(use) for each in self.grants for use in self._uses(sessions, each))
            )
        return codes.count("ok")

    def _uses(self, sessions: Sessions, grant: Grant) -> list[Awaitable[object]]:
        return [
            sessions.authenticate(grant.access_token, deadline=later()),
            sessions.touch(grant.user_id, grant.session_id, deadline=later()),
            sessions.refresh(grant.refresh_token, deadline=later()),
        ]


@dataclass(frozen=True)
class LogOutWork:
    """Ends sessions, all at once; returns how many were alive."""

    meeting: Meeting
    grants: tuple[Grant, ...]

    def __call__(self, _number: int) -> int:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> int:
        async with open_sessions(self.meeting.url) as sessions:
            ended = await asyncio.gather(
                *(sessions.revoke(each.user_id, each.session_id) for each in self.grants)
            )
        return sum(len(each.ended) for each in ended)


@dataclass(frozen=True)
class AuthenticateWork:
    """Checks tokens once; returns the codes."""

    url: str
    access_tokens: tuple[str, ...]

    def __call__(self, _number: int) -> list[str]:
        return asyncio.run(self._run())

    async def _run(self) -> list[str]:
        async with open_sessions(self.url) as sessions:
            return [await code_of(sessions.authenticate(each)) for each in self.access_tokens]
