"""Two services on one Valkey: races between them, a rotation of keys, and no secret in sight."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from sark.sessions.tokens import KeyFile
from tests.support.http_sessions import SERVICE_TOKEN, TRUSTED, ask, bearer, call, issue
from tests.support.polling import until
from tests.support.service import SarkService, call_sark, http_client
from tests.support.sessions import dump_of
from tests.support.tokens import parts

REFRESH = "/v1/sessions/refresh"
CURRENT = "/v1/sessions/current"
OPTIONS: dict[str, Any] = {
    "SARK_SERVICE_TOKEN": SERVICE_TOKEN,
    "SARK_LIMIT_PER_MINUTE": 0,
    "SARK_SESSION_CAP": 5,
    "SARK_KEY_WATCH_INTERVAL": 0.05,
    "SARK_LOG_LEVEL": "debug",
}

Services = tuple[SarkService, SarkService]
Clients = tuple[aiohttp.ClientSession, aiohttp.ClientSession]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    with SarkService(first, **OPTIONS) as one:
        shared = {"VALKEY_URL": one.run_file["valkey_url"], "SARK_KEY_DIR": first / "keys"}
        with SarkService(second, **OPTIONS, **shared) as other:
            yield one, other


@pytest.fixture
async def clients(services: Services) -> AsyncIterator[Clients]:
    async with http_client(services[0]) as one, http_client(services[1]) as other:
        yield one, other


async def test_200_trades_of_one_token_give_one_successor(clients: Clients) -> None:
    grant = await issue(clients[0])
    body = {"refresh_token": grant["refresh_token"]}
    answers = await asyncio.gather(
        *(call(clients[n % 2], "POST", REFRESH, None, body) for n in range(200))
    )
    assert {status for status, _ in answers} == {200}
    (pair,) = {(found["access_token"], found["refresh_token"]) for _, found in answers}
    assert (await ask(clients[0], pair[0]))[0] == 200
    body = {"refresh_token": pair[1]}
    assert (await call(clients[1], "POST", REFRESH, None, body))[0] == 200


async def test_200_logins_keep_to_the_cap(services: Services, clients: Clients) -> None:
    grants = await asyncio.gather(*(issue(clients[n % 2], "crowd") for n in range(200)))
    path, admin = "/v1/users/crowd/sessions", services[0].admin
    found = (await call(clients[0], "GET", path, admin))[1]["sessions"]
    assert len(found) == 5
    alive = {each["session_id"] for each in found}
    answers = await asyncio.gather(*(ask(clients[0], grant["access_token"]) for grant in grants))
    accepted = {
        grant["session_id"]
        for grant, (status, _) in zip(grants, answers, strict=True)
        if status == 200
    }
    assert accepted == alive


async def test_after_a_logout_no_process_admits(clients: Clients) -> None:
    """A check that began after the logout's answer is refused, in the other process too."""
    for number in range(20):
        grant = await issue(clients[0], f"leaver-{number}")
        token, over = grant["access_token"], asyncio.Event()
        late: list[int] = []
        assert (await ask(clients[1], token))[0] == 200

        async def knock(
            token: str = token, over: asyncio.Event = over, late: list[int] = late
        ) -> None:
            while len(late) < 2:
                after = over.is_set()
                status, _ = await ask(clients[1], token)
                if after:
                    late.append(status)

        knocking = asyncio.gather(*(knock() for _ in range(4)))
        assert (await call(clients[0], "DELETE", CURRENT, bearer(token)))[0] == 200
        over.set()
        await knocking
        assert set(late) == {401}


async def test_a_logout_is_not_undone_by_what_races_it(clients: Clients) -> None:
    for number in range(20):
        grant = await issue(clients[0], f"racer-{number}")
        body = {"refresh_token": grant["refresh_token"]}
        (gone, _), (traded, found), *_ = await asyncio.gather(
            call(clients[0], "DELETE", CURRENT, bearer(grant["access_token"])),
            call(clients[1], "POST", REFRESH, None, body),
            *(ask(clients[n % 2], grant["access_token"]) for n in range(10)),
        )
        assert gone == 200
        tokens = [grant["access_token"]]
        if traded == 200:
            tokens.append(found["access_token"])
        for token in tokens:
            assert [(await ask(http, token))[0] for http in clients] == [401, 401]


