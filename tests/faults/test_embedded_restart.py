"""The service while its embedded Valkey is killed below it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.polling import until, until_sync
from tests.support.service import SarkService, http_client, valkey_servers_in

REQUEST = {"user_id": "u", "action": "x:read", "resource": "r"}
HEALS_SECONDS = 10.0
# The append-only file is synced every second.
SYNCED_SECONDS = 5.0


async def authorized(service: SarkService) -> str | None:
    """Ask once; returns the decision's id when there is one."""
    async with (
        http_client(service) as http,
        http.post("/v1/authorize", json=REQUEST) as response,
    ):
        return (await response.json())["decision_id"] if response.status == 200 else None


def said(service: SarkService, words: str) -> int:
    return sum(words in line["event"] for line in service.logs)


def kill_valkey(service: SarkService) -> int:
    with service.valkey() as client:
        pid = int(client.info("server")["process_id"])  # type: ignore[index] # not awaitable here
    os.kill(pid, signal.SIGKILL)
    return pid


async def test_a_killed_embedded_server_is_started_again(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        first = await authorized(service)
        url = service.run_file["valkey_url"]
        with service.valkey() as client:
            # It waits for what its own connection wrote, and so for what came before.
            client.set("test:synced", 1, ex=60)
            client.execute_command(  # type: ignore[no-untyped-call]
                "WAITAOF", 1, 0, int(SYNCED_SECONDS * 1000)
            )
        for round_ in (1, 2):
            kill_valkey(service)
            await until(
                lambda count=round_: said(service, "runs again") == count,
                within=HEALS_SECONDS,
                what="another valkey-server runs",
            )
            await until(
                lambda: authorized(service), within=HEALS_SECONDS, what="requests are answered"
            )
        assert service.run_file["valkey_url"] == url
        assert first in [event["id"] for event in service.events()]
        ends = [line for line in service.logs if "ended by itself" in line["event"]]
        assert [line["logger"] for line in ends] == ["sark.store.embedded"] * 2, service.stderr
        assert "exit status 137" in ends[0]["event"]
        assert f"{service.data_dir}/valkey.log" in ends[0]["event"]
        assert service.stop() == 0
    until_sync(lambda: not valkey_servers_in(tmp_path), within=5, what="no server is left")
    assert not (service.data_dir / "valkey" / "valkey.sock").exists()


@pytest.mark.parametrize("kind", ["ephemeral", "long path"])
async def test_a_socket_in_a_temporary_directory_stays_where_it_was(
    tmp_path: Path, kind: str
) -> None:
    arguments = ["--ephemeral"] if kind == "ephemeral" else []
    place = tmp_path / ("data" if kind == "ephemeral" else "x" * 100)
    service = SarkService(tmp_path, *arguments, SARK_DATA_DIR=place)
    service.data_dir = place
    with service:
        assert await authorized(service)
        socket = Path(service.run_file["valkey_url"].partition("@")[2])
        kill_valkey(service)
        await until(
            lambda: said(service, "runs again"), within=HEALS_SECONDS, what="a server runs again"
        )
        assert socket.exists()  # noqa: ASYNC240
        assert await authorized(service)
        assert service.stop() == 0
        assert not socket.parent.exists()


async def test_ending_while_it_is_down_leaves_nothing(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        kill_valkey(service)
        assert service.stop() == 0
    assert valkey_servers_in(tmp_path) == []
