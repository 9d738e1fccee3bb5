"""``POST /v1/cache/warm``: its lines, its bounds, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.polling import until
from tests.support.service import SarkService, assert_problem, http_client

PATH = "/v1/cache/warm"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    with SarkService(tmp_path_factory.mktemp("service"), SARK_HOT_SAMPLE=1) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def questions(name: str, count: int) -> list[dict[str, Any]]:
    return [
        {"user_id": f"{name}-{number}", "action": "x:read", "resource": "r"}
        for number in range(count)
    ]


def stored(service: SarkService) -> int:
    with service.valkey() as client:
        return sum(1 for _ in client.scan_iter("policy:decision:*", count=1000))


async def warm(
    http: aiohttp.ClientSession, service: SarkService, **body: Any
) -> list[dict[str, Any]]:
    async with http.post(PATH, json=body, headers=service.admin) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/x-ndjson"
        return [json.loads(line) async for line in response.content]


async def test_the_last_line_is_the_result(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    asked = [*questions("a", 40), {"user_id": ""}, questions("a", 1)[0], "no question"]
    lines = await warm(http, service, questions=asked, rate=100)
    assert [line["ended"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert len(lines) >= 2, "progress is told"
    dones = [line["evaluated"] for line in lines]
    assert dones == sorted(dones)
    last = lines[-1]
    counts = {name: last[name] for name in ("total", "asked", "cached", "evaluated", "stored")}
    assert counts == {"total": 43, "asked": 43, "cached": 1, "evaluated": 40, "stored": 40}
    assert (last["failed"], last["skipped"], last["reason"]) == (0, 2, "")
    assert [item["place"] for item in last["unusable"]] == ["40", "42"]
    async with http.post("/v1/authorize", json=questions("a", 40)[39]) as response:
        assert (await response.json())["cached"] == "valkey"


@pytest.mark.heavy
async def test_the_log_of_the_most_asked_is_the_default(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    for question in questions("hot", 3):
        async with http.post("/v1/authorize", json=question) as response:
            assert response.status == 200

    async def total() -> int:
        found: int = (await warm(http, service))[-1]["total"]
        return found

    async def flushed() -> bool:
        return await total() >= 3

    await until(flushed, within=20, what="the service flushes its counts")
    assert (await warm(http, service, limit=2))[-1]["total"] == 2


async def test_closing_the_connection_ends_it(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    before = stored(service)
    body = {"questions": questions("closed", 1000), "rate": 50}
    async with http.post(PATH, json=body, headers=service.admin) as response:
        await response.content.readline()
        async with http.post(PATH, json={}, headers=service.admin) as second:
            await assert_problem(second, 409, "warming")
        response.close()

    async def ended() -> bool:
        async with http.post(PATH, json={}, headers=service.admin) as again:
            return again.status == 200

    await until(ended, within=10, what="the warming ends")
    count = stored(service)
    assert count - before < 200
    await asyncio.sleep(0.3)
    assert stored(service) == count


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"questions": [1] * 1001}, "questions"),
        ({"rate": 0}, "rate"),
        ({"rate": 100_001}, "rate"),
        ({"limit": 0}, "limit"),
        ({"more": 1}, "more"),
    ],
)
async def test_bounds(
    http: aiohttp.ClientSession,
    service: SarkService,
    body: dict[str, Any],
    field: str,
) -> None:
    async with http.post(PATH, json=body, headers=service.admin) as response:
        await assert_problem(response, 422, "invalid-request", field=field)


async def test_it_needs_the_admin_token(http: aiohttp.ClientSession) -> None:
    async with http.post(PATH, json={}) as response:
        assert response.status == 401
