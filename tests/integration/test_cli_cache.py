"""``sark cache``: revoke, reload, look in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import ValkeyServer, free_port
from tests.support.service import SarkService, call_sark

ADMIN = "admin-token-7f3b0c92d1e84a65"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(
        directory,
        SARK_NEAR_CACHE_ENTRIES=1000,
        SARK_LIMIT_PER_MINUTE=0,
        SARK_POLICY_WATCH_INTERVAL=0,
    ) as running:
        yield running


def call(
    service: SarkService, *arguments: str, **variables: object
) -> subprocess.CompletedProcess[str]:
    given = {"SARK_DATA_DIR": service.data_dir, "SARK_POLICIES": "authz,silent,broken"}
    return call_sark(*arguments, **{**given, **variables})


def decide(service: SarkService, user: str) -> dict[str, Any]:
    ended = call(service, "authorize", user, "x:read", "r")
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


@pytest.mark.parametrize(
    "arguments", [("--user", "team/ann"), ("--policy", "authz"), ("--all",)], ids=lambda a: a[0]
)
def test_a_running_service_revokes(service: SarkService, arguments: tuple[str, ...]) -> None:
    decide(service, "team/ann")
    assert decide(service, "team/ann")["cached"] is not False
    ended = call(service, "cache", "invalidate", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    (token,) = ended.stdout.splitlines()
    assert token.count(".") == 3
    assert decide(service, "team/ann")["cached"] is False


@pytest.mark.parametrize(
    "arguments", [("--user", "ann"), ("--policy", "authz"), ("--all",)], ids=lambda a: a[0]
)
def test_without_a_service_it_writes_to_valkey(
    server: ValkeyServer, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    settings = {"VALKEY_URL": server.url, "SARK_KEY_DIR": tmp_path / "keys"}
    ended = call_sark("cache", "invalidate", *arguments, **settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    key = {"--user": "policy:user_version:ann", "--policy": "policy:version:authz"}.get(
        arguments[0], "policy:generation"
    )
    with server.client() as client:
        token = client.get(key)
        assert isinstance(token, bytes)
        assert client.dbsize() == 1
    assert token.decode() in ended.stdout


@pytest.mark.heavy
def test_a_failed_revocation_is_one_line_and_no_success(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    ended = call_sark(
        "cache", "invalidate", "--all",
        VALKEY_URL=f"valkey://:hunter2@{address}", SARK_KEY_DIR=tmp_path / "keys",
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert address in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "expected one of --policy NAME, --user ID and --all"),
        (("--all", "--user", "x"), 2, "expected one of --policy NAME, --user ID and --all"),
        (("--policy", ""), 1, "--policy: got an empty string"),
        (("--policy", "other"), 2, "no service runs on "),
        (("--user", ""), 1, "--user: got an empty string"),
        (("--user", "x" * 257), 1, "--user: got 257 bytes"),
        (("--user", "\udcff"), 2, "--user: got '\\udcff', expected UTF-8"),
        (("--all",), 2, "no service runs on "),
    ],
)
def test_refused(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    ended = call_sark("cache", "invalidate", *arguments, SARK_DATA_DIR=tmp_path / "data")
    assert (ended.returncode, ended.stdout) == (code, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"sark: {said}")


def test_whether_a_policy_is_served_is_the_services_to_say(
    service: SarkService, server: ValkeyServer, tmp_path: Path
) -> None:
    """Only who writes to Valkey itself has nothing but the shell's settings to go by."""
    ended = call(service, "cache", "invalidate", "--policy", "silent", SARK_POLICIES="authz")
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = call(service, "cache", "invalidate", "--policy", "other", SARK_POLICIES="other")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "policy: got 'other', expected one of: authz, silent, broken" in ended.stderr
    direct = {"VALKEY_URL": server.url, "SARK_KEY_DIR": tmp_path / "keys"}
    ended = call_sark("cache", "invalidate", "--policy", "other", **direct)
    assert (ended.returncode, ended.stdout) == (1, "")
    said = "sark: --policy: got 'other', expected one of: authz (SARK_POLICIES)\n"
    assert ended.stderr == said
    with server.client() as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize(
    "command", [("reload",), ("stats",), ("explain", "u", "a", "r")], ids=lambda c: c[0]
)
def test_what_needs_a_service_says_so(
    service: SarkService, tmp_path: Path, command: tuple[str, ...]
) -> None:
    ended = call_sark("cache", *command, SARK_DATA_DIR=tmp_path / "data")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("sark: no service runs on ")
    assert "VALKEY_URL" in ended.stderr
    ended = call_sark("cache", *command, "--service", service.url)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "sark: SARK_ADMIN_TOKEN is not set: it has to be the service's\n"
    ended = call_sark("cache", *command, "--service", "localhost", SARK_ADMIN_TOKEN=ADMIN)
    assert (ended.returncode, ended.stderr[:16]) == (2, "sark: --service:")
    ended = call_sark("cache", *command, "--service", service.url, SARK_ADMIN_TOKEN=ADMIN)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert "SARK_ADMIN_TOKEN has to be the service's" in line
    token = service.run_file["admin_token"]
    ended = call_sark("cache", *command, "--service", service.url, SARK_ADMIN_TOKEN=token)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_service_on_an_external_valkey_is_found_by_its_settings(
    server: ValkeyServer, service: SarkService
) -> None:
    ended = call_sark(
        "cache", "stats", "--json",
        VALKEY_URL=server.url, SARK_KEY_DIR=service.directory / "keys",
        SARK_PORT=service.port, SARK_ADMIN_TOKEN=service.run_file["admin_token"],
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["revision"]


def test_reload_tells_what_came_of_it(service: SarkService) -> None:
    path = service.policy_dir / "authz.rego"
    text = path.read_text()
    assert call(service, "cache", "reload").stdout.startswith("nothing has changed: revision ")
    try:
        path.write_text(f"{text}\n# changed\n")
        ended = call(service, "cache", "reload")
        assert ended.stdout.startswith("other policies are in force: revision ")
        path.write_text("package sark.authz\n{")
        ended = call(service, "cache", "reload")
        assert (ended.returncode, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"sark: Policies refused: {path}:2")
    finally:
        path.write_text(text)
        assert call(service, "cache", "reload").returncode == 0


def test_explain_for_people_and_for_programs(service: SarkService) -> None:
    arguments = ("cache", "explain", "eve", "x:read", "r[0]", "--context", 'a={"b": [1]}')
    ended = call(service, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "evaluated: a generation token is missing" in ended.stdout
    asked = call(service, "authorize", "eve", "x:read", "r[0]", "--context", 'a={"b": [1]}')
    assert asked.returncode == 0
    shown = call(service, *arguments).stdout
    assert "allow (readers may read)" in shown
    assert (
        '{"action":"x:read","context":{"a":{"b":[1]}},"resource":"r[0]","user_id":"eve"}' in shown
    )
    assert "low: kept for at most 3600 s" in shown
    found = json.loads(call(service, *arguments, "--json").stdout)
    assert found["cached"]["state"] == "valid"
    assert found["key"] in shown
    assert found["expected"] in shown
    refused = call(service, "cache", "explain", "eve", "x:read", "r", "--policy", "other")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "policy: got 'other'" in refused.stderr


def test_stats_for_people_and_for_programs(service: SarkService) -> None:
    decide(service, "sam")
    decide(service, "sam")
    call(service, "cache", "invalidate", "--user", "sam")
    found = json.loads(call(service, "cache", "stats", "--json").stdout)
    assert found["lookups"]["total"] >= 2
    assert found["invalidations"]["user"] >= 1
    shown = call(service, "cache", "stats").stdout
    for label in ("hit ratio", "evaluations", "near cache", "revoke to enforced", "in Valkey"):
        assert label in shown
    assert f"{found['stored']['decisions']:,} decisions" in shown
