"""Rate limits over HTTP: what is charged, what a refusal says, and what is recorded of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.http_sessions import SERVICE_TOKEN, TRUSTED, bearer, call, issue
from tests.support.service import SarkService, assert_problem, http_client
from tests.support.structured_fields import parse_list

LIMIT = 5
_numbers = count()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    with SarkService(tmp_path_factory.mktemp("service"), SARK_LIMIT_PER_MINUTE=LIMIT) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def request(**fields: Any) -> dict[str, Any]:
    return {"user_id": f"u{next(_numbers)}", "action": "x:read", "resource": "r", **fields}


async def statuses(
    http: aiohttp.ClientSession, requests: list[dict[str, Any]]
) -> list[tuple[int, dict[str, Any]]]:
    async def ask(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        async with http.post("/v1/authorize", json=body) as response:
            return response.status, await response.json(content_type=None)

    return await asyncio.gather(*map(ask, requests))


async def exhaust(http: aiohttp.ClientSession, *fields: dict[str, Any]) -> None:
    answers = await statuses(http, [request(**f) for f in fields for _ in range(LIMIT)])
    assert {status for status, _ in answers} == {200}


async def test_a_refusal_says_who_and_how_long(http: aiohttp.ClientSession) -> None:
    user = request()["user_id"]
    await exhaust(http, {"user_id": user})
    async with http.post("/v1/authorize", json=request(user_id=user)) as response:
        problem = await assert_problem(response, 429, "quota-exceeded")
        assert response.headers["Retry-After"] == str(problem["retry_after"])
    assert 0 < problem["retry_after"] <= 60
    assert problem["limit"] == problem["policy"] == "user"
    assert (problem["quota"], problem["window"]) == (LIMIT, 60)
    assert problem["violated-policies"] == ["user"]
    (state,) = problem["limits"]
    assert 0 < state.pop("reset") <= 60
    assert state == {
        "kind": "user",
        "limit": LIMIT,
        "remaining": 0,
        "window": 60,
        "policy": "user",
    }
    assert problem["decision_id"]


async def test_answers_tell_what_is_left(http: aiohttp.ClientSession) -> None:
    user = request()["user_id"]
    async with http.post("/v1/authorize", json=request(user_id=user, ip="::7")) as response:
        (of_user, of_ip) = (await response.json())["limits"]
        policies = {kind: {"q": LIMIT, "w": 60} for kind in ("user", "ip")}
        assert parse_list(response.headers["RateLimit-Policy"]) == policies
        assert parse_list(response.headers["RateLimit"]) == {
            "user": {"r": LIMIT - 1, "t": of_user["reset"]},
            "ip": {"r": LIMIT - 1, "t": of_ip["reset"]},
        }
        assert "Retry-After" not in response.headers
    batch = {"user_id": user, "questions": [{"action": "x:read", "resource": "r"}] * (LIMIT - 1)}
    async with http.post("/v1/authorize/batch", json=batch) as response:
        assert parse_list(response.headers["RateLimit"])["user"]["r"] == 0
    for path, body in (("", request(user_id=user, ip="::7")), ("/batch", batch)):
        async with http.post(f"/v1/authorize{path}", json=body) as response:
            problem = await assert_problem(response, 429, "quota-exceeded")
            # Only the limit that refuses: Retry-After must not end before a window beside it.
            assert parse_list(response.headers["RateLimit"]) == {
                "user": {"r": 0, "t": problem["retry_after"]}
            }
            assert "user" in parse_list(response.headers["RateLimit-Policy"])


async def test_what_they_tell_is_a_setting(tmp_path: Any) -> None:
    with SarkService(
        tmp_path,
        SARK_LIMIT_PER_MINUTE=1,
        SARK_RATELIMIT_HEADERS="refused",
        SARK_LEGACY_RATELIMIT_HEADERS="seconds",
    ) as service:
        async with http_client(service) as http:
            user = request()["user_id"]
            async with http.post("/v1/authorize", json=request(user_id=user)) as response:
                assert response.status == 200
                assert not [name for name in response.headers if "ratelimit" in name.lower()]
            async with http.post("/v1/authorize", json=request(user_id=user)) as response:
                problem = await assert_problem(response, 429, "quota-exceeded")
                assert response.headers["X-RateLimit-Limit"] == "1"
                assert response.headers["X-RateLimit-Remaining"] == "0"
                assert response.headers["X-RateLimit-Reset"] == str(problem["retry_after"])
            async with http.get("/openapi.json") as response:
                document = await response.json()
    responses = document["paths"]["/v1/authorize"]["post"]["responses"]
    assert responses["200"]["headers"] == {}
    assert {"Retry-After", "RateLimit", "X-RateLimit-Reset"} <= responses["429"]["headers"].keys()


async def test_the_document_tells_of_them(http: aiohttp.ClientSession) -> None:
    async with http.get("/openapi.json") as response:
        document = await response.json()
    for path in ("/v1/authorize", "/v1/authorize/batch"):
        responses = document["paths"][path]["post"]["responses"]
        assert [*responses["200"]["headers"]] == ["RateLimit-Policy", "RateLimit"]
        assert [*responses["429"]["headers"]] == ["Retry-After", "RateLimit-Policy", "RateLimit"]
    problem = document["components"]["schemas"]["Problem"]["properties"]
    assert {"policy", "quota", "window", "violated-policies"} <= problem.keys()


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("ip", "ip", "2001:db8::5"), ("apikey", "api_key_id", "shared")],
)
async def test_ip_and_api_key_have_limits_of_their_own(
    http: aiohttp.ClientSession, kind: str, field: str, value: str
) -> None:
    await exhaust(http, {field: value})
    user = request()["user_id"]
    async with http.post("/v1/authorize", json=request(user_id=user, **{field: value})) as response:
        problem = await assert_problem(response, 429, "quota-exceeded")
    assert problem["limit"] == kind
    assert [state["kind"] for state in problem["limits"]] == ["user", kind]
    # The refused request charged nobody.
    ((status, answer),) = await statuses(http, [request(user_id=user)])
    assert (status, answer["limits"][0]["remaining"]) == (200, LIMIT - 1)


async def test_limits_are_exact_for_concurrent_requests(http: aiohttp.ClientSession) -> None:
    user = request()["user_id"]
    answers = await statuses(http, [request(user_id=user) for _ in range(40)])
    assert Counter(status for status, _ in answers) == {200: LIMIT, 429: 40 - LIMIT}
    remaining = sorted(a["limits"][0]["remaining"] for status, a in answers if status == 200)
    assert remaining == list(range(LIMIT))


async def test_refusals_are_recorded_once(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    user, before = request()["user_id"], len(service.events())
    answers = await statuses(http, [request(user_id=user) for _ in range(40)])
    events = service.events()[before:]
    refusals = [event for event in events if event["type"] == "refusal"]
    assert len(events) == LIMIT + 1
    assert [(event["user_id"], event["reason"]) for event in refusals] == [
        (user, "rate_limit:user")
    ]
    assert refusals[0]["allow"] is False
    assert {a["decision_id"] for status, a in answers if status == 429} == {refusals[0]["id"]}


async def test_limits_can_be_off(service: SarkService, tmp_path: Any) -> None:
    with SarkService(tmp_path, SARK_LIMIT_PER_MINUTE=0) as unlimited:
        assert "limits       off" in unlimited.stdout
        async with http_client(unlimited) as http:
            answers = await statuses(http, [request(user_id="u", ip="::1") for _ in range(50)])
    assert {status for status, _ in answers} == {200}
    assert {len(answer["limits"]) for _, answer in answers} == {0}


async def test_a_full_queue_refuses_without_answering(tmp_path: Any) -> None:
    with SarkService(tmp_path, SARK_SIEM_MAX_EVENTS=3, SARK_SPILL_MAX_BYTES=0) as service:
        async with http_client(service) as http:
            answers = await statuses(http, [request() for _ in range(10)])
            assert Counter(status for status, _ in answers) == {200: 3, 503: 7}
            async with http.post("/v1/authorize", json=request()) as response:
                problem = await assert_problem(response, 503, "audit-queue-full")
                assert response.headers["Retry-After"] == str(problem["retry_after"]) == "5"
            assert "allow" not in problem
            async with http.get("/health/ready") as response:
                assert response.status == 503
                report = await response.json()
        (full,) = [check for check in report["checks"] if not check["ok"]]
        assert (full["part"], full["detail"].split(",")[0]) == ("audit queue", "3 of 3 events")
        assert len(service.events()) == 3


async def test_only_trusted_callers_see_limits_that_are_being_tried(tmp_path: Path) -> None:
    rules = tmp_path / "limits.toml"
    rules.write_text(
        '[rules.tried]\nkind = "user"\nlimits = ["1/hour"]\nshadow = true\ncontinue = true\n'
    )
    environ = {"SARK_LIMITS_FILE": str(rules), "SARK_SERVICE_TOKEN": SERVICE_TOKEN}
    question = {"action": "x:read", "resource": "r"}
    batch = {"questions": [question, question]}
    with SarkService(tmp_path / "service", **environ) as service:
        async with http_client(service) as http:
            grant = await issue(http)
            user = bearer(grant["access_token"])
            found = {}
            for who, headers, more in (
                ("user", user, {}),
                ("trusted", TRUSTED, {"user_id": "ann"}),
            ):
                _, answer = await call(http, "POST", "/v1/authorize", headers, {**question, **more})
                _, many = await call(
                    http, "POST", "/v1/authorize/batch", headers, {**batch, **more}
                )
                found[who] = [
                    [limit["policy"] for limit in each["limits"] if limit["kind"] == "user"]
                    for each in (answer, *many["answers"])
                ]
    assert found == {"user": [["user"]] * 3, "trusted": [["tried", "user"]] * 3}
