"""Revocation over HTTP: what it ends, what it leaves, what it returns, and when it fails."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import pytest
import valkey
from yarl import URL

from tests.support.processes import is_gone
from tests.support.service import SarkService, assert_problem, http_client

ROUTES = [
    "/v1/policies/authz/invalidate",
    "/v1/users/ann/invalidate",
    "/v1/cache/invalidate",
    "/v1/policies/reload",
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(directory, SARK_NEAR_CACHE_ENTRIES=1000, SARK_LIMIT_PER_MINUTE=0) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


async def ask(http: aiohttp.ClientSession, user: str, **members: Any) -> dict[str, Any]:
    body = {"user_id": user, "action": "x:read", "resource": "r", **members}
    async with http.post("/v1/authorize", json=body) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
    return answer


async def cached(http: aiohttp.ClientSession, user: str, **members: Any) -> bool:
    return (await ask(http, user, **members))["cached"] is not False


async def invalidate(http: aiohttp.ClientSession, service: SarkService, path: str) -> str:
    async with http.post(URL(path, encoded=True), headers=service.admin) as response:
        assert response.status == 200, await response.text()
        answer = await response.json()
    assert answer.keys() == {"freshness"}
    token: str = answer["freshness"]
    return token


def info(client: valkey.Valkey, section: str) -> dict[str, Any]:
    return cast("dict[str, Any]", client.info(section))


async def keep(http: aiohttp.ClientSession, *users: str, **members: Any) -> None:
    for user in users:
        await ask(http, user, **members)
        assert await cached(http, user, **members)


async def test_a_user_is_revoked_and_no_other(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    await keep(http, "u-1", "u-12", "u")
    await invalidate(http, service, "/v1/users/u-1/invalidate")
    assert [await cached(http, user) for user in ("u-1", "u-12", "u")] == [False, True, True]


@pytest.mark.parametrize(
    "user",
    [
        "a/b",
        "a/invalidate",
        "/",
        "org:bob",
        "*",
        "a b",
        "é\N{SNOWMAN}",
        "50%",
        "%41",
        "a?b#c",
    ],
)
async def test_any_id_can_be_named(
    http: aiohttp.ClientSession, service: SarkService, user: str
) -> None:
    others = ("A", "b", "a")
    await keep(http, user, *others)
    await invalidate(http, service, f"/v1/users/{quote(user, safe='')}/invalidate")
    assert not await cached(http, user)
    assert all([await cached(http, other) for other in others])


async def test_slashes_may_stand_as_they_are(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    await keep(http, "team/ann", "ann")
    await invalidate(http, service, "/v1/users/team/ann/invalidate")
    assert [await cached(http, user) for user in ("team/ann", "ann")] == [False, True]


@pytest.mark.parametrize("encoded", ["", "%FF", "%ED%A0%80", "u" * 257, "%C3%A9" * 129])
async def test_what_is_no_id_is_refused(
    http: aiohttp.ClientSession, service: SarkService, encoded: str
) -> None:
    path = URL(f"/v1/users/{encoded}/invalidate", encoded=True)
    async with http.post(path, headers=service.admin) as response:
        await assert_problem(response, 422, "invalid-request", field="user_id")


async def test_a_policy_is_revoked_and_no_other(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    await keep(http, "pia")
    await keep(http, "pia", policy="silent", action="speak")
    await invalidate(http, service, "/v1/policies/authz/invalidate")
    assert not await cached(http, "pia")
    assert await cached(http, "pia", policy="silent", action="speak")


async def test_a_policy_that_is_not_served_is_refused_before_anything_is_written(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    with service.valkey() as client:
        before = info(client, "stats")["total_commands_processed"]
        names = ("other", "AUTHZ", "authz%20", "%FF")
        for name in names:
            path = URL(f"/v1/policies/{name}/invalidate", encoded=True)
            async with http.post(path, headers=service.admin) as response:
                await assert_problem(response, 422, "invalid-request", field="policy")
        assert not [key for key in client.scan_iter("policy:version:*") if b"other" in key]
        # The change feed and its clock speak now and then; each refusal would add to it.
        assert info(client, "stats")["total_commands_processed"] - before < 100


async def test_everything_is_revoked(http: aiohttp.ClientSession, service: SarkService) -> None:
    await keep(http, "eva")
    await keep(http, "eva", policy="silent", action="speak")
    await invalidate(http, service, "/v1/cache/invalidate")
    assert not await cached(http, "eva")
    assert not await cached(http, "eva", policy="silent", action="speak")


@pytest.mark.parametrize("path", ROUTES[:3])
async def test_the_token_makes_requests_fresh(
    http: aiohttp.ClientSession, service: SarkService, path: str
) -> None:
    await keep(http, "ann")
    token = await invalidate(http, service, path)
    first = await ask(http, "ann", consistency="fresh", freshness=token)
    assert first["cached"] is False
    again = await ask(http, "ann", freshness=token)
    assert again["cached"] == "valkey", "what was decided after the change is fresh enough"
    forged = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert (await ask(http, "ann", freshness=forged))["cached"] is False


@pytest.mark.parametrize("path", ROUTES)
async def test_only_with_the_admin_token(
    http: aiohttp.ClientSession, service: SarkService, path: str
) -> None:
    await keep(http, "ann")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        async with http.post(path, headers=headers) as response:
            await assert_problem(response, 401, "unauthenticated")
    async with http.get(path, headers=service.admin) as response:
        await assert_problem(response, 405)
    assert await cached(http, "ann")


async def test_closed_without_an_admin_token(tmp_path: Path, service: SarkService) -> None:
    url = service.run_file["valkey_url"]
    with SarkService(tmp_path, VALKEY_URL=url) as closed:
        async with http_client(closed) as http:
            for path in ROUTES:
                async with http.post(path) as response:
                    await assert_problem(response, 403, "forbidden")


async def test_a_revocation_that_was_not_written_is_no_success(tmp_path: Path) -> None:
    with SarkService(tmp_path, VALKEY_SOCKET_TIMEOUT=1) as service:
        admin = service.admin
        with service.valkey() as client:
            pid = int(info(client, "server")["process_id"])
        async with http_client(service) as http:
            await keep(http, "ann")
            os.kill(pid, signal.SIGSTOP)
            try:
                for path in ROUTES[:3]:
                    async with http.post(path, headers=admin) as response:
                        problem = await assert_problem(response, 503, "store-unavailable")
                        assert int(response.headers["Retry-After"]) >= 1
                        assert "freshness" not in problem
            finally:
                os.kill(pid, signal.SIGCONT)
        assert not is_gone(pid)
