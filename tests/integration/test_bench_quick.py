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
    "authorize, hit, 50 callers",
}
CASES = CONCURRENT | {
    "driver GET",
    "driver GET, lean",
    "driver SET",
    "driver SET, lean",
    "driver MGET",
    "driver MGET, lean",
    "cached decision",
    "stored decision",
    "authorize, hit",
    "authorize, miss",
    "driver GET, 1 caller",
    "driver GET, lean, 1 caller",
    "cached decision, 1 caller",
    "authorize, hit, 1 caller",
}


@pytest.mark.timeout(60)
def test_a_quick_run_reports_every_case(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--no-http", "--output", str(output)]
    # Variables of whoever runs the tests must not reach the benchmark's own server.
    environment = os.environ | {"VALKEY_URL": "valkey://localhost:1", "SARK_POLICIES": "nonsense"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "cached decision: p50 at most 1.5 times that of driver GET" in done.stdout

    rows = json.loads(output.read_text())
    assert all(set(row) == MEMBERS for row in rows)
    assert {row["case"] for row in rows} == CASES
    for case in CASES:
        metrics = {row["metric"] for row in rows if row["case"] == case}
        assert metrics == METRICS | ({"requests_per_second"} if case in CONCURRENT else set())
    for row in rows:
        assert row["unit"] == ("1/s" if row["metric"] == "requests_per_second" else "us")
        assert math.isfinite(row["value"])
        assert row["value"] > 0
        assert (row["baseline"] is None) == (row["ratio"] is None)
        assert row["baseline"] is None or row["baseline"] in CASES


def test_bad_arguments_are_an_error() -> None:
    command = [sys.executable, "-m", "benchmarks", "--nonsense"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
