"""``POST /v1/authorize`` with users' access tokens: honest ones, and attacks."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sark.sessions.tokens import KeyFile
from sark.sessions.tokens.keys import SigningKey
from tests.support.http_sessions import (
    QUESTION,
    SERVICE_TOKEN,
    TRUSTED,
    ask,
    bearer,
    call,
    issue,
)
from tests.support.service import SarkService, assert_problem, http_client
from tests.support.tokens import decode, encode, parts, sign

BATCH = "/v1/authorize/batch"
QUESTIONS = {"questions": [QUESTION, {**QUESTION, "resource": "other"}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(
        directory, SARK_SERVICE_TOKEN=SERVICE_TOKEN, SARK_LIMIT_PER_MINUTE=100_000
    ) as running:
        yield running
        assert [line for line in running.logs if line["level"] == "error"] == []


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


@pytest.fixture
async def grant(http: aiohttp.ClientSession) -> dict[str, Any]:
    return await issue(http, "ann")


def last_event(service: SarkService, decision_id: str) -> dict[str, Any]:
    (event,) = [each for each in service.events() if each["id"] == decision_id]
    return event


# Honest callers


async def test_a_user_asks_for_themselves(
    service: SarkService, http: aiohttp.ClientSession, grant: dict[str, Any]
) -> None:
    headers = {**bearer(grant["access_token"]), "User-Agent": "app/1"}
    for named in ({}, {"user_id": "ann"}):
        body = {**QUESTION, **named, "ip": "192.0.2.1", "user_agent": "pretended"}
        status, answer = await call(http, "POST", "/v1/authorize", headers, body)
        assert (status, answer["allow"]) == (200, True)
        assert [window["kind"] for window in answer["limits"]] == ["user", "ip"]
        event = last_event(service, answer["decision_id"])
        # The address is the connection's, whatever the body says.
        assert (event["user_id"], event["ip"]) == ("ann", "127.0.0.1")


async def test_a_trusted_caller_asks_with_a_users_token(
    service: SarkService, http: aiohttp.ClientSession, grant: dict[str, Any]
) -> None:
    body = {**QUESTION, "access_token": grant["access_token"], "ip": "192.0.2.1"}
    status, answer = await call(http, "POST", "/v1/authorize", TRUSTED, body)
    assert (status, answer["allow"]) == (200, True)
    event = last_event(service, answer["decision_id"])
    assert (event["user_id"], event["ip"]) == ("ann", "192.0.2.1")
    status, problem = await call(
        http, "POST", "/v1/authorize", TRUSTED, {**body, "access_token": "a.b.c"}
    )
    assert (status, problem["code"]) == (401, "malformed")
    wrong: Any
    for wrong in ("", 7, {}, "\x00", "é" * 10):
        status, _ = await call(
            http, "POST", "/v1/authorize", TRUSTED, {**body, "access_token": wrong}
        )
        assert status == (401 if isinstance(wrong, str) else 422)


async def test_a_batch_of_a_user(http: aiohttp.ClientSession, grant: dict[str, Any]) -> None:
    status, found = await call(http, "POST", BATCH, bearer(grant["access_token"]), QUESTIONS)
    assert (status, len(found["answers"])) == (200, 2)
    body = {**QUESTIONS, "access_token": grant["access_token"]}
    assert (await call(http, "POST", BATCH, TRUSTED, body))[0] == 200


@pytest.mark.parametrize("path", ["/v1/authorize", BATCH])
async def test_nobody_asks_as_another_user(
    service: SarkService, http: aiohttp.ClientSession, grant: dict[str, Any], path: str
) -> None:
    body = {**(QUESTION if path == "/v1/authorize" else QUESTIONS), "user_id": "bob"}
    async with http.post(path, json=body, headers=bearer(grant["access_token"])) as response:
        problem = await assert_problem(response, 403, "other-user")
        assert "WWW-Authenticate" not in response.headers
    event = last_event(service, problem["decision_id"])
    assert (event["type"], event["user_id"], event["reason"]) == ("refusal", "ann", "session:user")
    status, _ = await call(
        http, "POST", path, TRUSTED, {**body, "access_token": grant["access_token"]}
    )
    assert status == 403


@pytest.mark.parametrize("path", ["/v1/authorize", BATCH])
@pytest.mark.parametrize("name", ["access_token", "api_key_id"])
async def test_users_cannot_say_what_only_trusted_callers_may(
    http: aiohttp.ClientSession, grant: dict[str, Any], path: str, name: str
) -> None:
    body = {**(QUESTION if path == "/v1/authorize" else QUESTIONS), name: grant["access_token"]}
    async with http.post(path, json=body, headers=bearer(grant["access_token"])) as response:
        await assert_problem(response, 422, "invalid-request", field=name)


async def test_a_user_has_to_be_named_somewhere(http: aiohttp.ClientSession) -> None:
    for path, body in (("/v1/authorize", QUESTION), (BATCH, QUESTIONS)):
        async with http.post(path, json=body, headers=TRUSTED) as response:
            await assert_problem(response, 422, "invalid-request", field="user_id")


async def test_bad_requests_of_users_are_not_recorded(
    service: SarkService, http: aiohttp.ClientSession, grant: dict[str, Any]
) -> None:
    before = len(service.events())
    for token in (grant["access_token"], "a.b.c"):
        async with http.post(
            "/v1/authorize", json={**QUESTION, "action": ""}, headers=bearer(token)
        ) as response:
            await assert_problem(response, 422, "invalid-request", field="action")
        async with http.post(
            "/v1/authorize",
            data=b"{",
            headers={**bearer(token), "Content-Type": "application/json"},
        ) as response:
            await assert_problem(response, 400, "malformed")
    assert len(service.events()) == before


async def test_without_a_service_token_a_wrong_bearer_token_is_still_refused(
    tmp_path: Path,
) -> None:
    with SarkService(tmp_path) as service:
        async with http_client(service) as http:
            grant = await issue(http, headers=service.admin)
            body = {**QUESTION, "user_id": "ann"}
            anonymous: list[dict[str, str]] = [{}, {"Authorization": "Basic x"}, bearer("")]
            for headers in anonymous:
                assert (await call(http, "POST", "/v1/authorize", headers, body))[0] == 200
            with_token = {**body, "access_token": grant["access_token"]}
            assert (await call(http, "POST", "/v1/authorize", None, with_token))[0] == 200
            assert (await ask(http, grant["access_token"]))[0] == 200
            for headers in (bearer("guess"), bearer("a.b.c"), service.admin):
                async with http.post("/v1/authorize", json=body, headers=headers) as response:
                    await assert_problem(response, 401, "unauthenticated")
                    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


# Attacks

Forge = Callable[[str, SigningKey], str]


def forged(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Forge:
    """Change a token, and sign it with the right key."""

    def forge(token: str, key: SigningKey) -> str:
        header, payload = parts(token)
        change(header, payload)
        return sign(key, header, payload)

    return forge


def put(member: str, value: Any) -> Forge:
    return forged(lambda _, payload: payload.update({member: value}))


def head(member: str, value: Any) -> Forge:
    return forged(lambda header, _: header.update({member: value}))


def altered(token: str, _: SigningKey) -> str:
    header, payload, signature = token.split(".")
    said = {**json.loads(decode(payload)), "sub": "admin"}
    return ".".join([header, encode(json.dumps(said).encode()), signature])


def unsigned(token: str, _: SigningKey) -> str:
    header, payload = parts(token)
    spelled = (json.dumps(part).encode() for part in ({**header, "alg": "none"}, payload))
    return ".".join([*(encode(part) for part in spelled), ""])


def confused(token: str, key: SigningKey) -> str:
    """Sign with HS256, and the public key as its secret."""
    header, payload = parts(token)
    spelled = (json.dumps(part).encode() for part in ({**header, "alg": "HS256"}, payload))
    signed = ".".join(encode(part) for part in spelled)
    secret = decode(key.public_jwk["x"])
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def twice(token: str, key: SigningKey) -> str:
    header, payload = parts(token)
    text = json.dumps(payload)[:-1] + ', "sub": "admin"}'
    return sign(key, header, text.encode())


NOW = int(time.time())
ATTACKS: dict[str, tuple[Forge, str]] = {
    "altered payload": (altered, "signature"),
    "cut signature": (lambda token, _: token[:-2], "signature"),
    "another key": (
        lambda token, _: sign(SigningKey.generate("EdDSA"), *parts(token)),
        "signature",
    ),
    "none": (unsigned, "algorithm"),
    "HS256 with the public key": (confused, "algorithm"),
    "issuer": (put("iss", "https://elsewhere"), "issuer"),
    "audience": (put("aud", "others"), "audience"),
    "expired": (
        forged(lambda _, said: said.update({"iat": NOW - 9000, "exp": NOW - 8000})),
        "expired",
    ),
    "not yet valid": (
        forged(lambda _, said: said.update({"iat": NOW + 8000, "exp": NOW + 9000})),
        "not_yet_valid",
    ),
    "unknown kid": (head("kid", "other"), "unknown_key"),
    "kid as a path": (head("kid", "../../../../etc/passwd"), "unknown_key"),
    "kid as SQL": (head("kid", "' OR 1=1 --"), "unknown_key"),
    "key brought along": (head("jwk", {"kty": "OKP"}), "header"),
    "critical extension": (head("crit", ["b64"]), "header"),
    "type": (head("typ", "JWT"), "type"),
    "duplicate claims": (twice, "malformed"),
    "no subject": (forged(lambda _, said: said.pop("sub")), "claims"),
    "a session of nobody": (put("sid", "01999999-0000-7000-8000-000000000000"), "ended"),
    "another user's session": (put("sub", "bob"), "ended"),
    "a token that was never issued": (put("jti", "other"), "revoked"),
    "unicode user": (put("sub", "用户-☃"), "ended"),
    "a lone surrogate": (put("sub", "\ud800"), "claims"),
    "invalid base64": (lambda token, _: token.replace(".", ".!", 1), "malformed"),
    "bytes": (lambda token, _: token[:-1] + "é", "malformed"),
    "nothing between dots": (lambda *_: "..", "malformed"),
    "1 MB": (lambda token, _: token + "A" * 1_000_000, "too_long"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attacks_are_refused_with_a_reason(
    service: SarkService, http: aiohttp.ClientSession, grant: dict[str, Any], attack: str
) -> None:
    forge, code = ATTACKS[attack]
    key = KeyFile(service.directory / "keys").read().active.key
    token = forge(grant["access_token"], key)
    asked: list[tuple[str, str, Any, Any]] = [
        ("POST", "/v1/authorize", bearer(token), QUESTION),
        ("POST", BATCH, bearer(token), QUESTIONS),
        ("GET", "/v1/sessions/current", bearer(token), None),
        ("GET", "/v1/users/ann/sessions", bearer(token), None),
    ]
    if len(token) < 60_000:
        body = {**QUESTION, "access_token": token}
        asked.append(("POST", "/v1/authorize", TRUSTED, body))
    for method, path, headers, body in asked:
        # Sent as Latin-1, which is what bytes in a header are to the service.
        async with http.request(method, path, json=body, headers=headers) as response:
            problem = await assert_problem(response, 401, "unauthenticated")
            challenge = response.headers["WWW-Authenticate"]
        assert problem["code"] == code, (path, problem)
        assert problem["decision_id"]
        assert challenge.startswith('Bearer realm="sark", error="invalid_token", error_desc')
        assert token not in str(problem) + challenge
    assert (await ask(http, grant["access_token"]))[0] == 200


async def test_what_looks_like_nothing_known(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    for token in ("x", "a.b", "a.b.c.d", "A" * 1_000_000, "\xff", '"'):
        async with http.post("/v1/authorize", json=QUESTION, headers=bearer(token)) as response:
            problem = await assert_problem(response, 401, "unauthenticated")
            assert response.headers["WWW-Authenticate"] == (
                'Bearer realm="sark", error="invalid_token"'
            )
        event = last_event(service, problem["decision_id"])
        assert (event["reason"], event["ip"]) == ("unauthenticated", "127.0.0.1")


async def test_a_flood_of_bad_tokens_is_few_events(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    before = len(service.events())
    for number in range(50):
        assert (await ask(http, f"a.{number}.c"))[0] == 401
        assert (await ask(http, f"guess-{number}"))[0] == 401
    # Unless their minutes have begun with another test, one for each reason; and what closes them.
    assert len(service.events()) - before <= 4
