"""Rate limits of who guesses tokens, and of what is done with sessions over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.http_sessions import QUESTION, SERVICE_TOKEN, TRUSTED, bearer, call, issue
from tests.support.service import SarkService, http_client

FEW, REFRESHES = 6, 3
RULES = f"""
[rules.refreshes]
kind = "ip"
action = ["session:refresh"]
limits = ["{REFRESHES}/minute"]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    (directory / "limits.toml").write_text(RULES)
    with SarkService(
        directory,
        SARK_SERVICE_TOKEN=SERVICE_TOKEN,
        SARK_LIMIT_PER_MINUTE=FEW,
        SARK_LIMITS_FILE=directory / "limits.toml",
    ) as running:
        yield running


@asynccontextmanager
async def from_address(service: SarkService, address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client at one of this machine's own addresses."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(service.url, connector=connector) as session:
        yield session


async def statuses(
    http: aiohttp.ClientSession, times: int, *request: Any
) -> tuple[list[int], dict[str, Any]]:
    answers = [await call(http, *request) for _ in range(times)]
    return [status for status, _ in answers], answers[-1][1]


def recorded(service: SarkService, address: str) -> list[tuple[str, str]]:
    return [
        (event["action"], event["reason"])
        for event in service.events()
        if event.get("ip") == address
    ]


GUESSES = [
    ("POST", "/v1/authorize", bearer("wrong"), QUESTION),
    ("POST", "/v1/authorize", bearer("a.b.c"), QUESTION),
    ("POST", "/v1/sessions", bearer("guess"), {"user_id": "u"}),
    ("GET", "/v1/status", bearer("guess"), None),
    ("GET", "/v1/sessions/current", bearer("x.y.z"), None),
    ("DELETE", "/v1/users/u/sessions", bearer("x"), None),
]


@pytest.mark.parametrize("number", range(len(GUESSES)), ids=[" ".join(g[:2]) for g in GUESSES])
async def test_who_guesses_is_limited_by_address(service: SarkService, number: int) -> None:
    address = f"127.0.1.{number}"
    async with from_address(service, address) as http:
        found, problem = await statuses(http, FEW + 3, *GUESSES[number])
    assert found == [401] * FEW + [429] * 3
    assert (problem["limit"], problem["quota"]) == ("ip", FEW)
    first, limited = recorded(service, address)
    assert first[1] == "unauthenticated" or first[1].startswith("session:")
    assert limited == ("session:authenticate", "rate_limit:ip")
    assert any(event["id"] == problem["decision_id"] for event in service.events())


async def test_a_batch_of_guesses_counts_once_each(service: SarkService) -> None:
    body = {"questions": [QUESTION] * 5}
    async with from_address(service, "127.0.0.8") as http:
        request = ("POST", "/v1/authorize/batch", bearer("a.b.c"), body)
        assert (await statuses(http, FEW + 1, *request))[0] == [401] * FEW + [429]


async def test_refreshes_are_limited_by_address_and_rules_may_name_them(
    service: SarkService,
) -> None:
    path = "/v1/sessions/refresh"
    async with from_address(service, "127.0.0.9") as http:
        request = ("POST", path, None, {"refresh_token": "r1.x.y.0.z"})
        found, problem = await statuses(http, REFRESHES + 2, *request)
        assert found == [401] * REFRESHES + [429] * 2
        assert problem["policy"] == "refreshes"
        # Nothing was traded: the token is as good as before.
        grant = await issue(http, "refresher")
        body = {"refresh_token": grant["refresh_token"]}
        assert (await call(http, "POST", path, None, body))[0] == 429
    async with http_client(service) as http:
        assert (await call(http, "POST", path, None, body))[0] == 200
        # A trusted caller says whose it is.
        trusted = {**body, "ip": "127.0.0.9"}
        assert (await call(http, "POST", path, TRUSTED, trusted))[0] == 429


async def test_what_users_read_is_limited_and_ends_are_not(service: SarkService) -> None:
    async with from_address(service, "127.0.0.10") as http:
        grant = await issue(http, "reader")
        mine = bearer(grant["access_token"])
        for path in ("/v1/sessions/current", "/v1/users/reader/sessions"):
            assert (await statuses(http, FEW // 2, "GET", path, mine))[0] == [200] * (FEW // 2)
        status, problem = await call(http, "GET", "/v1/sessions/current", mine)
        assert (status, problem["limit"]) == (429, "user")
        # Also from elsewhere, and not for administrators.
        path = "/v1/users/reader/sessions"
        async with http_client(service) as other:
            assert (await call(other, "GET", path, mine))[0] == 429
            assert (await call(other, "GET", path, service.admin))[0] == 200
        assert (await call(http, "DELETE", "/v1/sessions/current", mine))[0] == 200
