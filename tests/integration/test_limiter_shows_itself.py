"""What a limiter without the rest shows of a broken file and of a server that is away."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from sark import Request, open_runtime
from sark.fastapi import Hub, LimiterMetrics, limiter_health, load, open_limiter
from sark.ops.health import readiness
from tests.support.polling import until
from tests.support.service import write_policies

RULES = '[rules.a]\nkind = "user"\nlimits = ["{}/minute"]\n'
AWAY = "not shared, since Valkey does not answer: {}"


def figures(metrics: LimiterMetrics) -> dict[str, float]:
    names = ("ratelimit_refused_total", "ratelimit_fallback_total", "ratelimit_reloads_total")
    return {
        sample.name.removeprefix("sark_ratelimit_").removesuffix("_total"): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.removeprefix("sark_") in names
    }


async def test_a_broken_file_and_a_dead_server_are_told(
    private_server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sark")
    valkey, rules = private_server(), tmp_path / "limits.toml"
    rules.write_text(RULES.format(1))
    environ = {
        "VALKEY_URL": str(valkey.url),
        "SARK_LIMITS_FILE": str(rules),
        "SARK_POLICY_WATCH_INTERVAL": "0.05",
    }
    hub = Hub()
    metrics = LimiterMetrics(hub)
    async with open_limiter(load(environ), hub=hub) as limiter:
        assert (await limiter_health(limiter)).ok
        for _ in range(2):
            await limiter.check([("user", "ann")])
        assert figures(metrics) == {"refused": 1}

        rules.write_text(RULES.format("many"))
        await until(lambda: bool(limiter.refused_rules), within=10, what="the file is refused")
        health = await limiter_health(limiter)
        assert (health.ok, health.required) == (False, False)
        assert "the limits file was refused and the running rules stay" in health.detail
        assert "limits refused, the running ones stay" in caplog.text
        assert f"{rules}:3: rules.a.limits" in caplog.text
        assert figures(metrics)["reloads"] == 1

        rules.write_text(RULES.format(1))
        await until(lambda: not limiter.refused_rules, within=10, what="the file is good again")
        assert (await limiter_health(limiter)).ok

        valkey.kill()
        assert (await limiter.check([("user", "bob")])).source == "local"
        assert figures(metrics)["fallback"] == 1
        assert 'event="limits checked without valkey" mode=local' in caplog.text
        health = await limiter_health(limiter)
        assert (health.ok, health.detail) == (False, AWAY.format("counted in each process (local)"))
    assert b"sark_ratelimit_fallback_total" in metrics.expose()[0]


async def test_the_log_may_be_left_to_the_program(
    private_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    valkey = private_server()
    environ = {"VALKEY_URL": str(valkey.url)}
    async with open_limiter(load(environ), logs=False) as limiter:
        valkey.kill()
        assert (await limiter.check([("user", "bob")])).source == "local"
    assert "limits checked without valkey" not in caplog.text


async def test_a_service_tells_what_its_limits_do_meanwhile(
    private_server: Any, tmp_path: Path
) -> None:
    valkey = private_server()
    environ = {
        "VALKEY_URL": str(valkey.url),
        "SARK_KEY_DIR": str(tmp_path / "keys"),
        "SARK_DATA_DIR": str(tmp_path / "data"),
        "SARK_POLICY_DIR": str(write_policies(tmp_path / "policies")),
        "SARK_LIMITS_WITHOUT_VALKEY": "open",
    }
    async with open_runtime(load(environ)) as runtime:
        valkey.kill()
        assert (await runtime.gateway.limiter.check([("user", "ann")])).source == "open"
        # So does a request, whose event is spilled.
        answer = await runtime.authorize(Request(user_id="ann", action="x:read", resource="r"))
        assert (answer.allow, answer.limits) == (True, ())
        checks = {check.part: check for check in (await readiness(runtime)).checks}
        expected = AWAY.format("not checked (open)")
        assert (checks["limits"].ok, checks["limits"].detail) == (False, expected)
