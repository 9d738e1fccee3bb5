"""Credentials: who may ask, who may look, and that no token ever shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from pydantic import SecretStr

from sark.http.credentials import Credential, bearer_of
from tests.support.service import SarkService, assert_problem, http_client

ADMIN = "admin-token-3f9c2a7be1d04856"
CALLER = "caller-token-b7d1e80a49c62f35"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - meant
REQUEST = {"user_id": "u", "action": "x:read", "resource": "r"}
WRONG = ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {CALLER}", CALLER, f"Bearer {CALLER}x"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    tokens = {"SARK_ADMIN_TOKEN": ADMIN, "SARK_SERVICE_TOKEN": CALLER}
    with SarkService(directory, SARK_LOG_LEVEL="debug", **tokens) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_the_service_token_opens(http: aiohttp.ClientSession) -> None:
    for headers in (bearer(CALLER), {"authorization": f"bearer {CALLER}"}):
        async with http.post("/v1/authorize", json=REQUEST, headers=headers) as response:
            assert response.status == 200


@pytest.mark.parametrize("authorization", [*WRONG, f"Bearer {ADMIN}"])
async def test_callers_without_it_are_refused(
    http: aiohttp.ClientSession, authorization: str
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    async with http.post("/v1/authorize", json=REQUEST, headers=headers) as response:
        problem = await assert_problem(response, 401, "unauthenticated")
        challenge = response.headers["WWW-Authenticate"]
    assert problem["decision_id"]
    # RFC 6750, section 3: no error code for a request that brought no token.
    brought_token = authorization.startswith("Bearer ") and authorization != "Bearer "
    expected = 'Bearer realm="sark"' + (', error="invalid_token"' if brought_token else "")
    assert challenge == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/authorize"),
        ("POST", "/v1/authorize/batch"),
        ("POST", "/v1/sessions"),
        ("POST", "/v1/sessions/refresh"),
        ("GET", "/v1/sessions/current"),
        ("DELETE", "/v1/users/u/sessions"),
        ("GET", "/v1/status"),
    ],
)
async def test_several_credentials_are_refused(
    http: aiohttp.ClientSession, method: str, path: str
) -> None:
    given = [bearer(CALLER), bearer(ADMIN), bearer("wrong")]
    for first in given:
        for second in given:
            headers = CIMultiDict([*first.items(), *second.items()])
            body = {**REQUEST, "refresh_token": "x"} if method == "POST" else None
            if path.endswith("refresh"):
                body = {"refresh_token": "x"}
            async with http.request(method, path, json=body, headers=headers) as response:
                await assert_problem(response, 400, "malformed")


async def test_refused_before_the_body_is_looked_at(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/authorize", data=b"not json") as response:
        await assert_problem(response, 401, "unauthenticated")


@pytest.mark.parametrize(
    "authorization", ["", "Bearer wrong", f"Bearer {CALLER}", f"Basic {ADMIN}"]
)
async def test_the_status_is_for_administrators(
    http: aiohttp.ClientSession, authorization: str
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    async with http.get("/v1/status", headers=headers) as response:
        await assert_problem(response, 401, "unauthenticated")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_the_admin_token_opens(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/status", headers=bearer(ADMIN)) as response:
        assert response.status == 200
        status: dict[str, Any] = await response.json()
    assert status["readiness"]["ready"] is True
    assert status["servers"][0]["role"] == "state and cache"
    assert status["queue"]["accepted"] == status["queue"]["queued"]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json"])
async def test_operations_need_no_credential(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as response:
        assert response.status == 200


async def test_refusals_are_recorded_once_whatever_the_caller_says(tmp_path: Path) -> None:
    with SarkService(tmp_path, SARK_SERVICE_TOKEN=CALLER) as service:
        async with http_client(service) as http:
            ids = set()
            for number in range(30):
                # Nobody becomes someone else, with a refusal of his own, by saying so.
                headers = {"X-Forwarded-For": f"192.0.2.{number}", **bearer(f"guess-{number}")}
                async with http.post("/v1/authorize", json=REQUEST, headers=headers) as response:
                    problem = await assert_problem(response, 401, "unauthenticated")
                    ids.add(problem["decision_id"])
        (event,) = service.events()
        assert ids == {event["id"]}
        assert (event["type"], event["reason"]) == ("refusal", "unauthenticated")
        assert (event["ip"], event["action"]) == ("127.0.0.1", "/v1/authorize")


async def test_tokens_never_show(service: SarkService, http: aiohttp.ClientSession) -> None:
    shown = [service.stdout, service.stderr]
    for path in ("/metrics", "/health/ready", "/v1/status", "/openapi.json"):
        async with http.get(path, headers=bearer(ADMIN)) as response:
            shown.append(await response.text())
    async with http.post("/v1/authorize", json=REQUEST, headers=bearer(CALLER + "x")) as response:
        shown.append(await response.text())
    shown.append(str(service.events()))
    password = service.run_file["valkey_url"].split(":")[2].split("@")[0]
    for text in shown:
        for secret in (ADMIN, CALLER, password):
            assert secret not in text


async def test_without_admin_token_admin_routes_are_closed(valkey_url: str, tmp_path: Path) -> None:
    with SarkService(tmp_path, VALKEY_URL=valkey_url) as service:
        assert "routes are closed: SARK_ADMIN_TOKEN is not set" in service.stdout
        async with http_client(service) as http:
            for headers in ({}, bearer(""), bearer("x"), bearer("None")):
                async with http.get("/v1/status", headers=headers) as response:
                    problem = await assert_problem(response, 403, "forbidden")
                    assert "SARK_ADMIN_TOKEN" in problem["detail"]
                async with http.post(
                    "/v1/sessions", json={"user_id": "u"}, headers=headers
                ) as response:
                    problem = await assert_problem(response, 403, "forbidden")
                    assert "SARK_SERVICE_TOKEN" in problem["detail"]


@pytest.fixture
def valkey_url(server: Any) -> str:
    return str(server.url)


async def test_a_service_for_others_starts_when_that_is_wanted(tmp_path: Path) -> None:
    """It generates an admin token, which it shows once, and which opens."""
    with SarkService(tmp_path, SARK_HOST=EVERYWHERE, SARK_ALLOW_ANONYMOUS="true") as service:
        assert service.stdout.count(service.run_file["admin_token"]) == 1
        assert service.run_file["admin_token"] not in service.stderr
        async with http_client(f"http://127.0.0.1:{service.port}") as http:
            async with http.get("/v1/status", headers=service.admin) as response:
                assert response.status == 200
            async with http.get("/v1/status") as response:
                await assert_problem(response, 401, "unauthenticated")


class TestCredential:
    def test_it_matches_only_itself(self) -> None:
        credential = Credential(SecretStr("secret"))
        assert credential.is_set
        assert credential.matches("secret")
        for other in ("", "Secret", "secret ", "secre", "secrets", "\x00", "\udc80", "é"):
            assert not credential.matches(other)
        assert not credential.matches(None)

    def test_without_a_token_nothing_matches(self) -> None:
        credential = Credential(None)
        assert not credential.is_set
        for given in (None, "", "None"):
            assert not credential.matches(given)

    def test_it_keeps_no_token(self) -> None:
        credential = Credential(SecretStr("secret"))
        assert not hasattr(credential, "__dict__")
        assert "secret" not in repr(credential)
        assert b"secret" not in (credential._digest or b"")

    def test_it_compares_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared: list[tuple[bytes, bytes]] = []

        def spy(a: bytes, b: bytes) -> bool:
            compared.append((a, b))
            return a == b

        monkeypatch.setattr("hmac.compare_digest", spy)
        credential = Credential(SecretStr("secret"))
        for given in ("secret", "s", "x" * 10_000):
            credential.matches(given)
        assert {len(value) for pair in compared for value in pair} == {32}
        assert len(compared) == 3

    @pytest.mark.parametrize(
        ("header", "token"),
        [
            (None, None),
            ("", None),
            ("Bearer", None),
            ("Bearer  ", None),
            ("Bearertoken", None),
            ("Basic token", None),
            ("Bearer token", "token"),
            ("bEARER   token ", "token"),
            ("Bearer two words", "two words"),
        ],
    )
    def test_bearer_of(self, header: str | None, token: str | None) -> None:
        assert bearer_of(header) == token
