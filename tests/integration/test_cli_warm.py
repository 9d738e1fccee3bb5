"""``sark cache warm``, and what a service does with the hot log when it starts."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from sark.gateway import Request
from sark.runtime import open_runtime
from sark.settings import load
from tests.support.gateways import question
from tests.support.polling import until, until_sync
from tests.support.servers import ValkeyServer
from tests.support.service import (
    CHECKOUT,
    POLICIES,
    SARK,
    SarkService,
    call_sark,
    environment,
    http_client,
    run_sark,
    write_policies,
)

HOT = "policy:hot_requests"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    # The policy sees the address, and not the trace.
    directory = tmp_path_factory.mktemp("service")
    rules = directory / "policy.toml"
    rules.write_text('[policies.authz]\nexclude_context = ["trace"]\nip = true\n')
    with SarkService(directory, SARK_POLICY_FILE=rules, SARK_HOT_SAMPLE=1) as running:
        yield running


def settings_of(service: SarkService) -> dict[str, Any]:
    return {
        "SARK_DATA_DIR": service.data_dir,
        "SARK_POLICY_DIR": service.policy_dir,
        "SARK_POLICY_FILE": service.directory / "policy.toml",
        "SARK_KEY_DIR": service.directory / "keys",
        "SARK_POLICIES": "authz,silent,broken",
    }


def warm(service: SarkService, *options: str) -> subprocess.CompletedProcess[str]:
    return run_sark("cache", "warm", *options, **settings_of(service))


def summary(text: str) -> dict[str, str]:
    rows = [line.strip("│ ").split("│") for line in text.splitlines() if line.count("│") == 3]
    return {name.strip(): value.strip() for name, value in rows}


def write_lines(path: Path, *lines: str | dict[str, Any]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def line(user: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "action": "x:read", "resource": "r", **fields}


async def ask(service: SarkService, **fields: Any) -> dict[str, Any]:
    async with (
        http_client(service) as http,
        http.post("/v1/authorize", json=fields) as response,
    ):
        answer: dict[str, Any] = await response.json()
    return answer


async def test_what_a_file_warms_is_hit_by_the_service(
    service: SarkService, tmp_path: Path
) -> None:
    requests = [
        line("ann"),
        line("ben", ip="192.0.2.7", context={"trace": "abc", "kept": 1}),
        line("cleo", action="fresh"),
        line("dan", policy="silent", action="speak", api_key_id="k"),
    ]
    file = write_lines(tmp_path / "requests.jsonl", *requests, "", line("ann"))
    audited = len(service.events())
    ended = warm(service, "--from", str(file))
    assert (ended.returncode, len(service.events())) == (0, audited), ended.stderr
    found = summary(ended.stdout)
    assert found.pop("questions").startswith("5 of 5 in ")
    assert found == {
        "cached already": "1",
        "evaluated": "4, of which 3 were stored",
        "failed": "0",
        "skipped": "0",
    }
    with service.valkey() as client:
        assert list(client.scan_iter("ratelimit:*")) == []
    answers = [await ask(service, **request) for request in requests]
    assert [answer["cached"] for answer in answers] == ["valkey", "valkey", False, "valkey"]
    # Another trace is the same question, another address is not.
    again = {**requests[1], "context": {"trace": "other", "kept": 1}}
    assert (await ask(service, **again))["cached"] == "valkey"
    assert (await ask(service, **{**again, "ip": "192.0.2.8"}))["cached"] is False


@pytest.mark.heavy
def test_lines_that_are_no_questions_are_told_and_skipped(
    service: SarkService, tmp_path: Path
) -> None:
    file = write_lines(
        tmp_path / "broken.jsonl",
        "no JSON",
        line(""),
        line("eve"),
        line("eve", policy="nope"),
        line("eve", more=1),
        line("eve", ip="nowhere"),
        "[" * 100_000,
        "null",
    )
    ended = warm(service, "--from", str(file))
    assert ended.returncode == 0
    assert summary(ended.stdout)["skipped"] == "7"
    assert summary(ended.stdout)["evaluated"] == "1, of which 1 were stored"
    told = [text for text in ended.stderr.splitlines() if text.startswith("sark: ")]
    assert [text.split(": ")[1].rpartition(":")[2] for text in told[:5]] == list("12456")
    assert told[5] == "sark: ... and 2 more"


@pytest.mark.heavy
async def test_the_hot_log_is_the_default(service: SarkService) -> None:
    for _ in range(3):
        await ask(service, **line("fay"))
    with service.valkey() as client:

        def flushed() -> bool:
            return any(
                b"fay" in member for member in cast("list[bytes]", client.zrange(HOT, 0, -1))
            )

        until_sync(flushed, within=20, what="the service flushes its counts")
        client.delete(*client.scan_iter("policy:decision:*"))
    ended = warm(service)
    assert ended.returncode == 0, ended.stderr
    assert (await ask(service, **line("fay")))["cached"] == "valkey"
    limited = warm(service, "--hot", "--limit", "1")
    assert summary(limited.stdout)["questions"].startswith("1 of 1 in ")


def test_a_limit_takes_the_first_lines(service: SarkService, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "many.jsonl", *(line(f"limit-{n}") for n in range(50)))
    ended = warm(service, "--from", str(file), "--limit", "7", "--rate", "1000")
    assert summary(ended.stdout)["evaluated"] == "7, of which 7 were stored"


def test_failures_are_the_exit_status(service: SarkService, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "fails.jsonl", line("gus", policy="broken", resource="x"))
    ended = warm(service, "--from", str(file))
    assert ended.returncode == 1
    assert summary(ended.stdout)["failed"] == "1"


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(
    service: SarkService, tmp_path: Path, number: signal.Signals
) -> None:
    users = [f"signal-{number.name}-{n}" for n in range(2000)]
    file = write_lines(tmp_path / "long.jsonl", *(line(user) for user in users))

    def stored() -> int:
        with service.valkey() as client:
            return sum(1 for _ in client.scan_iter("policy:decision:*", count=1000))

    before = stored()
    with subprocess.Popen(
        [SARK, "cache", "warm", "--from", str(file), "--rate", "50"],
        cwd=CHECKOUT,
        env=environment(**settings_of(service)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until_sync(lambda: stored() > before + 5, within=30, what="some are stored")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "interrupted; what was stored stays" in err
    assert "Traceback" not in err
    evaluated = int(summary(out)["evaluated"].split(",")[0])
    assert evaluated < 2000
    # The service ends what it had begun when the connection was closed, and begins nothing.
    assert evaluated <= stored() - before <= evaluated + 50
    count = stored()
    time.sleep(0.3)
    assert stored() <= count + 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--hot", "--from", "x"), "--hot: got it beside --from, expected one of the two"),
        (("--from", "absent.jsonl"), "--from: absent.jsonl: No such file or directory"),
    ],
)
def test_misuse_is_told_in_a_line(
    service: SarkService, options: tuple[str, ...], said: str
) -> None:
    ended = warm(service, *options)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"sark: {said}\n")


def test_without_a_service_and_without_a_server(tmp_path: Path) -> None:
    ended = call_sark("cache", "warm", SARK_DATA_DIR=tmp_path)
    assert ended.returncode == 2
    assert "start one with `sark serve`, or set VALKEY_URL" in ended.stderr


def test_an_external_valkey_needs_no_service(server: ValkeyServer, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "requests.jsonl", line("hal"))
    ended = run_sark(
        "cache",
        "warm",
        "--from",
        str(file),
        VALKEY_URL=server.url,
        SARK_POLICY_DIR=write_policies(tmp_path / "policies"),
        SARK_KEY_DIR=tmp_path / "keys",
    )
    assert ended.returncode == 0, ended.stderr
    with server.client() as client:
        assert len(list(client.scan_iter("policy:decision:*"))) == 1


def external(server: ValkeyServer, tmp_path: Path, policies: Path) -> dict[str, Any]:
    return {
        "VALKEY_URL": server.url,
        "SARK_POLICY_DIR": policies,
        "SARK_KEY_DIR": tmp_path / "keys",
        "SARK_DATA_DIR": tmp_path / "data",
        "SARK_TTL_JITTER": 0,
    }


@pytest.mark.heavy
async def test_other_policies_than_the_services_destroy_nothing(
    server: ValkeyServer, tmp_path: Path
) -> None:
    """Decisions that this process can't explain may be the services' valid ones."""
    policies = write_policies(tmp_path / "policies")
    variables = external(server, tmp_path, policies)
    file = write_lines(tmp_path / "requests.jsonl", *(line(f"u-{n}") for n in range(20)))
    asked = [Request(user_id=f"u-{n}", action="x:read", resource="r") for n in range(20)]
    settings = load(environment(**variables, SARK_NEAR_CACHE_ENTRIES=0))
    async with open_runtime(settings) as service:
        for request in asked[:15]:
            await service.authorize(request)
        texts = {**POLICIES, "authz.rego": POLICIES["authz.rego"] + "# another revision\n"}
        variables["SARK_POLICY_DIR"] = write_policies(tmp_path / "others", texts)
        ended = await asyncio.to_thread(run_sark, "cache", "warm", "--from", str(file), **variables)
        assert ended.returncode == 1, ended.stderr
        found = summary(ended.stdout)
        assert found["left alone"] == "15, cached under another stamp"
        assert found["evaluated"] == "5, of which 5 were stored"
        assert "made under other policies than this process has (revision " in ended.stderr
        answers = [await service.authorize(request) for request in asked[:15]]
        assert [answer.cached for answer in answers] == ["valkey"] * 15


@pytest.mark.heavy
async def test_another_form_of_keys_is_refused(server: ValkeyServer, tmp_path: Path) -> None:
    variables = external(server, tmp_path, write_policies(tmp_path / "policies"))
    file = write_lines(tmp_path / "requests.jsonl", line("ann"))
    with server.client() as client:
        client.set("policy:decision:" + "a" * 64, b"", ex=60)
    ended = run_sark("cache", "warm", "--from", str(file), **variables, SARK_CACHE_KEY="compact")
    assert ended.returncode == 2
    assert ended.stderr == (
        "sark: SARK_CACHE_KEY: got 'compact', but the decisions on the server have keys of the "
        "form 'full': expected the setting of the services\n"
    )


async def test_the_service_decides_by_its_own_policies(
    service: SarkService, tmp_path: Path
) -> None:
    """Whatever policies are named where the command runs."""
    file = write_lines(tmp_path / "requests.jsonl", *(line(f"own-{n}") for n in range(1500)))
    denying = {"authz.rego": 'package sark.authz\nimport rego.v1\ndecision := {"allow": false}\n'}
    ended = run_sark(
        *("cache", "warm", "--from", str(file), "--rate", "100000"),
        SARK_DATA_DIR=service.data_dir,
        SARK_POLICY_DIR=write_policies(tmp_path / "policies", denying),
    )
    assert ended.returncode == 0, ended.stderr
    assert summary(ended.stdout)["evaluated"] == "1,500, of which 1,500 were stored"
    for number in (0, 1499):
        answer = await ask(service, **line(f"own-{number}"))
        assert (answer["allow"], answer["cached"]) == (True, "valkey")


@pytest.mark.heavy
def test_a_service_elsewhere_is_named(service: SarkService, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "requests.jsonl", line("elsewhere"))
    token = service.run_file["admin_token"]
    options = ("cache", "warm", "--from", str(file), "--service", service.url)
    ended = run_sark(*options, SARK_DATA_DIR=tmp_path, SARK_ADMIN_TOKEN=token)
    assert (ended.returncode, summary(ended.stdout)["failed"]) == (0, "0"), ended.stderr
    refused = run_sark(*options, SARK_DATA_DIR=tmp_path, SARK_ADMIN_TOKEN="x" * 20)
    assert refused.returncode == 1
    assert "SARK_ADMIN_TOKEN has to be the service's" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.heavy
async def test_a_service_warms_what_was_asked_before_it_stopped(tmp_path: Path) -> None:
    service = SarkService(tmp_path, SARK_HOT_SAMPLE=1, SARK_WARM_READY_MS=60_000)
    with service:
        for user in ("ida", "jon"):
            await ask(service, **line(user))
        service.stop()
    with service:
        async with http_client(service) as http:

            async def ready() -> bool:
                async with http.get("/health/ready") as response:
                    return response.status == 200

            await until(ready, within=20, what="it is ready")
        until_sync(
            lambda: any(entry["event"] == "cache warmed" for entry in service.logs),
            within=20,
            what="it tells that it has warmed the cache",
        )
        (told,) = [entry for entry in service.logs if entry["event"] == "cache warmed"]
        # The embedded server is another run of itself, so its decisions don't count.
        assert (told["evaluated"], told["stored"], told["failed"]) == (2, 2, 0)
        assert (await ask(service, **line("jon")))["cached"] == "valkey"


def test_a_service_does_not_when_told_so(server: ValkeyServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.zadd(HOT, {question(action="x:read").text: 1})
        client.expire(HOT, 60)
        with SarkService(tmp_path, VALKEY_URL=server.url, SARK_WARM_ON_START="false") as service:
            assert service.stop() == 0
            assert not list(client.scan_iter("policy:decision:*"))
            assert not [entry for entry in service.logs if "warmed" in entry["event"]]
