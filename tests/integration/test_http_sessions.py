"""Sessions over HTTP: who may begin, refresh, see and end them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.support.http_sessions import SERVICE_TOKEN, TRUSTED, ask, bearer, call, issue
from tests.support.service import SarkService, assert_problem, http_client
from tests.support.sessions import BROWSER

REFRESH = "/v1/sessions/refresh"
CURRENT = "/v1/sessions/current"
CAP = 3
# This machine's own network, where the tests' requests come from.
HOME = {"ip": "127.0.0.9", "user_agent": BROWSER}
MINE = {"User-Agent": BROWSER}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(
        directory, SARK_SERVICE_TOKEN=SERVICE_TOKEN, SARK_LIMIT_PER_MINUTE=0
    ) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    """A service that binds sessions, refuses logins beyond the cap, grants no grace, and believes
    no user's context."""
    with SarkService(
        tmp_path_factory.mktemp("strict"),
        SARK_SERVICE_TOKEN=SERVICE_TOKEN,
        SARK_SESSION_BIND="both",
        SARK_USER_CONTEXT="false",
        SARK_SESSION_CAP=CAP,
        SARK_SESSION_CAP_POLICY="refuse",
        SARK_REFRESH_GRACE=0,
    ) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def events_of(service: SarkService, user_id: str) -> list[tuple[str, ...]]:
    """What was recorded of a user: type, action, resource and reason."""
    return [
        tuple(event[name] for name in ("type", "action", "resource", "reason"))
        for event in service.events()
        if event["user_id"] == user_id
    ]


async def refresh(
    http: aiohttp.ClientSession, token: str, headers: dict[str, str] | None = None, **fields: Any
) -> tuple[int, dict[str, Any]]:
    return await call(http, "POST", REFRESH, headers, {"refresh_token": token, **fields})


# Beginning


async def test_a_trusted_caller_begins_a_session(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    body = {
        "user_id": "ann",
        "client_id": "web",
        "ip": "192.0.2.7",
        "user_agent": BROWSER,
        "tier": "gold",
    }
    async with http.post("/v1/sessions", json=body, headers=TRUSTED) as response:
        assert response.status == 201
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Pragma"] == "no-cache"
        grant = await response.json()
    assert grant.keys() == {
        "access_token",
        "token_type",
        "expires_in",
        "refresh_token",
        "user_id",
        "session_id",
        "session_expires_at",
    }
    assert (grant["token_type"], grant["expires_in"], grant["user_id"]) == ("Bearer", 900, "ann")
    async with http.get(CURRENT, headers=bearer(grant["access_token"])) as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        session = await response.json()
    assert session["session_id"] == grant["session_id"]
    assert (session["client_id"], session["tier"]) == ("web", "gold")
    assert (session["ip"], session["user_agent"]) == ("192.0.2.7", "Edg/126, Windows NT 10.0")
    assert session["expires_at"] == grant["session_expires_at"]
    assert events_of(service, "ann") == [
        ("session", "session:create", grant["session_id"], "by service")
    ]


async def test_an_administrator_may_begin_one_too(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    grant = await issue(http, "admin's", headers=service.admin)
    assert (await ask(http, grant["access_token"]))[0] == 200
    assert events_of(service, "admin's")[0][3] == "by admin"


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"Authorization": "Basic x"}])
async def test_nobody_else_may(http: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    # Not even looked at: the body.
    async with http.post("/v1/sessions", data=b"{", headers=headers) as response:
        problem = await assert_problem(response, 401, "unauthenticated")
        challenge = response.headers["WWW-Authenticate"]
    assert problem["decision_id"]
    assert ('error="invalid_token"' in challenge) == (headers == bearer("wrong"))


async def test_a_user_may_not(http: aiohttp.ClientSession) -> None:
    grant = await issue(http)
    async with http.post(
        "/v1/sessions", json={"user_id": "ann"}, headers=bearer(grant["access_token"])
    ) as response:
        await assert_problem(response, 401, "unauthenticated")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "u" * 257}, "user_id"),
        ({"user_id": 7}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"user_id": "u", "client_id": "c" * 257}, "client_id"),
        ({"user_id": "u", "tier": "t" * 65}, "tier"),
        ({"user_id": "u", "ip": "nowhere"}, "ip"),
        ({"user_id": "u", "user_agent": "a" * 4097}, "user_agent"),
        ({"user_id": "u", "password": "p"}, "password"),
    ],
    ids=str,
)
async def test_what_is_unusable_is_named(
    http: aiohttp.ClientSession, body: dict[str, Any], field: str
) -> None:
    async with http.post("/v1/sessions", json=body, headers=TRUSTED) as response:
        await assert_problem(response, 422, "invalid-request", field=field)


