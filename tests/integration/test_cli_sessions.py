"""``sark sessions``, and ``sark authorize`` with an access token, on a running service."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from sark.sessions import SessionRules
from tests.support.gateways import queued
from tests.support.http_sessions import SERVICE_TOKEN, TRUSTED, call, issue
from tests.support.servers import ValkeyServer
from tests.support.service import SarkService, call_sark, http_client
from tests.support.sessions import BROWSER, open_sessions, outside_token
from tests.support.sessions import log_in as begin_session


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(
        directory, SARK_SERVICE_TOKEN=SERVICE_TOKEN, SARK_LIMIT_PER_MINUTE=0
    ) as running:
        yield running


def log_in(service: SarkService, user_id: str, **fields: Any) -> dict[str, Any]:
    # Commands run loops of their own, so the tests have none.
    async def begin() -> dict[str, Any]:
        async with http_client(service) as http:
            return await issue(http, user_id, **fields)

    return asyncio.run(begin())


def send(service: SarkService, *request: Any) -> int:
    async def ask() -> int:
        async with http_client(service) as http:
            return (await call(http, *request))[0]

    return asyncio.run(ask())


def sark(service: SarkService, *arguments: str, **variables: object) -> tuple[int, str, str]:
    given: dict[str, object] = {"SARK_DATA_DIR": service.data_dir, **variables}
    ended = call_sark(*arguments, **given)
    return ended.returncode, ended.stdout, ended.stderr


def listed(service: SarkService, user_id: str) -> list[str]:
    code, out, err = sark(service, "sessions", "list", user_id, "--json")
    assert (code, err) == (0, "")
    return [each["session_id"] for each in json.loads(out)]


@pytest.mark.parametrize("user", ["ann", "..", "team/é ?#%41"])
def test_a_users_sessions_are_listed_shown_and_ended(service: SarkService, user: str) -> None:
    fields = {"client_id": "web[bold]", "ip": "192.0.2.7", "user_agent": BROWSER, "tier": "gold"}
    grants = [log_in(service, user, **fields) for _ in range(4)]
    ids = [grant["session_id"] for grant in grants]
    assert listed(service, user) == ids[::-1]
    code, out, err = sark(service, "sessions", "list", user)
    assert (code, err) == (0, "")
    for text in (*ids, "web[bold]", "192.0.2.7", "Edg/126"):
        assert text in out
    code, out, err = sark(service, "sessions", "show", user, ids[0])
    assert (code, err) == (0, "")
    for text in (user, ids[0], "gold", "192.0.2.7", "Edg/126", "web[bold]"):
        assert text in out
    code, out, _ = sark(service, "sessions", "show", user, ids[0], "--json")
    assert json.loads(out)["tier"] == "gold"

    assert sark(service, "sessions", "revoke", user, ids[0]) == (0, f"{ids[0]}\n", "")
    assert sark(service, "sessions", "revoke", user, ids[0]) == (0, "", "")
    code, out, err = sark(service, "sessions", "show", user, ids[0])
    assert (code, out) == (1, "")
    assert err == "sark: No such session: the user has no living session of this id\n"
    code, out, _ = sark(service, "sessions", "revoke", user, "--except", ids[3])
    assert (code, set(out.split())) == (0, set(ids[1:3]))
    code, out, _ = sark(service, "sessions", "revoke", user, "--all", "--json")
    assert (code, json.loads(out)["ended"]) == (0, [ids[3]])
    assert listed(service, user) == []
    assert sark(service, "sessions", "list", user) == (0, "no sessions\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ann",),
        ("ann", "x", "--all"),
        ("ann", "x", "--except", "y"),
        ("ann", "--all", "--except", "y"),
    ],
    ids=" ".join,
)
def test_what_to_revoke_is_said_exactly_once(
    service: SarkService, arguments: tuple[str, ...]
) -> None:
    code, out, err = sark(service, "sessions", "revoke", *arguments)
    assert (code, out) == (2, "")
    assert err == "sark: expected one of SESSION, --all and --except ID\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("list", ""), "USER"),
        (("list", "u" * 257), "USER"),
        (("show", "u", ""), "SESSION"),
        (("revoke", "u", "--except", ""), "--except"),
    ],
)
def test_ids_that_are_none(service: SarkService, arguments: tuple[str, ...], named: str) -> None:
    code, out, err = sark(service, "sessions", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"sark: {named}: got ")


def test_statistics(service: SarkService) -> None:
    grant = log_in(service, "counted")
    body = {"refresh_token": grant["refresh_token"]}
    assert send(service, "POST", "/v1/sessions/refresh", None, body) == 200
    code, out, err = sark(service, "sessions", "stats")
    assert (code, err) == (0, "")
    for label in ("logins", "refreshed", "refused", "ended early", "in Valkey", "users"):
        assert label in out
    assert "bytes each without index and tokens" in out
    code, out, _ = sark(service, "sessions", "stats", "--json")
    assert json.loads(out)["refreshed"] >= 1


def test_without_a_service_it_is_told(tmp_path: Path) -> None:
    ended = call_sark("sessions", "list", "ann", SARK_DATA_DIR=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no service runs on" in ended.stderr


def test_with_valkey_url_no_service_has_to_run(server: ValkeyServer, tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "VALKEY_URL": server.url,
        "SARK_KEY_DIR": tmp_path / "keys",
        "SARK_DATA_DIR": tmp_path,
    }

    async def begin() -> list[str]:
        async with open_sessions(server.url) as sessions:
            return [(await begin_session(sessions, "ann")).session_id for _ in range(5)]

    def run(*arguments: str, **more: object) -> tuple[int, str, str]:
        ended = call_sark("sessions", *arguments, **settings, **more)
        return ended.returncode, ended.stdout, ended.stderr

    async def adopt() -> None:
        rules = SessionRules(adopt=True)
        async with open_sessions(server.url, rules) as sessions:
            await sessions.authenticate(outside_token("eve"))

    asyncio.run(adopt())
    (eve,) = json.loads(run("list", "eve", "--json")[1])
    assert "yes" in run("list", "eve")[1]
    assert "yes" in run("show", "eve", eve["session_id"])[1]
    ids = asyncio.run(begin())
    assert "yes" not in run("list", "ann")[1]
    code, out, err = run("list", "ann", "--json")
    assert (code, err) == (0, "")
    assert [each["session_id"] for each in json.loads(out)] == ids[::-1]
    assert ids[0] in run("list", "ann")[1]
    assert "web" in run("show", "ann", ids[0])[1]
    assert run("revoke", "ann", ids[0]) == (0, f"{ids[0]}\n", "")
    told = "sark: No such session: the user has no living session of this id\n"
    assert run("show", "ann", ids[0]) == (1, "", told)
    code, out, _ = run("revoke", "ann", "--except", ids[4])
    assert (code, set(out.split())) == (0, set(ids[1:4]))
    recorded = [(event["resource"], event["reason"]) for event in queued(server)]
    assert recorded[0] == (ids[0], "by admin")
    assert {*recorded} == {(each, "by admin") for each in ids[:4]}
    # A full queue doesn't keep a session alive, and isn't passed over.
    code, out, err = run("revoke", "ann", "--all", SARK_SIEM_MAX_EVENTS=1, SARK_SPILL_MAX_BYTES=0)
    assert (code, out) == (1, "")
    assert err.startswith("sark: the sessions have ended, which is not recorded: the audit queue")
    assert run("list", "ann") == (0, "no sessions\n", "")
    code, out, _ = run("revoke", "ann", "--all", "--json")
    assert json.loads(out)["ended"] == []
    assert queued(server)[-1]["reason"] == "by admin, nothing was alive"
    # Its figures are those of a process.
    assert run("stats", SARK_ADMIN_TOKEN="admin-token-0123456789", SARK_PORT=1)[0] == 1


def test_the_admin_token_has_to_be_right(service: SarkService) -> None:
    code, out, err = sark(
        service,
        *("sessions", "stats", "--service", service.url),
        SARK_ADMIN_TOKEN="wrong-token-0123456789",
    )
    assert (code, out) == (1, "")
    assert "SARK_ADMIN_TOKEN has to be the service's" in err
    assert "wrong-token" not in err


# sark authorize


def authorize(
    service: SarkService, *arguments: str, user: str = "ann"
) -> subprocess.CompletedProcess[str]:
    return call_sark(
        *("authorize", user, "x:read", "r", *arguments),
        SARK_DATA_DIR=service.data_dir,
        SARK_SERVICE_TOKEN=SERVICE_TOKEN,
    )


def test_authorize_takes_an_access_token_from_a_file(service: SarkService, tmp_path: Path) -> None:
    grant = log_in(service, "ann")
    token = tmp_path / "token"
    token.write_text(grant["access_token"] + "\n")
    ended = authorize(service, "--access-token-file", str(token), "--user-agent", "x")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["allow"] is True
    ended = authorize(service, "--access-token-file", str(token), user="bob")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("sark: Another user's token: ")
    token.write_text(grant["access_token"][:-4] + "AAAA")
    ended = authorize(service, "--access-token-file", str(token))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Unauthenticated" in ended.stderr
    assert not [part for part in grant["access_token"].split(".") if part[:16] in ended.stderr]


def test_authorize_takes_an_access_token_from_standard_input(service: SarkService) -> None:
    grant = log_in(service, "ann")
    given = TextIOWrapper(BytesIO(grant["access_token"].encode()))
    with patch("sys.stdin", given):
        ended = authorize(service, "--access-token-file", "-")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", "é".encode()])
def test_a_file_without_a_token(service: SarkService, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    ended = authorize(service, "--access-token-file", str(path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"sark: --access-token-file: {path}: expected an access token\n"


def test_a_file_that_is_not_there(service: SarkService, tmp_path: Path) -> None:
    ended = authorize(service, "--access-token-file", str(tmp_path / "missing"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith("No such file or directory\n")


def test_authorize_in_this_process(service: SarkService, tmp_path: Path) -> None:
    grant = log_in(service, "ann")
    token = tmp_path / "token"
    token.write_text(grant["access_token"])
    variables: dict[str, object] = {
        "VALKEY_URL": service.run_file["valkey_url"],
        "SARK_KEY_DIR": service.directory / "keys",
        "SARK_POLICY_DIR": service.policy_dir,
    }
    arguments = ("authorize", "ann", "x:read", "r", "--access-token-file", str(token))
    ended = call_sark(*arguments, **variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    body = {"action": "x:read", "resource": "r", "access_token": grant["access_token"]}
    assert send(service, "POST", "/v1/authorize", TRUSTED, body) == 200
    assert send(service, "DELETE", "/v1/users/ann/sessions", service.admin) == 200
    ended = call_sark(*arguments, **variables)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("sark: the session has ended")