async def test_keys_are_rotated_while_serving(services: Services, clients: Clients) -> None:
    old = await issue(clients[0], "rotated")
    kids = {parts(old["access_token"])[0]["kid"]}
    for _ in range(2):
        ended = call_sark("keys", "rotate", "--now", SARK_KEY_DIR=services[0].directory / "keys")
        assert ended.returncode == 0, ended.stderr

        async def signs_anew() -> bool:
            tokens = [(await issue(http, "rotated"))["access_token"] for http in clients]
            # Whatever the other process has noticed yet, it accepts them.
            for http in clients:
                for token in (old["access_token"], *tokens):
                    status, found = await ask(http, token)
                    assert status == 200 or found["code"] == "ended", found
            kids_now = {parts(token)[0]["kid"] for token in tokens}
            return len(kids_now) == 1 and not kids_now & kids

        await until(signs_anew, within=10, what="both processes sign with the new key")
        kids.add(parts((await issue(clients[0], "rotated"))["access_token"])[0]["kid"])
    assert len(kids) == 3
    # The refresh token knows nothing of the signing keys; the cap may have ended its session.
    body = {"refresh_token": (await issue(clients[0], "other"))["refresh_token"]}
    assert (await call(clients[1], "POST", REFRESH, None, body))[0] == 200


async def test_nothing_secret_shows(services: Services, clients: Clients) -> None:
    """After a whole life over HTTP, neither Valkey nor log, metrics or answers hold a secret."""
    one, http = services[0], clients[0]
    grant = await issue(http, "keeper", user_agent="browser/1", ip="192.0.2.1")
    successor, third = grant, grant
    for _ in range(5):
        body: dict[str, Any] = {"refresh_token": third["refresh_token"]}
        successor, (status, third) = third, await call(http, "POST", REFRESH, None, body)
        assert status == 200
    shown = [str(await ask(http, third["access_token"]))]
    body = {"action": "x:read", "resource": "r", "access_token": third["access_token"]}
    shown.append(str(await call(http, "POST", "/v1/authorize", TRUSTED, body)))
    altered = third["access_token"][:-8] + "AAAAAAAA"
    shown.append(str(await ask(http, altered)))
    shown.append(str(await call(http, "POST", "/v1/authorize", TRUSTED, {**body, "x": 1})))
    # Older than any that may come again: a copy.
    stolen = {"refresh_token": grant["refresh_token"]}
    status, found = await call(http, "POST", REFRESH, None, stolen)
    assert (status, found["code"]) == (401, "refresh_reused")
    shown.append(str(found))
    last = await issue(http, "keeper")
    shown.append(str(await call(http, "GET", CURRENT, bearer(last["access_token"]))))
    shown.append(str(await call(http, "GET", "/v1/users/keeper/sessions", one.admin)))
    shown.append(str(await call(http, "DELETE", CURRENT, bearer(last["access_token"]))))
    for path in ("/metrics", "/v1/status", "/health/ready", "/.well-known/jwks.json"):
        async with http.get(path, headers=one.admin) as response:
            shown.append(await response.text())
    for service in services:
        shown += [service.stdout.replace(one.run_file["admin_token"], "", 1), service.stderr]
    with one.valkey() as client:
        raw = dump_of(client)
    stored = raw.decode(errors="backslashreplace")
    assert "keeper" in stored
    secrets = _secrets(one, grant, successor, third, last)
    for text in (*shown, stored):
        for name, secret in secrets.items():
            assert secret not in text, name
    mac = (one.directory / "keys" / "mac.key").read_bytes()
    assert mac not in raw


def _secrets(service: SarkService, *grants: dict[str, Any]) -> dict[str, str]:
    found = {"service token": SERVICE_TOKEN, "admin token": service.run_file["admin_token"]}
    for number, grant in enumerate(grants):
        _, payload, signature = grant["access_token"].split(".")
        found |= {f"payload {number}": payload, f"signature {number}": signature}
        found[f"MAC {number}"] = grant["refresh_token"].rpartition(".")[2]
    directory = service.directory / "keys"
    mac = (directory / "mac.key").read_bytes()
    refresh_keys = json.loads((directory / "refresh-keys.json").read_bytes())
    found |= {
        "refresh key, active": refresh_keys["active"].rstrip("="),
        "refresh key, next": refresh_keys["next"].rstrip("="),
        "mac.key, hex": mac.hex(),
        "mac.key, base64": base64.b64encode(mac).decode().rstrip("="),
        "mac.key, base64url": base64.urlsafe_b64encode(mac).decode().rstrip("="),
    }
    for record in KeyFile(directory).read().records:
        found[f"signing key {record.key.kid}"] = record.key.private_jwk()["d"]
    return found
