"""``sark authorize`` and ``sark demo`` as processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import until_sync
from tests.support.servers import ValkeyServer, free_port
from tests.support.service import (
    CHECKOUT,
    SARK,
    SarkService,
    call_sark,
    environment,
    run_sark,
    valkey_servers_in,
    write_policies,
)

TOKEN = "service-token-51c07be2f9d84a36"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(directory, SARK_SERVICE_TOKEN=TOKEN, SARK_LIMIT_PER_MINUTE=2) as running:
        yield running


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for TMPDIR, short enough for the paths of sockets in it."""
    with tempfile.TemporaryDirectory(prefix="sark-") as path:
        yield Path(path)


def ask(
    service: SarkService, *arguments: str, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    return call_sark(
        "authorize", *arguments, SARK_DATA_DIR=service.data_dir, SARK_SERVICE_TOKEN=token
    )


def test_allowed(service: SarkService) -> None:
    ended = ask(service, "ann", "x:read", "r", "--ip", "192.0.2.9", "--api-key-id", "k")
    assert (ended.returncode, ended.stderr) == (0, "")
    answer = json.loads(ended.stdout)
    assert (answer["allow"], answer["policy"]) == (True, "authz")
    assert [limit["kind"] for limit in answer["limits"]] == ["user", "ip", "apikey"]
    event = service.events()[-1]
    assert event["id"] == answer["decision_id"]
    assert (event["ip"], event["api_key_id"]) == ("192.0.2.9", "k")


def test_denied(service: SarkService) -> None:
    ended = ask(service, "ben", "x:destroy", "r")
    assert (ended.returncode, ended.stderr) == (3, "")
    assert json.loads(ended.stdout)["reason"] == "nothing permits this"


def test_the_context_arrives_as_it_was_meant(service: SarkService) -> None:
    options = ("allow=true", "text=some words", "number=1.5", 'object={"a": [null]}')
    arguments = [part for option in options for part in ("--context", option)]
    ended = ask(service, "cleo", "context", "r", *arguments)
    assert ended.returncode == 0
    assert service.events()[-1]["context"] == {
        "allow": True,
        "text": "some words",
        "number": 1.5,
        "object": {"a": [None]},
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "a", "r"), "Invalid request: user_id: got an empty string"),
        (("dan", "a", "r", "--ip", "x"), "Invalid request: ip: got no IPv4 or IPv6 address"),
        (("dan", "a", "r", "--policy", "x"), "Invalid request: policy: got 'x', expected one of"),
    ],
)
def test_refused(service: SarkService, arguments: tuple[str, ...], said: str) -> None:
    ended = ask(service, *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"sark: {said}")


def test_limited(service: SarkService) -> None:
    codes = [ask(service, "eve", "x:read", "r") for _ in range(3)]
    assert [ended.returncode for ended in codes] == [0, 0, 1]
    assert codes[-1].stderr.startswith("sark: Too many requests: the rate limit of this user")


@pytest.mark.parametrize("token", [None, "another-token-0f1e2d3c4b5a6978"])
def test_without_the_service_token(service: SarkService, token: str | None) -> None:
    ended = ask(service, "fay", "x:read", "r", token=token)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert "Unauthenticated" in line
    assert "SARK_SERVICE_TOKEN" in line
    assert TOKEN not in line


