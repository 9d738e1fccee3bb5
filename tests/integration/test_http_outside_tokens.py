"""Tokens of an outside identity provider on a running service, and what a service never shows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.support.http_sessions import SERVICE_TOKEN, TRUSTED, ask, bearer, call, issue
from tests.support.service import SarkService, http_client
from tests.support.sessions import BROWSER, dump_of
from tests.support.tokens import Issuer

IDP = "https://idp.example"
OUTSIDER = f"{IDP}|outsider"  # apart from a user of ours with that name
CAP = 2


@asynccontextmanager
async def trusting(
    directory: Path, **variables: object
) -> AsyncIterator[tuple[SarkService, aiohttp.ClientSession, Issuer]]:
    """Run an issuer, and a service that adopts the sessions of its tokens."""
    issuer = Issuer(IDP)
    async with issuer.serve():
        settings: dict[str, Any] = {
            "SARK_SERVICE_TOKEN": SERVICE_TOKEN,
            "SARK_TRUSTED_ISSUERS": f"{IDP}={issuer.url}",
            "SARK_SESSION_ADOPT": "true",
            "SARK_SESSION_CAP": CAP,
            "SARK_SESSION_CAP_POLICY": "refuse",
            "SARK_LIMIT_PER_MINUTE": 0,
            **variables,
        }
        # Its start waits for nothing of this loop: the issuer is asked when a token comes.
        with SarkService(directory, **settings) as service:
            async with http_client(service) as http:
                yield service, http, issuer


def fresh(issuer: Issuer, **changes: Any) -> str:
    now = int(time.time())
    return issuer.token(iat=now, exp=now + 600, **changes)


async def test_sessions_of_an_outside_issuer(tmp_path: Path) -> None:
    async with trusting(tmp_path) as (service, http, issuer):
        first = fresh(issuer, sid="s1", jti="j1")
        status, answer = await ask(http, first)
        assert (status, answer.get("allow")) == (200, True), answer
        status, session = await call(http, "GET", "/v1/sessions/current", bearer(first))
        assert (status, session["outside"], session["user_id"]) == (200, True, OUTSIDER)
        assert session["client_id"] == "portal"
        # A further token of the same session; one of another session; and one too many.
        assert (await ask(http, fresh(issuer, sid="s1", jti="j2")))[0] == 200
        second = fresh(issuer, sid="s2", jti="j3")
        assert (await ask(http, second))[0] == 200
        third = fresh(issuer, sid="s3", jti="j4")
        questions = {"questions": [{"action": "x:read", "resource": "r"}]}
        asked: list[tuple[str, str, dict[str, Any] | None]] = [
            ("POST", "/v1/authorize", {"action": "x:read", "resource": "r"}),
            ("POST", "/v1/authorize/batch", questions),
            ("GET", "/v1/sessions/current", None),
            ("GET", f"/v1/users/{quote(OUTSIDER, safe='')}/sessions", None),
        ]
        for method, path, body in asked:
            status, problem = await call(http, method, path, bearer(third), body)
            assert (status, problem["code"]) == (401, "cap"), path
            assert problem["decision_id"]
        # A trusted caller hands it on.
        body = {"action": "x:read", "resource": "r", "access_token": third}
        assert (await call(http, "POST", "/v1/authorize", TRUSTED, body))[1]["code"] == "cap"
        # Its refresh tokens are the issuer's; its login is not ours to begin.
        body = {"refresh_token": first}
        assert (await call(http, "POST", "/v1/sessions/refresh", None, body))[0] == 401

        path = f"/v1/users/{quote(OUTSIDER, safe='')}/sessions/{session['session_id']}"
        status, ended = await call(http, "DELETE", path, service.admin)
        assert (status, ended["ended"]) == (200, [session["session_id"]])
        for token in (first, fresh(issuer, sid="s1", jti="j9")):
            status, problem = await ask(http, token)
            assert (status, problem["code"]) == (401, "ended")
        # Its place is free.
        assert (await ask(http, third))[0] == 200
        status, ended = await call(http, "DELETE", "/v1/sessions/current", bearer(second))
        assert (status, len(ended["ended"])) == (200, 1)
        assert (await ask(http, second))[1]["code"] == "ended"
        assert (await ask(http, fresh(Issuer(IDP))))[1]["code"] == "unknown_key"
        reasons = [event["reason"] for event in service.events()]
    assert reasons.count("session:cap") == 1
    assert {"by admin", "by user", "session:ended", "session:unknown_key"} <= {*reasons}


async def test_the_user_agent_binds_on_every_route(tmp_path: Path) -> None:
    async with trusting(tmp_path, SARK_SESSION_BIND="user_agent") as (service, http, issuer):
        ours = (await issue(http, "ann", user_agent=BROWSER))["access_token"]
        outside = fresh(issuer)
        mine, other = {"User-Agent": BROWSER}, {"User-Agent": "curl/8"}
        question = {"action": "x:read", "resource": "r"}
        begun = await call(http, "POST", "/v1/authorize", {**bearer(outside), **mine}, question)
        assert begun[0] == 200
        for user, token in (("ann", ours), (quote(OUTSIDER, safe=""), outside)):
            everywhere = [
                ("GET", "/v1/sessions/current"),
                ("GET", f"/v1/users/{user}/sessions"),
                ("GET", f"/v1/users/{user}/sessions/x"),
                ("DELETE", f"/v1/users/{user}/sessions/x"),
                ("DELETE", f"/v1/users/{user}/sessions?except=x"),
                ("DELETE", f"/v1/users/{user}/sessions"),
                ("DELETE", "/v1/sessions/current"),
            ]
            for method, path in everywhere:
                status, problem = await call(http, method, path, {**bearer(token), **other})
                assert (status, problem["code"]) == (401, "user_agent"), path
            assert (await call(http, *everywhere[0], {**bearer(token), **mine}))[0] == 200
            assert (await call(http, *everywhere[-1], {**bearer(token), **mine}))[0] == 200
        async with aiohttp.ClientSession(service.url, skip_auto_headers=["User-Agent"]) as silent:
            fresh_one = bearer(fresh(issuer, sid="s7", jti="j7"))
            assert (await call(silent, "DELETE", "/v1/sessions/current", fresh_one))[0] == 401


@pytest.mark.heavy
async def test_tokens_never_show(tmp_path: Path) -> None:
    async with trusting(tmp_path, SARK_LOG_LEVEL="debug") as (service, http, issuer):
        shown: list[str] = []

        async def told(method: str, path: str, token: str, body: Any = None) -> int:
            async with http.request(method, path, headers=bearer(token), json=body) as response:
                shown.extend([await response.text(), str(response.headers)])
                return response.status

        question = {"action": "x:read", "resource": "r"}
        grant = await issue(http)
        good = [fresh(issuer, sid=f"s{n}", jti=f"j{n}") for n in range(CAP + 1)]
        expired = issuer.token()
        forged = fresh(Issuer(IDP))
        secrets = [grant["access_token"], grant["refresh_token"], *good, expired, forged]
        for token in secrets:
            for path in ("/v1/authorize", "/v1/authorize/batch"):
                body = {"questions": [question]} if path.endswith("batch") else question
                await told("POST", path, token, body)
            await told("GET", "/v1/sessions/current", token)
            await told("GET", "/v1/status", token)
            body = {**question, "access_token": token}
            await told("POST", "/v1/authorize", SERVICE_TOKEN, body)
            # Not even where it is what is wrong with the request.
            await told("POST", "/v1/authorize", SERVICE_TOKEN, {**body, "user_id": 7})
            if token != grant["refresh_token"]:
                await told("POST", "/v1/sessions/refresh", token, {"refresh_token": token})
        with service.valkey() as client:
            (key,) = client.scan_iter("session:user:ann:*")
            client.hset(key, "created_at", "no number")
        for path in ("/v1/sessions/current", "/v1/users/ann/sessions"):
            assert await told("GET", path, grant["access_token"]) == 500
        for path in ("/metrics", "/openapi.json"):
            await told("GET", path, "")
        with service.valkey() as client:
            shown.append(dump_of(client).decode(errors="replace"))
    shown += [service.stdout, service.stderr]
    assert any("no number" in text for text in shown), "the bug is in the log"
    parts = {part for token in secrets for part in token.split(".") if len(part) > 40}
    for text in shown:
        assert not [part[:8] for part in (*parts, SERVICE_TOKEN) if part in text], text[:2000]
