"""``sark serve`` as a process: how it starts, how it refuses to start, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import until, until_sync
from tests.support.processes import is_gone
from tests.support.servers import ValkeyServer
from tests.support.service import (
    CHECKOUT,
    SARK,
    SarkService,
    http_client,
    run_sark,
    valkey_servers_in,
    write_policies,
)

REQUEST = {"user_id": "u", "action": "x:read", "resource": "r"}


async def authorize(service: SarkService, **fields: Any) -> dict[str, Any]:
    async with (
        http_client(service) as http,
        http.post("/v1/authorize", json=REQUEST | fields) as response,
    ):
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


def assert_nothing_is_left(service: SarkService) -> None:
    assert not (service.data_dir / "run.json").exists()
    assert not (service.data_dir / "valkey" / "valkey.sock").exists()
    until_sync(
        lambda: not valkey_servers_in(service.directory), within=5, what="valkey-server is gone"
    )


def refusal(directory: Path, **variables: object) -> str:
    """Start a service that must not start; returns the one line it says."""
    variables = {"SARK_DATA_DIR": directory / "data", "SARK_PORT": 0, **variables}
    ended = run_sark("serve", **variables)  # type: ignore[arg-type] # none is called cwd
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("sark: ")
    return line


# The start


def test_the_summary_says_what_runs_where(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        lines = service.stdout.splitlines()
        rows = {line[2:14].strip(): line[15:] for line in lines[1:]}
        assert lines[0] == "SARK 0.1.0 is ready; Ctrl-C stops it."
        assert rows["service"] == f"{service.url}/v1/authorize"
        assert rows["valkey"] == f"embedded, unix://{service.data_dir}/valkey/valkey.sock"
        assert rows["policies"].startswith("authz, silent, broken, revision ")
        assert rows["engine"] == f"embedded Rego, {service.policy_dir}"
        assert rows["callers"] == "need no credential"
        assert rows["try"] == "sark authorize user-0001 server:read server/web-001"
        assert max(map(len, lines)) < 200


async def test_it_serves_an_external_valkey(server: ValkeyServer, tmp_path: Path) -> None:
    with SarkService(tmp_path, VALKEY_URL=server.url) as service:
        assert f"{server.host}:{server.port}" in service.stdout
        assert server.password not in service.stdout + service.stderr
        assert not service.data_dir.exists()
        await authorize(service)
        assert valkey_servers_in(tmp_path) == []
        assert service.stop() == 0
    with server.client() as client:
        assert client.llen("siem:event_queue") == 1


async def test_an_unreachable_valkey_is_told_and_waited_for(
    private_server: Callable[..., ValkeyServer], tmp_path: Path
) -> None:
    valkey = private_server()
    valkey.kill()
    with SarkService(tmp_path, VALKEY_URL=valkey.url) as service:
        headline = service.stdout.splitlines()[0]
        place = f"valkey state: {valkey.host}:{valkey.port}: "
        assert headline.startswith(f"SARK 0.1.0 runs, but is not ready: {place}")
        assert " is ready;" not in service.stdout
        assert valkey.password not in service.stdout + service.stderr
        valkey.start()
        async with http_client(service) as http:

            async def answered() -> bool:
                async with http.post("/v1/authorize", json=REQUEST) as response:
                    return response.status == 200

            await until(answered, within=10, what="requests are answered")
        assert service.stop() == 0


async def test_ipv6_loopback(tmp_path: Path) -> None:
    with SarkService(tmp_path, SARK_HOST="::1") as service:
        assert service.url.startswith("http://[::1]:")
        await authorize(service)


# The start that is refused


@pytest.mark.heavy
def test_a_data_directory_belongs_to_one_service(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        line = refusal(tmp_path, SARK_DATA_DIR=service.data_dir)
        assert f"in use by another service (pid {service.process.pid})" in line
        assert "SARK_DATA_DIR" in line
        assert service.run_file["pid"] == service.process.pid  # not taken away
        assert len(valkey_servers_in(tmp_path)) == 1


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(tmp_path, SARK_PORT=port)
    assert line == (
        f"sark: cannot listen on 127.0.0.1:{port} (SARK_HOST, SARK_PORT): Address already in use"
    )


def test_a_refused_password_is_told(server: ValkeyServer, tmp_path: Path) -> None:
    place = f"{server.host}:{server.port}"
    for credentials in ("", ":not-the-password@", "nobody:not-the-password@"):
        line = refusal(
            tmp_path,
            VALKEY_URL=f"valkey://{credentials}{place}/0",
            SARK_POLICY_DIR=CHECKOUT / "examples/policies",
            SARK_KEY_DIR=tmp_path / "keys",
        )
        assert "(VALKEY_URL, VALKEY_PASSWORD): " + place in line
        assert "not-the-password" not in line


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("package sark.authz\n\ndecision := {", "bad.rego:3"),
        ("package sark.authz\n\ndecision := x if { y }\n", "bad.rego:3"),
    ],
    ids=["syntax", "unsafe"],
)
def test_bad_rego_is_told_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    policies = write_policies(tmp_path / "policies", {"bad.rego": text})
    line = refusal(tmp_path, SARK_POLICY_DIR=policies)
    assert f"{policies}/{place}".rstrip("/") in line


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SARK_POLICY_DIR": "/nonexistent"}, "/nonexistent: no such directory"),
        ({"SARK_POLICIES": "authz,missing"}, "no rule data.sark.missing.decision"),
        ({"SARK_DATA_DIR": "/dev/null/x"}, "cannot be used: Not a directory"),
    ],
    ids=str,
)
def test_what_is_missing_is_told(tmp_path: Path, variables: dict[str, str], told: str) -> None:
    line = refusal(tmp_path, **variables)
    assert told in line
    assert valkey_servers_in(tmp_path) == []


@pytest.mark.heavy
def test_outside_a_checkout_it_says_what_it_needs(tmp_path: Path) -> None:
    ended = run_sark("serve", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        "sark: SARK_POLICY_DIR is not set: name the directory of the Rego policies\n"
    )


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with SarkService(tmp_path) as service:
        path = service.data_dir / "run.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert service.run_file["pid"] == service.process.pid
        async with http_client(service) as http:
            async with http.get("/health/live") as response:
                await response.read()
            # A connection that is idle delays nothing.
            assert service.stop(number) == 0
        assert [line for line in service.logs if line["level"] != "info"] == []
    assert_nothing_is_left(service)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_during_the_start_leave_nothing(tmp_path: Path, number: signal.Signals) -> None:
    service = SarkService(tmp_path).launch()
    try:
        until_sync(lambda: valkey_servers_in(tmp_path), within=20, what="valkey-server runs")
        service.process.send_signal(number)
        assert service.wait() in {0, 130}
        assert "Traceback" not in service.stderr
        assert_nothing_is_left(service)
    finally:
        service.close()


async def test_requests_under_way_are_answered(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        body = json.dumps(REQUEST).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            b"POST /v1/authorize HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
        )
        # The service has begun with the request when it asks for the body.
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        service.process.send_signal(signal.SIGTERM)
        await until(lambda: not accepts(service.port), within=5, what="nobody else is let in")
        writer.write(body)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b"HTTP/1.1 200 OK" in answer
        assert b'"allow":true' in answer
        writer.close()
        await writer.wait_closed()
        assert service.wait() == 0
    assert_nothing_is_left(service)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


async def test_a_second_interrupt_does_not_wait_for_requests(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            b"POST /v1/authorize HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        )
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        service.process.send_signal(signal.SIGINT)
        await until(lambda: not accepts(service.port), within=5, what="it is ending")
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGINT)
        await until(
            lambda: service.process.poll() is not None, within=5, what="it does not wait longer"
        )
        assert service.process.returncode == 0
        assert service.stderr == ""
        writer.close()
    assert_nothing_is_left(service)


async def test_data_survive_a_restart(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        first = await authorize(service)
        service.stop()
        service.start()
        assert [event["id"] for event in service.events()] == [first["decision_id"]]
        # The limit goes on where it was. The decision is evaluated anew: another run of the
        # server might have lost an invalidation.
        second = await authorize(service)
        assert (second["cached"], second["limits"][0]["remaining"]) == (False, 998)


@pytest.mark.heavy
async def test_an_ephemeral_run_forgets_and_spares_what_was_kept(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        kept = await authorize(service)
    with SarkService(tmp_path, "--ephemeral") as service:
        assert service.events() == []
        await authorize(service)
        assert len(service.events()) == 1
    with SarkService(tmp_path) as service:
        assert [event["id"] for event in service.events()] == [kept["decision_id"]]


@pytest.mark.heavy
async def test_killed_it_leaves_no_server_and_starts_again(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        await authorize(service)
        # What is asserted is the end of the server; AOF everysec may lose the event.
        (valkey_server,) = valkey_servers_in(tmp_path)
        service.process.kill()
        assert service.wait() == -signal.SIGKILL
        until_sync(lambda: is_gone(valkey_server), within=10, what="valkey-server is gone")
        ended = run_sark("authorize", "a", "b", "c", SARK_DATA_DIR=service.data_dir)
        assert (ended.returncode, "no service runs on" in ended.stderr) == (2, True)
        service.start()
        await authorize(service)


# make run, as a newcomer does


@pytest.mark.heavy
def test_make_run(tmp_path: Path) -> None:
    service = SarkService(
        tmp_path, command=("make", "run"), SARK_POLICY_DIR=None, SARK_POLICIES=None
    )
    with service:
        asked = run_sark(
            "authorize", "user-0001", "server:read", "server/web-001",
            SARK_DATA_DIR=service.data_dir,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)["reason"] == "role engineer may server:read"
        pid = service.run_file["pid"]
        # As Ctrl-C in a terminal does: to make and to the service.
        os.killpg(service.process.pid, signal.SIGINT)
        # make reports an interrupt by ending of it; the service itself ends in order.
        assert service.wait() in {0, -signal.SIGINT}
        until_sync(lambda: is_gone(pid), within=5, what="the service is gone")
        assert "Traceback" not in service.stderr
        assert "***" not in service.stderr
    assert_nothing_is_left(service)


def test_the_example_of_the_readme_is_true(tmp_path: Path) -> None:
    """Each command that README.md shows with its output gives that output."""
    readme = (CHECKOUT / "README.md").read_text()
    shown = re.search(r"\$ sark (authorize .*)\n(\{\n(?:.*\n)*?\})\n", readme)
    assert shown is not None
    with SarkService(
        tmp_path, command=(SARK, "serve"), SARK_POLICY_DIR=None, SARK_POLICIES=None
    ) as service:
        summary = [line[2:14].strip() for line in service.stdout.splitlines()]
        printed = readme[readme.index("SARK 0.1.0 is ready") :].split("```")[0].splitlines()
        assert summary == [line[2:14].strip() for line in printed]
        ended = run_sark(*shown[1].split(), SARK_DATA_DIR=service.data_dir)
        assert ended.returncode == 0
        found, expected = json.loads(ended.stdout), json.loads(shown[2])
        assert found.pop("decision_id") != expected.pop("decision_id")
        assert expected["ttl"] * 0.9 <= found.pop("ttl") <= expected.pop("ttl")
        assert found == expected

        curl = re.search(r"-d '(\{.*?\})'\n(\{.*), \.\.\.\}", readme, re.DOTALL)
        assert curl is not None
        asked = json.loads(curl[1])
        again = run_sark(
            "authorize", asked["user_id"], asked["action"], asked["resource"],
            SARK_DATA_DIR=service.data_dir,
        )  # fmt: skip
        denied, shown_denial = json.loads(again.stdout), json.loads(curl[2] + "}")
        assert {name: denied[name] for name in shown_denial} == shown_denial


# Logs


async def test_logs_are_lines_of_json(tmp_path: Path) -> None:
    with SarkService(tmp_path, SARK_LOG_LEVEL="debug", SARK_LOG_FORMAT="auto") as service:
        await authorize(service, policy="broken")
        logs = service.logs
    assert {"event", "level", "logger", "timestamp"} <= set.intersection(*map(set, logs))
    (failed,) = [line for line in logs if line["event"] == "evaluation failed"]
    assert (failed["level"], failed["policy"]) == ("warning", "broken")