@pytest.mark.parametrize("path", ["/v1/sessions", REFRESH])
async def test_bodies_that_are_none(http: aiohttp.ClientSession, path: str) -> None:
    json = {**TRUSTED, "Content-Type": "application/json"}
    async with http.post(path, data=b"{", headers=json) as response:
        await assert_problem(response, 400, "malformed")
    async with http.post(path, data=b"a=b", headers=TRUSTED) as response:
        await assert_problem(response, 415, "unsupported-media")
    async with http.post(path, data=b"x" * 70_000, headers=json) as response:
        await assert_problem(response, 413, "body-too-large")


async def test_a_login_beyond_the_cap_is_refused(strict: SarkService) -> None:
    async with http_client(strict) as http:
        for _ in range(CAP):
            await issue(http, "crowd", **HOME)
        body = {"user_id": "crowd", **HOME}
        async with http.post("/v1/sessions", json=body, headers=TRUSTED) as response:
            problem = await assert_problem(response, 409, "session-cap")
        assert problem["code"] == "cap"
        await issue(http, "other", **HOME)
    assert events_of(strict, "crowd")[-1] == ("refusal", "session:create", "", "session:cap")


# Refreshing


async def test_a_refresh_token_is_traded(http: aiohttp.ClientSession) -> None:
    grant = await issue(http)
    body = {"refresh_token": grant["refresh_token"]}
    async with http.post(REFRESH, json=body) as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Pragma"] == "no-cache"
        successor = await response.json()
    assert successor.keys() == grant.keys()
    assert successor["session_id"] == grant["session_id"]
    assert successor["refresh_token"] != grant["refresh_token"]
    assert successor["access_token"] != grant["access_token"]
    assert (await ask(http, successor["access_token"]))[0] == 200
    # Within the grace, whoever lost the answer is given it again; other headers don't matter.
    assert await refresh(http, grant["refresh_token"], bearer("expired.or.other")) == (
        200,
        successor,
    )


@pytest.mark.parametrize("token", ["", "r1.x.y.0.z", "x" * 5000, "é" * 20, "a.b.c"])
async def test_what_is_no_refresh_token(http: aiohttp.ClientSession, token: str) -> None:
    async with http.post(REFRESH, json={"refresh_token": token}) as response:
        problem = await assert_problem(response, 401, "unauthenticated")
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert problem["code"] == "invalid"
    assert problem["decision_id"]
    assert len(token) < 8 or token not in str(problem)


async def test_an_access_token_is_no_refresh_token(http: aiohttp.ClientSession) -> None:
    grant = await issue(http)
    assert (await refresh(http, grant["access_token"]))[0] == 401
    assert (await ask(http, grant["refresh_token"]))[0] == 401
    assert (await ask(http, grant["access_token"]))[0] == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "refresh_token"), ({"refresh_token": 1}, "refresh_token"), ({"token": "x"}, "token")],
    ids=str,
)
async def test_a_refresh_without_its_token(
    http: aiohttp.ClientSession, body: dict[str, Any], field: str
) -> None:
    async with http.post(REFRESH, json=body) as response:
        problem = await response.json()
    assert (response.status, problem["field"] in {field, "refresh_token"}) == (422, True)


async def test_reuse_ends_the_session_and_each_is_an_event(strict: SarkService) -> None:
    asked = {"action": "x:read", "resource": "r"}
    async with http_client(strict) as http:
        copied = [await issue(http, "copied", **HOME) for _ in range(CAP)]
        for grant in copied:
            status, successor = await refresh(http, grant["refresh_token"], MINE)
            assert status == 200
            status, problem = await refresh(http, grant["refresh_token"], MINE)
            assert (status, problem["code"]) == (401, "refresh_reused")
            for token in (grant["access_token"], successor["access_token"]):
                headers = {**MINE, **bearer(token)}
                found = await call(http, "POST", "/v1/authorize", headers, asked)
                assert found[1]["code"] == "ended"
            found = await refresh(http, successor["refresh_token"], MINE)
            assert found[1]["code"] == "ended"
    recorded = events_of(strict, "copied")
    for grant in copied:
        reuse = ("refusal", "session:refresh", grant["session_id"], "session:refresh_reused")
        assert recorded.count(reuse) == 1
    warnings = [line for line in strict.logs if line["level"] == "warning"]
    assert {line["session_id"] for line in warnings} == {g["session_id"] for g in copied}


