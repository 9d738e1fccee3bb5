"""Policies change under a running service: by signal, by command, by themselves."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sark.errors import EvaluationError, PolicyError
from sark.events import Hub, PoliciesReloaded, PoliciesRestored, PolicyReloadFailed
from sark.file_watch import FileWatcher, fingerprint
from sark.gateway import Request
from sark.policy import Question
from sark.policy.policy_file import PolicyFile
from sark.policy.reload import PolicyReloader
from sark.runtime import Runtime, open_runtime
from sark.settings import Settings
from sark.settings._urls import ServerUrl
from tests.support.gateways import Scripted, policy_cache, policy_decisions
from tests.support.gateways import open_store as store_at
from tests.support.opa import OpaServer
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import (
    SARK,
    SarkService,
    assert_problem,
    call_sark,
    http_client,
    write_policies,
)

GRANTING = 'package sark.authz\ndecision := {"allow": true, "reason": "%s"}\n'
QUESTION = {"user_id": "ann", "action": "x:read", "resource": "r"}
DENYING = 'package sark.authz\ndecision := {"allow": false, "reason": "no more"}\n'
BROKEN = "package sark.authz\ndecision := {\n"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[SarkService]:
    """A service that looks at its files only when it is told to."""
    policies = write_policies(tmp_path / "policies", {"authz.rego": GRANTING % "first"})
    (tmp_path / "policy.toml").write_text('[sensitivity]\nlow = ["*:read"]\n')
    with SarkService(
        tmp_path,
        SARK_POLICIES="authz",
        SARK_POLICY_DIR=policies,
        SARK_POLICY_FILE=tmp_path / "policy.toml",
        SARK_POLICY_WATCH_INTERVAL=0,
    ) as running:
        yield running


async def ask(http: aiohttp.ClientSession) -> tuple[bool, str, Any]:
    async with http.post("/v1/authorize", json=QUESTION) as response:
        assert response.status == 200
        answer = await response.json()
    return answer["allow"], answer["reason"], answer["cached"]


def logged(service: SarkService, event: str) -> list[dict[str, Any]]:
    return [line for line in service.logs if line["event"] == event]


async def test_a_signal_reloads(service: SarkService) -> None:
    async with http_client(service) as http:
        assert await ask(http) == (True, "first", False)
        assert await ask(http) == (True, "first", "valkey")
        (service.policy_dir / "authz.rego").write_text(DENYING)
        assert await ask(http) == (True, "first", "valkey"), "nobody asked for it yet"
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: logged(service, "policies reloaded"), within=10, what="it reloads")
        assert await ask(http) == (False, "no more", False)
    assert service.stop() == 0


async def test_broken_policies_are_refused_and_the_running_ones_stay(service: SarkService) -> None:
    async with http_client(service) as http:
        assert await ask(http) == (True, "first", False)
        (service.policy_dir / "authz.rego").write_text(BROKEN)
        service.process.send_signal(signal.SIGHUP)
        said = "policies refused, the running ones stay"
        await until(lambda: logged(service, said), within=10, what="it refuses")
        (line,) = logged(service, said)
        assert line["level"] == "error"
        assert "authz.rego:" in line["reason"]
        assert await ask(http) == (True, "first", "valkey")


async def reload(http: aiohttp.ClientSession, service: SarkService) -> dict[str, Any]:
    async with http.post("/v1/policies/reload", headers=service.admin) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
    return answer


async def test_the_route_tells_what_came_of_it(service: SarkService) -> None:
    async with http_client(service) as http:
        before = await reload(http, service)
        assert before["changed"] is False
        (service.policy_dir / "authz.rego").write_text(DENYING)
        after = await reload(http, service)
        assert after["changed"] is True
        assert after["revision"] != before["revision"]
        assert await ask(http) == (False, "no more", False)


async def test_the_policy_file_is_reloaded_too(service: SarkService) -> None:
    async with http_client(service) as http:
        assert await ask(http) == (True, "first", False)
        (service.directory / "policy.toml").write_text('[sensitivity]\nhigh = ["*:read"]\n')
        assert (await reload(http, service))["changed"] is True
        async with http.post("/v1/authorize", json=QUESTION) as response:
            answer = await response.json()
        assert (answer["cached"], answer["ttl"]) == (False, 300)


@pytest.mark.parametrize("broken", ["authz.rego", "policy.toml"])
async def test_all_or_nothing(service: SarkService, broken: str) -> None:
    """A good half does not come into force beside a broken one."""
    texts = {"authz.rego": DENYING, "policy.toml": '[sensitivity]\nhigh = ["*:read"]\n'}
    texts[broken] = BROKEN if broken == "authz.rego" else "[sensitivity]\nlow = 1\n"
    async with http_client(service) as http:
        assert await ask(http) == (True, "first", False)
        (service.policy_dir / "authz.rego").write_text(texts["authz.rego"])
        (service.directory / "policy.toml").write_text(texts["policy.toml"])
        async with http.post("/v1/policies/reload", headers=service.admin) as response:
            problem = await assert_problem(response, 422, "policies-refused")
        assert re.search(rf"{broken}:\d+", problem["detail"])
        assert await ask(http) == (True, "first", "valkey")
        async with http.get("/metrics") as response:
            assert 'sark_policy_reloads_total{result="failed"} 1.0' in await response.text()
        assert re.search(rf"{broken}:\d+", await refused_reload(http, service))
        (service.policy_dir / "authz.rego").write_text(DENYING)
        (service.directory / "policy.toml").write_text("[sensitivity]\n")
        await reload(http, service)
        assert await refused_reload(http, service) == ""


async def refused_reload(http: aiohttp.ClientSession, service: SarkService) -> str:
    async with http.get("/v1/status", headers=service.admin) as response:
        assert response.status == 200
        refused: str = (await response.json())["reload_refused"]
    return refused


# By themselves


@pytest.fixture
async def runtime(server: ValkeyServer, tmp_path: Path) -> AsyncIterator[Runtime]:
    policies = write_policies(tmp_path / "policies", {"authz.rego": GRANTING % "first"})
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=policies,
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
        policy_watch_interval=0.02,
        limit_per_minute=0,
    )
    async with open_runtime(settings) as opened:
        yield opened


def collect(hub: Hub) -> tuple[list[PoliciesReloaded], list[PolicyReloadFailed]]:
    reloaded: list[PoliciesReloaded] = []
    failed: list[PolicyReloadFailed] = []
    hub.on(PoliciesReloaded, reloaded.append)
    hub.on(PolicyReloadFailed, failed.append)
    return reloaded, failed


async def test_a_changed_file_is_noticed(runtime: Runtime, tmp_path: Path) -> None:
    reloaded, _ = collect(runtime.hub)
    before = runtime.gateway.decisions.revision
    (tmp_path / "policies" / "authz.rego").write_text(DENYING)
    await until(lambda: reloaded, within=10, what="the change is noticed")
    assert runtime.gateway.decisions.revision == reloaded[0].revision != before


async def test_a_half_written_file_is_tried_again_when_it_is_whole(
    runtime: Runtime, tmp_path: Path
) -> None:
    reloaded, failed = collect(runtime.hub)
    before = runtime.gateway.decisions.revision
    path = tmp_path / "policies" / "authz.rego"
    path.write_text(DENYING[:40])
    await until(lambda: failed, within=10, what="the half is refused")
    await asyncio.sleep(0.2)
    assert len(failed) == 1, "one change, one attempt"
    assert (reloaded, runtime.gateway.decisions.revision) == ([], before)
    path.write_text(DENYING)
    await until(lambda: reloaded, within=10, what="the whole is taken")


async def test_a_directory_that_goes_and_comes_back(runtime: Runtime, tmp_path: Path) -> None:
    reloaded, failed = collect(runtime.hub)
    policies = tmp_path / "policies"
    policies.rename(tmp_path / "away")
    await until(lambda: failed, within=10, what="its absence is told")
    write_policies(policies, {"authz.rego": DENYING})
    await until(lambda: reloaded, within=10, what="the new one is taken")


async def test_the_old_files_back_after_a_refusal_are_told(
    runtime: Runtime, tmp_path: Path
) -> None:
    """Else the last word would be that the policies were refused."""
    reloaded, failed = collect(runtime.hub)
    restored: list[PoliciesRestored] = []
    runtime.hub.on(PoliciesRestored, restored.append)
    broken = tmp_path / "policies" / "broken.rego"
    broken.write_text(BROKEN)
    await until(lambda: failed, within=10, what="the broken one is refused")
    broken.unlink()
    await until(lambda: restored, within=10, what="it is told that all is well")
    assert restored[0].revision == runtime.gateway.decisions.revision
    assert runtime.policies.refused == ""
    await runtime.reload()
    assert (len(restored), reloaded) == (1, [])


# The watcher and its parts


def test_a_fingerprint_sees_names_sizes_times_and_replaced_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep/er/a.rego").write_text("one")

    def differs(change: Callable[[], object]) -> bool:
        before = fingerprint([tmp_path])
        assert fingerprint([tmp_path]) == before
        change()
        return fingerprint([tmp_path]) != before

    path = tmp_path / "deep/er/a.rego"
    at = path.stat().st_mtime_ns

    def replace() -> None:
        other = tmp_path / ".other"
        other.write_text("two")
        os.utime(other, ns=(at, at))
        other.rename(path)

    assert differs(lambda: (tmp_path / "deep/b.json").write_text("{}"))
    assert differs(lambda: path.write_text("three"))
    assert differs(lambda: os.utime(path, ns=(1, 1)))
    assert differs(replace)
    assert differs(path.unlink)
    # Not what the policies' reader leaves out; the directory's own time is put back.
    status = (tmp_path / "deep").stat()
    (tmp_path / "deep/.b.json.swp").write_text("x")
    os.utime(tmp_path / "deep", ns=(status.st_atime_ns, status.st_mtime_ns))
    before = fingerprint([tmp_path / "deep"])
    assert not any(".swp" in entry[0] for entry in before)


async def test_an_engine_that_is_away_is_asked_again(server: ValkeyServer, tmp_path: Path) -> None:
    """The files need not change for another attempt when they are not what was wrong."""
    path = tmp_path / "policy.toml"
    path.write_text('[sensitivity]\nlow = ["a"]\n')
    attempts = 0

    async def refresh() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise EvaluationError("away")

    async with store_at(server.url) as store:
        decisions = policy_decisions(policy_cache(store), Scripted())
        hub = Hub()
        reloaded, failed = collect(hub)
        reloader = PolicyReloader(decisions, refresh, policies=("authz",), path=path, hub=hub)
        watcher = FileWatcher(reloader, [path], (), interval=0.02)
        task = asyncio.create_task(watcher.run())
        try:
            await until(lambda: reloaded, within=10, what="the third attempt succeeds")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert (attempts, len(failed)) == (3, 2)
    assert decisions.cache.rules.path == path


async def test_an_engine_that_refuses_leaves_the_rules(
    server: ValkeyServer, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")

    async def refresh() -> None:
        raise PolicyError("authz.rego:1: no")

    async with store_at(server.url) as store:
        decisions = policy_decisions(policy_cache(store), Scripted())
        reloader = PolicyReloader(decisions, refresh, policies=("authz",), path=path, hub=Hub())
        with pytest.raises(PolicyError):
            await reloader.reload()
        assert decisions.cache.rules == PolicyFile()


async def test_rules_for_a_policy_that_is_not_served_are_refused(
    server: ValkeyServer, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[policies.other]\nip = true\n")

    async def refresh() -> None:
        pytest.fail("the engine must not be touched")

    async with store_at(server.url) as store:
        decisions = policy_decisions(policy_cache(store), Scripted())
        reloader = PolicyReloader(decisions, refresh, policies=("authz",), path=path, hub=Hub())
        with pytest.raises(Exception, match=r"policy\.toml:1: policies\.other"):
            await reloader.reload()


# Hang-up


def test_a_service_does_not_outlive_its_terminal(tmp_path: Path) -> None:
    """The same signal tells that the terminal was closed: then nobody is left to stop it."""
    ours, theirs = os.openpty()
    # The leader of a session gets the first terminal that it opens for its own.
    script = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"
    command = (sys.executable, "-c", script, os.ttyname(theirs), str(SARK), "serve")
    with SarkService(tmp_path, command=command) as service:
        service.process.send_signal(signal.SIGHUP)
        # With the terminal still there it is a request to reload, and it goes on serving.
        assert call_sark("cache", "reload", SARK_DATA_DIR=service.data_dir).returncode == 0
        os.close(theirs)
        os.close(ours)
        assert service.wait() == 0


# OPA


async def test_with_opa_its_revision_is_asked_for(server: ValkeyServer, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    async with OpaServer() as opa:
        settings = Settings(
            valkey_url=ServerUrl(server.url),
            opa_url=opa.url,
            policy_file=path,
            key_dir=tmp_path / "keys",
            data_dir=tmp_path / "data",
            opa_watch_interval=3600,
            policy_watch_interval=0,
        )
        async with open_runtime(settings) as runtime:
            assert (await runtime.reload()).changed is False
            opa.bundles["sark"] = "r2"
            reloaded = await runtime.reload()
            assert reloaded.changed is True
            assert runtime.gateway.decisions.revision == reloaded.revision
            await opa.stop()
            path.write_text('[sensitivity]\nlow = ["a"]\n')
            with pytest.raises(EvaluationError):
                await runtime.reload()
            assert runtime.gateway.decisions.revision == reloaded.revision


# Under load


async def test_no_answer_after_a_reload_is_from_before(runtime: Runtime, tmp_path: Path) -> None:
    """Many ask all the time, in both ways; what is asked after a reload is decided by it."""
    path = tmp_path / "policies" / "authz.rego"
    decisions = runtime.gateway.decisions
    question = Question.ask("authz", "ann", "x:read", "r")
    in_force = 0
    late: list[tuple[int, str]] = []
    ended = False

    async def ask_all_the_time() -> None:
        while not ended:
            since = in_force
            answer = await runtime.authorize(Request(user_id="ann", action="x:read", resource="r"))
            outcome = await decisions.decide(question)
            late.extend(
                (since, reason) for reason in (answer.reason, outcome.reason) if int(reason) < since
            )
            await asyncio.sleep(0)

    path.write_text(GRANTING % "0")
    await runtime.reload()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(ask_all_the_time())
        for number in range(1, 30):
            path.write_text(GRANTING % str(number))
            await runtime.reload()
            in_force = number
            await asyncio.sleep(0.02)
        ended = True
    assert late == []
