"""The benchmark runs from beginning to end; what it measures is not judged here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMBERS = {"case", "metric", "value", "unit", "baseline", "ratio"}
METRICS = {"p50", "p95", "p99"}
CONCURRENT = {
    "driver GET, 50 callers",
    "driver GET, lean, 50 callers",
    "cached decision, 50 callers",
    "driver MGET, 50 callers",
    "driver MGET, lean, 50 callers",
    "decide, Valkey hit, 50 callers",
    "authorize, hit, 50 callers",
    "authorize, near hit, 50 callers",
    "driver pipeline of a check, 50 callers",
    "driver pipeline of a check, lean, 50 callers",
    "session check, 50 callers",
    "authorize with token, hit, 50 callers",
}
WITH_RATE = CONCURRENT | {"decide, near hit"}
CASES = WITH_RATE | {
    "driver GET",
    "driver GET, lean",
    "driver SET",
    "driver SET, lean",
    "driver MGET",
    "driver MGET, lean",
    "cached decision",
    "decide, Valkey hit",
    "stored decision",
    "authorize, hit",
    "authorize, near hit",
    "authorize, miss",
    "driver GET, 1 caller",
    "driver GET, lean, 1 caller",
    "cached decision, 1 caller",
    "authorize, hit, 1 caller",
    "authorize, near hit, 1 caller",
    *(
        f"{name}{where}"
        for name in (
            "driver pipeline of a check",
            "driver pipeline of a check, lean",
            "session check",
            "authorize with token, hit",
        )
        for where in ("", ", 1 caller")
    ),
}


STUDIES = {
    "guarded call, closed": {"p50", "p95", "round_trips"},
    "admission of a probe, half-open": {"p50", "p95", "round_trips"},
    "200-byte decision, compact key": {"bytes"},
    "reason of 512 bytes, zstd": {"bytes", "encode", "decode"},
    "revoked to enforced, 1 process": {
        *("p50", "p99", "max", "decisions_per_second", "near_share"),
    },
    "user's invalidation among 2,000": {"round_trips", "p50"},
    "stampede of 1,000 tasks": {"evaluations", "p50"},
    "session": {"bytes"},
    "EdDSA verification, cold": {"p50"},
    "RS256 verification, warm": {"p50"},
}
UNITS = {"us", "1/s", "x", "ms", "bytes", "1"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    # Variables of whoever runs the tests must not reach the benchmark's own server.
    environment = os.environ | {"VALKEY_URL": "valkey://localhost:1", "SARK_POLICIES": "nonsense"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=80, check=False
    )


@pytest.mark.heavy
@pytest.mark.timeout(100)
def test_a_quick_run_reports_every_case(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = run("--quick", "--no-http", "--peers", tmp_path / "none", "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "cached decision: p50 at most 1.5 times that of driver GET" in done.stdout
    assert "aiocache and cashews are left out" in done.stdout

    rows = json.loads(output.read_text())
    assert all(set(row) == MEMBERS for row in rows)
    cases = {row["case"] for row in rows}
    assert cases >= CASES | set(STUDIES)
    metrics = {case: {row["metric"] for row in rows if row["case"] == case} for case in cases}
    for case in CASES:
        rate = {"requests_per_second"} if case in WITH_RATE else set()
        slowest = {"slowest_to_median"} if case in CONCURRENT else set()
        assert metrics[case] == METRICS | rate | slowest
    for case, expected in STUDIES.items():
        assert metrics[case] == expected
    for row in rows:
        assert row["unit"] in UNITS
        assert math.isfinite(row["value"])
        assert row["value"] > 0 or row["metric"] == "round_trips"
        assert (row["baseline"] is None) == (row["ratio"] is None)
        assert row["baseline"] is None or row["baseline"] in cases
    # These don't depend on how fast the machine is.
    figures = {(row["case"], row["metric"]): row["value"] for row in rows}
    assert figures["user's invalidation among 2,000", "round_trips"] == 1
    assert figures["stampede of 1,000 tasks", "evaluations"] == 1
    assert figures["guarded call, closed", "round_trips"] == 0
    assert figures["admission of a probe, half-open", "round_trips"] == 1


def test_only_some_cases(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    arguments = ("--quick", "--no-pin", "--peers", tmp_path / "none", "--output", output)
    done = run(*arguments, "--only", "stored DEC*")
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())
    assert {row["case"] for row in rows} == {"stored decision", "driver SET", "driver SET, lean"}


def test_a_pattern_that_fits_nothing_is_an_error(tmp_path: Path) -> None:
    done = run("--quick", "--only", "nonsense", "--peers", tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr == "error: no case or study is called 'nonsense'\n"


def test_bad_arguments_are_an_error() -> None:
    command = [sys.executable, "-m", "benchmarks", "--nonsense"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