def test_an_external_valkey_needs_no_service(server: ValkeyServer, tmp_path: Path) -> None:
    policies = write_policies(tmp_path)
    ended = call_sark(
        "authorize",
        "gus",
        "x:read",
        "r",
        VALKEY_URL=server.url,
        SARK_POLICY_DIR=policies,
        SARK_KEY_DIR=policies / "keys",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    with server.client() as client:
        (event,) = client.lrange("siem:event_queue", 0, -1)
    assert json.loads(event)["id"] == json.loads(ended.stdout)["decision_id"]


def test_an_external_valkey_that_is_away_is_told(tmp_path: Path) -> None:
    """It decides as a service would; where the record is, nobody else could tell."""
    address = f"127.0.0.1:{free_port()}"
    policies, spill = write_policies(tmp_path), tmp_path / "spill"
    variables = {
        "VALKEY_URL": f"valkey://:hunter2@{address}",
        "SARK_POLICY_DIR": policies,
        "SARK_KEY_DIR": policies / "keys",
        "SARK_SPILL_DIR": spill,
    }
    ended = call_sark("authorize", "gus", "x:read", "r", **variables)
    assert (ended.returncode, json.loads(ended.stdout)["allow"]) == (0, True)
    (line,) = ended.stderr.splitlines()
    # Late: the time of the request was over while it still tried to connect.
    assert re.search(rf"{address} did not take the audit event \((unavailable|late)\)", line)
    assert str(spill) in line
    assert "hunter2" not in line
    assert [*spill.glob("spill-*.db")]


def test_an_external_valkey_that_is_away_and_nowhere_to_spill_is_an_error(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    policies = write_policies(tmp_path)
    variables = {
        "VALKEY_URL": f"valkey://:hunter2@{address}",
        "SARK_POLICY_DIR": policies,
        "SARK_KEY_DIR": policies / "keys",
        "SARK_SPILL_MAX_BYTES": 0,
    }
    ended = call_sark("authorize", "gus", "x:read", "r", **variables)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert address in line
    assert "hunter2" not in line


# The demo


def sample(directory: Path, count: int) -> Path:
    path = directory / "requests.jsonl"
    with (CHECKOUT / "examples/requests.jsonl").open() as lines:
        path.write_text("".join(next(lines) for _ in range(count)))
    return path


def test_the_demo_tells_what_happened(tmp_path: Path, temporary: Path) -> None:
    path = sample(tmp_path, 200)
    # VALKEY_URL leads nowhere: the demo must not touch it.
    ended = run_sark(
        "demo", "--requests", str(path), "--repeat", "2", "--concurrency", "10",
        TMPDIR=temporary, VALKEY_URL="valkey://127.0.0.1:1", SARK_DATA_DIR=tmp_path / "data",
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    figures = dict(re.findall(r"│ ([a-z ]+?) +│ (.*?) +│", ended.stdout))
    assert figures["requests"].startswith("400 in ")
    assert re.match(r"[\d,]+ requests/s", figures["throughput"])
    assert re.match(r"p50 [\d.]+ ms, p95 [\d.]+ ms, p99 [\d.]+ ms", figures["latency"])
    hits = int(figures["cache hits"].split()[0])
    assert 150 < hits < 400
    allowed = int(figures["allowed"].split()[0])
    assert allowed + int(figures["denied"]) == 400
    assert figures["rate limited"] == "0"
    assert figures["audit events"] == "400 accepted, 400 forwarded to a file"
    reasons = [int(count) for _, count in re.findall(r"│ ([^│]+?) +│ ([\d,]+) +│", ended.stdout)]
    assert sum(reasons) >= int(figures["denied"])
    assert "Nothing is left behind." in ended.stdout
    assert valkey_servers_in(temporary) == []
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "data").exists()


def test_a_request_that_is_not_valid_is_told(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    good = '{"user_id":"u","action":"a","resource":"r"}\n'
    path.write_text(good + good.replace('"u"', '""'))
    ended = run_sark("demo", "--requests", str(path), TMPDIR=tmp_path)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"sark: {path}:2: user_id: got an empty string")
    assert valkey_servers_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(
    tmp_path: Path, temporary: Path, number: signal.Signals
) -> None:
    path = sample(tmp_path, 1000)
    with subprocess.Popen(
        [SARK, "demo", "--requests", path, "--repeat", "1000"],
        cwd=CHECKOUT,
        env=environment(TMPDIR=temporary, SARK_LIMIT_PER_MINUTE=0),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            until_sync(lambda: valkey_servers_in(temporary), within=20, what="the demo started")
            os.killpg(process.pid, number)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    until_sync(lambda: not valkey_servers_in(temporary), within=5, what="its server is gone")
    assert list(temporary.iterdir()) == []


def test_a_stranger_on_the_services_port_is_told(service: SarkService, tmp_path: Path) -> None:
    """Whoever answers in the place of a service, with JSON or not, is no traceback."""
    run_file: dict[str, Any] = dict(service.run_file)

    async def serve_once(reply: bytes) -> subprocess.CompletedProcess[str]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + reply)
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as stranger:
            port = stranger.sockets[0].getsockname()[1]
            path = service.data_dir / "run.json"
            path.write_text(json.dumps({**run_file, "http": f"http://127.0.0.1:{port}"}))
            try:
                return await asyncio.to_thread(ask, service, "hal", "x:read", "r")
            finally:
                path.write_text(json.dumps(run_file))

    for reply in (b"<html>", b"[]"):
        ended = asyncio.run(serve_once(reply))
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.endswith("answered 200 without a JSON object\n")