# The current session


async def test_logging_out_ends_the_current_session_alone(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    first, second = [await issue(http, "leaver") for _ in range(2)]
    assert (await ask(http, first["access_token"]))[0] == 200
    status, ended = await call(http, "DELETE", CURRENT, bearer(first["access_token"]))
    assert (status, ended["ended"]) == (200, [first["session_id"]])
    assert ended["freshness"].startswith("user.")
    status, problem = await ask(http, first["access_token"])
    assert (status, problem["code"]) == (401, "ended")
    assert (await refresh(http, first["refresh_token"]))[0] == 401
    assert (await call(http, "DELETE", CURRENT, bearer(first["access_token"])))[0] == 401
    # A later answer for the other session rests on nothing from before.
    status, answer = await ask(http, second["access_token"], freshness=ended["freshness"])
    assert (status, answer["cached"]) == (200, False)
    assert ("session", "session:revoke", first["session_id"], "by user") in events_of(
        service, "leaver"
    )


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_current_session_needs_its_token(
    service: SarkService, http: aiohttp.ClientSession, method: str
) -> None:
    for headers, challenge in [
        ({}, 'Bearer realm="sark"'),
        ({"Authorization": "Basic x"}, 'Bearer realm="sark"'),
        (bearer("nonsense"), None),
        (TRUSTED, None),
        (service.admin, None),
    ]:
        async with http.request(method, CURRENT, headers=headers) as response:
            problem = await assert_problem(response, 401, "unauthenticated")
            given = response.headers["WWW-Authenticate"]
        assert problem["decision_id"]
        assert "a user's access token" in problem["detail"]
        assert given == challenge if challenge else 'error="invalid_token"' in given


# A user's sessions


async def test_a_user_lists_and_ends_their_own(http: aiohttp.ClientSession) -> None:
    grants = [await issue(http, "own") for _ in range(4)]
    me = bearer(grants[0]["access_token"])
    ids = [grant["session_id"] for grant in grants]
    status, found = await call(http, "GET", "/v1/users/own/sessions", me)
    assert (status, [each["session_id"] for each in found["sessions"]]) == (200, ids[::-1])
    one = f"/v1/users/own/sessions/{ids[1]}"
    assert (await call(http, "GET", one, me))[1]["session_id"] == ids[1]
    status, ended = await call(http, "DELETE", one, me)
    assert (status, ended["ended"]) == (200, [ids[1]])
    status, again = await call(http, "DELETE", one, me)
    assert (status, again["ended"]) == (200, [])
    assert (await call(http, "GET", one, me))[0] == 404
    status, ended = await call(http, "DELETE", f"/v1/users/own/sessions?except={ids[0]}", me)
    assert (status, set(ended["ended"])) == (200, set(ids[2:]))
    status, ended = await call(http, "DELETE", "/v1/users/own/sessions", me)
    assert (status, ended["ended"]) == (200, ids[:1])
    assert (await call(http, "GET", "/v1/users/own/sessions", me))[1]["code"] == "ended"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_nobody_reaches_anothers(
    service: SarkService, http: aiohttp.ClientSession, method: str
) -> None:
    victim, other = await issue(http, "victim"), await issue(http, "victi")
    one = f"/v1/users/victim/sessions/{victim['session_id']}"
    for path in ("/v1/users/victim/sessions", one, f"{one[: -len(victim['session_id'])]}x"):
        async with http.request(method, path, headers=bearer(other["access_token"])) as response:
            problem = await assert_problem(response, 403, "other-user")
            assert problem["decision_id"]
        for headers in ({}, bearer("x"), {"Authorization": "Basic x"}):
            async with http.request(method, path, headers=headers) as response:
                problem = await assert_problem(response, 401, "unauthenticated")
            assert "the admin or service token, or the user's access token" in problem["detail"]
    assert (await ask(http, victim["access_token"]))[0] == 200


async def test_an_administrator_sees_and_ends_anybodys(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    grants = [await issue(http, "managed") for _ in range(3)]
    path, admin = "/v1/users/managed/sessions", service.admin
    assert len((await call(http, "GET", path, admin))[1]["sessions"]) == 3
    one = f"{path}/{grants[0]['session_id']}"
    assert (await call(http, "GET", one, admin))[0] == 200
    assert (await call(http, "DELETE", one, admin))[1]["ended"] == [grants[0]["session_id"]]
    assert len((await call(http, "DELETE", path, admin))[1]["ended"]) == 2
    for grant in grants:
        assert (await ask(http, grant["access_token"]))[1]["code"] == "ended"
    ends = [event for event in events_of(service, "managed") if event[1] == "session:revoke"]
    assert {event[2] for event in ends} == {grant["session_id"] for grant in grants}
    assert {event[3] for event in ends} == {"by admin"}
    # What found nothing to end may repeat one whose answer was lost.
    assert (await call(http, "DELETE", path, admin))[1]["ended"] == []
    assert events_of(service, "managed")[-1] == (
        *("session", "session:revoke", "*", "by admin, nothing was alive"),
    )


async def test_who_begins_sessions_ends_them(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    grants = [await issue(http, "reset") for _ in range(3)]
    path = "/v1/users/reset/sessions"
    assert len((await call(http, "GET", path, TRUSTED))[1]["sessions"]) == 3
    one = f"{path}/{grants[0]['session_id']}"
    assert (await call(http, "GET", one, TRUSTED))[1]["session_id"] == grants[0]["session_id"]
    assert (await call(http, "DELETE", one, TRUSTED))[1]["ended"] == [grants[0]["session_id"]]
    assert len((await call(http, "DELETE", path, TRUSTED))[1]["ended"]) == 2
    for grant in grants:
        assert (await ask(http, grant["access_token"]))[1]["code"] == "ended"
    ends = [event for event in events_of(service, "reset") if event[1] == "session:revoke"]
    assert [event[3] for event in ends] == ["by service"] * 3


@pytest.mark.parametrize(
    "user",
    [
        *("a/b", "a/sessions", "a/sessions/b", "/", "sessions", ".", "..", "...", "org:bob"),
        *("*", "a b", "é\N{SNOWMAN}", "50%", "%41", "a?b#c", "a/../b", "\x00", "u" * 256),
    ],
)
async def test_any_id_can_be_named(
    service: SarkService, http: aiohttp.ClientSession, user: str
) -> None:
    grant = await issue(http, user)
    others = [await issue(http, other) for other in ("a", "b", "A") if other != user]
    encoded = quote(user, safe="").replace(".", "%2E")
    path, me = f"/v1/users/{encoded}/sessions", bearer(grant["access_token"])
    for headers in (me, service.admin):
        status, found = await call(http, "GET", path, headers)
        assert (status, [each["user_id"] for each in found["sessions"]]) == (200, [user])
    status, found = await call(http, "GET", f"{path}/{grant['session_id']}", me)
    assert (status, found["user_id"]) == (200, user)
    status, ended = await call(http, "DELETE", path, me)
    assert (status, ended["ended"]) == (200, [grant["session_id"]])
    for other in others:
        assert (await ask(http, other["access_token"]))[0] == 200


async def test_slashes_may_stand_as_they_are(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    grant = await issue(http, "team/x/sessions")
    path = "/v1/users/team/x/sessions/sessions"
    status, found = await call(http, "GET", path, service.admin)
    assert (status, len(found["sessions"])) == (200, 1)
    one = f"{path}/{grant['session_id']}"
    assert (await call(http, "DELETE", one, service.admin))[1]["ended"] == [grant["session_id"]]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/users//sessions", "user_id"),
        ("/v1/users/%FF/sessions", "user_id"),
        (f"/v1/users/{'u' * 257}/sessions", "user_id"),
        ("/v1/users/u/sessions/%FF", "session_id"),
        (f"/v1/users/u/sessions/{'s' * 257}", "session_id"),
    ],
)
async def test_what_is_no_id_is_refused(
    service: SarkService, http: aiohttp.ClientSession, method: str, path: str, field: str
) -> None:
    status, problem = await call(http, method, path, service.admin)
    assert (status, problem["field"]) == (422, field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("exept=x", "query"),
        ("except=a&except=b", "query"),
        ("except=a&x=b", "query"),
        ("x=b&except=a", "query"),
        ("except=", "except"),
        ("except", "except"),
    ],
)
async def test_a_misspelt_query_ends_nothing(
    service: SarkService, http: aiohttp.ClientSession, query: str, field: str
) -> None:
    grant = await issue(http, "typo")
    path = "/v1/users/typo/sessions"
    status, problem = await call(http, "DELETE", f"{path}?{query}", service.admin)
    assert (status, problem["field"]) == (422, field)
    one = f"{path}/{grant['session_id']}?except=x"
    assert (await call(http, "DELETE", one, service.admin))[0] == 422
    assert (await ask(http, grant["access_token"]))[0] == 200


async def test_statistics_are_for_administrators(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    before = (await call(http, "GET", "/v1/sessions/stats", service.admin))[1]
    grant = await issue(http, "counted")
    await refresh(http, grant["refresh_token"])
    await call(http, "DELETE", CURRENT, bearer(grant["access_token"]))
    await ask(http, grant["access_token"])
    status, after = await call(http, "GET", "/v1/sessions/stats", service.admin)
    assert status == 200
    for name in ("created", "refreshed"):
        assert after[name] - before[name] == 1
    assert after["ended"]["revoked"] - before["ended"].get("revoked", 0) == 1
    assert after["refused"]["ended"] - before["refused"].get("ended", 0) == 1
    assert after["stored"]["tokens"] - before["stored"]["tokens"] == 2
    assert (after["stored"]["estimated"], after["stored"]["average_bytes"] > 100) == (False, True)
    for headers in ({}, TRUSTED, bearer(grant["access_token"])):
        assert (await call(http, "GET", "/v1/sessions/stats", headers))[0] == 401


async def test_other_methods(service: SarkService, http: aiohttp.ClientSession) -> None:
    for method, path in [
        *(("GET", "/v1/sessions"), ("GET", REFRESH), ("POST", CURRENT)),
        *(("POST", "/v1/users/u/sessions"), ("PUT", "/v1/users/u/sessions/s")),
    ]:
        async with http.request(method, path, headers=service.admin) as response:
            await assert_problem(response, 405)


# Bindings


async def test_bindings_go_by_the_connection_and_not_by_what_it_says(strict: SarkService) -> None:
    away = {"ip": "198.51.100.1", "user_agent": BROWSER}
    other = {"User-Agent": "curl/8"}
    async with http_client(strict) as http:
        here, there = await issue(http, **HOME), await issue(http, **away)
        for grant, headers, expected in [
            (here, MINE, 200),
            (here, other, 401),
            (there, MINE, 401),
        ]:
            asked = {"action": "x:read", "resource": "r", **away}
            token = bearer(grant["access_token"])
            found = await call(http, "POST", "/v1/authorize", {**token, **headers}, asked)
            assert found[0] == expected, found
            found = await call(http, "GET", CURRENT, {**token, **headers})
            assert found[0] == expected, found
            body = {"refresh_token": grant["refresh_token"], **away}
            assert (await call(http, "POST", REFRESH, headers, body))[0] == expected
        # A trusted caller is believed.
        body = {"refresh_token": there["refresh_token"], **away}
        assert (await call(http, "POST", REFRESH, {**other, **TRUSTED}, body))[0] == 200
        asked = {"action": "x", "resource": "r", "access_token": there["access_token"], **away}
        assert (await call(http, "POST", "/v1/authorize", {**other, **TRUSTED}, asked))[0] == 200
        asked |= HOME
        status, problem = await call(http, "POST", "/v1/authorize", TRUSTED, asked)
        assert (status, problem["code"]) == (401, "network")


async def test_a_login_has_to_say_what_sessions_are_bound_to(strict: SarkService) -> None:
    async with http_client(strict) as http:
        for fields, field in [({"user_agent": "a"}, "ip"), ({"ip": "192.0.2.1"}, "user_agent")]:
            status, problem = await call(
                http, "POST", "/v1/sessions", TRUSTED, {"user_id": "ann", **fields}
            )
            assert (status, problem["field"]) == (422, field)


async def test_the_context_of_users_can_be_refused(strict: SarkService) -> None:
    context = {"context": {"allow": True}}
    one = {"action": "context", "resource": "r"}
    plain: dict[str, Any] = {"action": "x:read", "resource": "r"}
    async with http_client(strict) as http:
        grant = await issue(http, "talker", **HOME)
        mine = {**bearer(grant["access_token"]), **MINE}
        status, problem = await call(http, "POST", "/v1/authorize", mine, {**one, **context})
        assert (status, problem["field"]) == (422, "context")
        batch = {"questions": [plain, {**one, **context}]}
        status, problem = await call(http, "POST", "/v1/authorize/batch", mine, batch)
        assert (status, problem["field"]) == (422, "questions[1].context")
        assert (await call(http, "POST", "/v1/authorize", mine, plain))[0] == 200
        assert (await call(http, "POST", "/v1/authorize", mine, {**plain, "context": {}}))[0] == 200
        # A trusted caller is believed.
        trusted = {**one, **context, "access_token": grant["access_token"], **HOME}
        status, answer = await call(http, "POST", "/v1/authorize", TRUSTED, trusted)
        assert (status, answer["allow"]) == (200, True)
