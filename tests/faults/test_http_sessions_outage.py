"""Sessions over HTTP while Valkey is killed or hangs: nobody is let in, nothing pretended."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.http_sessions import SERVICE_TOKEN, TRUSTED, ask, bearer, call, issue
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import SarkService, assert_problem, http_client

ADMIN = "admin-token-4c8b1e7d0a6f3925"
# Revocations wait for as long as one answer may take; what else is on the way of requests doesn't.
SOCKET_TIMEOUT_SECONDS = 1
SLOWEST_SECONDS = 2.5
HEALS_SECONDS = 10.0

Break = Callable[[ValkeyServer], object]
FAULTS: dict[str, tuple[Break, Break]] = {
    "killed": (ValkeyServer.kill, ValkeyServer.start),
    "hanging": (ValkeyServer.pause, ValkeyServer.resume),
}
Route = tuple[str, str, dict[str, str], dict[str, Any] | None]


@pytest.fixture
def valkey(private_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return private_server({"appendonly": "yes", "appendfsync": "always"})


@pytest.fixture
def service(valkey: ValkeyServer, tmp_path: Path) -> Iterator[SarkService]:
    with SarkService(
        tmp_path,
        VALKEY_URL=valkey.url,
        VALKEY_SOCKET_TIMEOUT=SOCKET_TIMEOUT_SECONDS,
        SARK_ADMIN_TOKEN=ADMIN,
        SARK_SERVICE_TOKEN=SERVICE_TOKEN,
    ) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def routes(grant: dict[str, Any]) -> Iterator[Route]:
    """All that asks for state, as those who may."""
    me, admin = bearer(grant["access_token"]), bearer(ADMIN)
    question = {"action": "x:read", "resource": "r"}
    yield "POST", "/v1/sessions", TRUSTED, {"user_id": "bob"}
    yield "POST", "/v1/sessions/refresh", {}, {"refresh_token": grant["refresh_token"]}
    yield "GET", "/v1/sessions/current", me, None
    yield "DELETE", "/v1/sessions/current", me, None
    for headers in (me, admin):
        yield "GET", "/v1/users/ann/sessions", headers, None
        yield "GET", f"/v1/users/ann/sessions/{grant['session_id']}", headers, None
        yield "DELETE", f"/v1/users/ann/sessions/{grant['session_id']}", headers, None
        yield "DELETE", "/v1/users/ann/sessions", headers, None
    yield "POST", "/v1/authorize", me, question
    yield "POST", "/v1/authorize/batch", me, {"questions": [question]}
    yield "POST", "/v1/authorize", TRUSTED, {**question, "access_token": grant["access_token"]}


@pytest.mark.parametrize("fault", FAULTS)
async def test_without_valkey_sessions_fail_closed(
    valkey: ValkeyServer, http: aiohttp.ClientSession, fault: str
) -> None:
    break_it, mend_it = FAULTS[fault]
    grant = await issue(http)
    assert (await ask(http, grant["access_token"]))[0] == 200
    break_it(valkey)
    for method, path, headers, body in routes(grant):
        started = time.monotonic()
        async with http.request(method, path, json=body, headers=headers) as response:
            problem = await assert_problem(response, 503, "store-unavailable")
            assert int(response.headers["Retry-After"]) == problem["retry_after"] >= 1
        assert time.monotonic() - started < SLOWEST_SECONDS, path
        assert str(valkey.port) not in str(problem)
    # Who brings no token that is worth asking about is refused as ever; that is recorded.
    for method, path, _, body in routes(grant):
        if path == "/v1/sessions/refresh" or "access_token" in (body or {}):
            continue
        status, problem = await call(http, method, path, bearer("a.b.c"), body)
        assert (status, problem["type"]) == (401, "urn:sark:problem:unauthenticated"), path
    body = {"refresh_token": "r1.forged"}
    assert (await call(http, "POST", "/v1/sessions/refresh", None, body))[0] == 401
    status, found = await call(http, "GET", "/v1/sessions/stats", bearer(ADMIN))
    assert (status, found["stored"]) == (200, None)
    mend_it(valkey)

    async def admitted() -> bool:
        return (await ask(http, grant["access_token"]))[0] == 200

    await until(admitted, within=HEALS_SECONDS, what="the session is accepted again")
    body = {"refresh_token": grant["refresh_token"]}
    status, successor = await call(http, "POST", "/v1/sessions/refresh", None, body)
    assert status == 200
    assert (await ask(http, successor["access_token"]))[0] == 200


async def test_a_logout_that_was_answered_outlives_a_kill(
    valkey: ValkeyServer, http: aiohttp.ClientSession
) -> None:
    kept = await issue(http)
    gone = [await issue(http) for _ in range(3)]
    for grant in gone:
        headers = bearer(grant["access_token"])
        assert (await call(http, "DELETE", "/v1/sessions/current", headers))[0] == 200
    valkey.kill()
    valkey.start()

    async def admitted() -> bool:
        return (await ask(http, kept["access_token"]))[0] == 200

    await until(admitted, within=HEALS_SECONDS, what="the kept session is accepted")
    for grant in gone:
        assert (await ask(http, grant["access_token"]))[1]["code"] == "ended"
