"""``sark breaker`` and its routes: by way of a service, and in Valkey itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sark.breaker.control import BreakerControl
from sark.errors import StoreCommandError
from sark.events import BreakerChanged
from tests.support.breakers import open_breaker
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import SarkService, assert_problem, call_sark, http_client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    sinks = "stdout:,archive=file:///dev/null"
    with SarkService(tmp_path_factory.mktemp("service"), SARK_SIEM_SINKS=sinks) as running:
        yield running


def answer_of(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


async def test_the_routes(service: SarkService) -> None:
    async with http_client(service) as http:
        for method, path in (("GET", ""), ("GET", "/siem"), ("POST", "/siem/force-open")):
            async with http.request(method, f"/v1/breakers{path}") as response:
                await assert_problem(response, 401, "unauthenticated")

        async def call(method: str, path: str) -> dict[str, Any]:
            async with http.request(
                method, f"/v1/breakers{path}", headers=service.admin
            ) as response:
                assert response.status == 200
                found: dict[str, Any] = await response.json()
                return found

        found = await call("GET", "")
        assert [each["name"] for each in found["breakers"]] == ["siem", "siem.archive"]
        assert {each["state"] for each in found["breakers"]} == {"closed"}
        assert (await call("POST", "/siem/force-open"))["state"] == "forced_open"
        assert (await call("GET", "/siem"))["state"] == "forced_open"
        assert (await call("POST", "/siem/force-closed"))["state"] == "forced_closed"
        held = await call("POST", "/siem/force-open?seconds=90")
        assert 80 < held["retry_after"] <= 90
        assert (await call("POST", "/siem/reset"))["state"] == "closed"
        for path, field in (
            ("/nobody/reset", "name"),
            ("/siem/force-open?seconds=-1", "seconds"),
            ("/siem/force-open?seconds=nan", "seconds"),
        ):
            async with http.post(f"/v1/breakers{path}", headers=service.admin) as response:
                await assert_problem(response, 422, "invalid-request", field=field)


def test_the_command_asks_the_service_that_runs_here(service: SarkService) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return call_sark("breaker", *arguments, SARK_DATA_DIR=service.data_dir)

    shown = call("show").stdout
    assert "siem.archive" in shown
    held = answer_of(call("force-open", "siem.archive", "--seconds", "60", "--json"))
    assert (held["name"], held["state"]) == ("siem.archive", "forced_open")
    assert "forced open" in call("show", "siem.archive").stdout
    assert "closed" in call("reset", "siem.archive").stdout
    unknown = call("show", "nobody")
    assert unknown.returncode == 1
    assert "expected one of: siem, siem.archive" in unknown.stderr


async def test_with_valkey_url_it_asks_valkey_itself(
    private_server: Callable[..., ValkeyServer], tmp_path: Path
) -> None:
    server = private_server()

    async def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            call_sark,
            *("breaker", *arguments),
            VALKEY_URL=server.url,
            SARK_DATA_DIR=tmp_path,
            SARK_KEY_DIR=tmp_path / "keys",
        )

    # One that nobody has named in a setting: known because it is in use.
    async with open_breaker(server, "billing", failures=1) as (breaker, changes):
        found = answer_of(await call("show", "--json"))
        assert [each["name"] for each in found["breakers"]] == ["billing", "siem"]
        (await breaker.acquire()).failed("Timeout[red]Error")
        await until(lambda: breaker.snapshot().state == "open", within=5, what="it opens")
        assert "Timeout[red]Error" in (await call("show", "billing")).stdout
        answer_of(await call("force-closed", "billing", "--json"))
        await until(lambda: changes.modes[-1] == "forced_closed", within=5, what="it is held")
        answer_of(await call("reset", "billing", "--json"))
        await until(lambda: changes.modes[-1] == "closed", within=5, what="it is let go")
        assert isinstance(changes[-1], BreakerChanged)
    server.stop()
    ended = await call("force-open", "siem")
    assert ended.returncode == 1
    assert ended.stderr.startswith("sark: ")
    assert len(ended.stderr.splitlines()) == 1


async def test_damaged_keys_are_told_and_mended_by_a_reset(server: ValkeyServer) -> None:
    with server.client() as client:
        client.hset("circuit_breaker:siem:details", mapping={"since": "x", "forced": "sideways"})
        client.sadd("circuit_breaker:names", "siem")
    async with open_store(server.url) as store:
        control = BreakerControl(store, {}, budget=5)
        with pytest.raises(StoreCommandError, match="damaged"):
            await control.show("siem")
        assert (await control.force("siem", "reset")).state == "closed"
