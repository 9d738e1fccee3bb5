"""``sark siem`` and the routes behind it, on a running service and on Valkey alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sark.cli.siem import _tail
from sark.siem.leases import Bad
from tests.support.forwarders import closed_account, fill, queue_of
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import SarkService, assert_problem, call_sark, http_client, run_sark


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(directory, SARK_SIEM_SINKS=f"file://{directory}/audit.jsonl") as running:
        yield running


def url_of(service: SarkService) -> str:
    return str(service.run_file["valkey_url"])


async def bury(url: str, count: int) -> list[str]:
    """Fill the queue with events and make dead letters of all of them."""
    async with open_store(url) as store:
        ids = await fill(store, count)
        queue = queue_of(store)
        lease = await queue.lease("test", events=count, size=10**9)
        assert lease is not None
        await queue.settle(lease, [Bad("no such field")] * count)
    return ids


async def clear(url: str) -> None:
    async with open_store(url) as store:
        queue = queue_of(store)
        while await queue.purge("queue", 1000) or await queue.purge("failed", 1000):
            pass


@pytest.fixture(params=["service", "valkey"])
def where(
    request: pytest.FixtureRequest, service: SarkService, server: ValkeyServer, tmp_path: Path
) -> tuple[str, dict[str, object]]:
    """The server with the queue, and the settings of a command that finds it."""
    if request.param == "service":
        asyncio.run(clear(url_of(service)))
        return url_of(service), {"SARK_DATA_DIR": service.data_dir}
    variables = {
        "VALKEY_URL": server.url,
        "SARK_SIEM_SINKS": f"file://{tmp_path}/audit.jsonl",
        "SARK_DATA_DIR": tmp_path,
    }
    return server.url, variables


def sark(where: tuple[str, dict[str, object]], *arguments: str) -> tuple[int, str, str]:
    ended = call_sark("siem", *arguments, **where[1])
    return ended.returncode, ended.stdout, ended.stderr


def account(where: tuple[str, dict[str, object]]) -> dict[str, Any]:
    code, out, err = sark(where, "status", "--json")
    assert (code, err) == (0, "")
    (report,) = json.loads(out)["sinks"]
    found: dict[str, Any] = report["account"]
    return found


def ids_in(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


def test_the_account_is_shown(where: tuple[str, dict[str, object]]) -> None:
    asyncio.run(bury(where[0], 3))
    before = account(where)
    assert before["failed"]["events"] == 3
    code, out, err = sark(where, "status")
    assert (code, err) == (0, "")
    for text in ("accepted", "dead letters", "in flight", "closes", "main"):
        assert text in out


def test_waiting_events_are_read_and_stay(where: tuple[str, dict[str, object]]) -> None:
    async def put() -> list[str]:
        async with open_store(where[0]) as store:
            return await fill(store, 30)

    ids = asyncio.run(put())
    assert ids_in(sark(where, "tail")[1]) == ids[-10:]
    assert ids_in(sark(where, "tail", "main", "-n", "3")[1]) == ids[-3:]
    assert account(where)["queued"]["events"] == 30


def test_dead_letters_are_shown_and_replayed_with_their_ids(
    where: tuple[str, dict[str, object]],
) -> None:
    ids = asyncio.run(bury(where[0], 1500))
    code, out, err = sark(where, "failed", "-n", "2")
    assert (code, err) == (0, "")
    letters = [json.loads(line) for line in out.splitlines()]
    assert [letter["event"]["id"] for letter in letters] == ids[:2]
    assert {letter["reason"] for letter in letters} == {"no such field"}

    code, out, _ = sark(where, "replay", "main", "-n", "1200")
    assert (code, out) == (0, "1,200 events are queued again\n")
    code, out, _ = sark(where, "replay")
    assert (code, out) == (0, "300 events are queued again\n")
    assert sark(where, "replay") == (0, "0 events are queued again\n", "")
    found = account(where)
    assert (found["queued"]["events"], found["failed"]["events"]) == (1500, 0)
    assert ids_in(sark(where, "tail", "-n", "1000")[1]) == ids[500:]


def test_purging_asks_first(
    where: tuple[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(bury(where[0], 1200))
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(SystemExit(1)))
    assert sark(where, "purge")[0] == 1
    assert account(where)["failed"]["events"] == 1200
    code, out, _ = sark(where, "purge", "main", "-n", "1100", "--yes")
    assert (code, out) == (0, "1,100 events are gone\n")
    sark(where, "replay")
    code, out, _ = sark(where, "purge", "main", "--what", "queue", "--yes")
    assert (code, out) == (0, "100 events are gone\n")

    async def closes() -> None:
        async with open_store(where[0]) as store:
            status = await closed_account(queue_of(store))
            assert status.queued.events == status.failed.events == 0

    asyncio.run(closes())


def test_a_sink_is_tried(where: tuple[str, dict[str, object]]) -> None:
    code, out, err = sark(where, "test-sink", "main", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["verdict"], found["reason"], found["delivered"]) == ("delivered", "", True)
    assert "delivered" in sark(where, "test-sink")[1]


@pytest.mark.parametrize(
    "command", [["tail"], ["failed"], ["replay"], ["purge", "--yes"], ["test-sink"]], ids=str
)
def test_an_unknown_sink_is_refused(
    where: tuple[str, dict[str, object]], command: list[str]
) -> None:
    code, out, err = sark(where, *command, "nosuch")
    assert (code, out) == (1, "")
    assert "got 'nosuch', expected one of: main" in err.splitlines()[-1]


def test_a_sink_that_refuses_is_an_exit_status(server: ValkeyServer, tmp_path: Path) -> None:
    variables = {
        "VALKEY_URL": server.url,
        "SARK_DATA_DIR": tmp_path,
        "SARK_SIEM_SINKS": "webhook+http://127.0.0.1:1/",
    }
    ended = call_sark("siem", "test-sink", "--json", **variables)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["verdict"] == "unavailable"


def test_a_sink_that_can_not_be_opened_is_told(server: ValkeyServer, tmp_path: Path) -> None:
    variables = {
        "VALKEY_URL": server.url,
        "SARK_DATA_DIR": tmp_path,
        "SARK_SIEM_SINKS": f"file://{tmp_path}/missing/audit.jsonl",
    }
    (tmp_path / "missing").write_text("a file where a folder has to be")
    ended = call_sark("siem", "test-sink", "--json", **variables)
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["delivered"]) == (1, False)
    assert found["verdict"] in {"unusable", "unavailable"}
    assert found["reason"]


def test_a_worker_whose_sink_can_not_be_opened_names_it(
    server: ValkeyServer, tmp_path: Path
) -> None:
    (tmp_path / "missing").write_text("a file where a folder has to be")
    sinks = f"main=stdout:,copy=file://{tmp_path}/missing/audit.jsonl"
    ended = run_sark("worker", VALKEY_URL=server.url, SARK_SIEM_SINKS=sinks)
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert line.startswith(f"sark: SARK_SIEM_SINKS: the sink copy: {tmp_path}/missing/audit.jsonl ")


def test_a_worker_does_not_guess_where_events_go(server: ValkeyServer) -> None:
    ended = run_sark("worker", VALKEY_URL=server.url)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("sark: SARK_SIEM_SINKS is not set: ")


def test_without_anything_to_ask_it_says_so(tmp_path: Path) -> None:
    ended = call_sark("siem", "status", SARK_DATA_DIR=tmp_path)
    assert ended.returncode == 2
    assert "no service runs on" in ended.stderr


async def test_the_routes_need_the_admin_token(service: SarkService) -> None:
    routes = [
        ("GET", "/v1/siem"),
        ("GET", "/v1/siem/main/events"),
        ("GET", "/v1/siem/main/failed"),
        ("POST", "/v1/siem/main/replay"),
        ("POST", "/v1/siem/main/purge"),
        ("POST", "/v1/siem/main/test"),
    ]
    async with http_client(service) as http:
        for method, path in routes:
            async with http.request(method, path, json={}) as response:
                assert response.status == 401, path


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"what": "everything"}, "what"),
        ({"what": "queue", "count": 0}, "count"),
        ({"what": "queue", "count": 1001}, "count"),
        ({"what": "queue", "more": 1}, "more"),
    ],
    ids=str,
)
async def test_a_purge_that_is_not_understood_drops_nothing(
    service: SarkService, body: dict[str, Any], field: str
) -> None:
    async with (
        http_client(service) as http,
        http.post("/v1/siem/main/purge", json=body, headers=service.admin) as response,
    ):
        await assert_problem(response, 422, "invalid-request", field=field)


async def test_what_is_no_json_is_shown_as_text(service: SarkService) -> None:
    with service.valkey() as client:
        client.rpush("siem:failed_events", b"not \xff JSON")
    try:
        async with (
            http_client(service) as http,
            http.get("/v1/siem/main/failed?count=1000", headers=service.admin) as response,
        ):
            found = msgspec.json.decode(await response.read())
        assert found["events"][-1] == "not \N{REPLACEMENT CHARACTER} JSON"
    finally:
        with service.valkey() as client:
            client.rpop("siem:failed_events")


async def test_a_queue_is_followed(
    server: ValkeyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VALKEY_URL", server.url)
    monkeypatch.setenv("SARK_DATA_DIR", str(tmp_path))
    shown: list[str] = []

    def has_shown(ids: list[str]) -> bool:
        shown.extend(ids_in(capsys.readouterr().out))
        return shown == ids

    async with open_store(server.url) as store:
        ids = await fill(store, 3)
        following = asyncio.create_task(_tail("main", 2, follow=True, service=None))
        await until(lambda: has_shown(ids[1:]), within=10, what="the newest are shown")
        ids += await fill(store, 4)
        await until(lambda: has_shown(ids[1:]), within=10, what="those that came are shown")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
