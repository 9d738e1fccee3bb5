"""The sample requests: reproducible, skewed as documented, and of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import regorus

EXAMPLES = Path(__file__).parents[2] / "examples"
DIRECTORY = EXAMPLES / "policies" / "org" / "directory" / "data.json"
FIELDS = {"user_id", "action", "resource", "context", "ip", "api_key_id"}
DECIDED_BY = ("user_id", "action", "resource", "context")
FLEET_KEY = "key-fleet"
CLOCK = """
package clock
import rego.v1
moment := time.parse_rfc3339_ns(NOW)
decision := result if result := data.sark.authz.decision with time.now_ns as moment
"""


@pytest.fixture(scope="module")
def sample() -> list[dict[str, Any]]:
    lines = (EXAMPLES / "requests.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def generate(folder: Path, *flags: str) -> tuple[bytes, bytes]:
    """Run the script as a user would and return what it wrote."""
    out, directory = folder / "requests.jsonl", folder / "directory.json"
    script = str(EXAMPLES / "generate.py")
    files = ["--out", str(out), "--directory", str(directory)]
    subprocess.run([sys.executable, script, *files, *flags], check=True, capture_output=True)
    return out.read_bytes(), directory.read_bytes()


def test_committed_files_are_what_the_script_writes(tmp_path: Path) -> None:
    requests, directory = generate(tmp_path)
    assert requests == (EXAMPLES / "requests.jsonl").read_bytes()
    assert directory == DIRECTORY.read_bytes()


def test_a_seed_decides_everything(tmp_path: Path) -> None:
    first = generate(tmp_path, "--seed", "1", "--count", "500")
    assert first == generate(tmp_path, "--seed", "1", "--count", "500")
    other = generate(tmp_path, "--seed", "2", "--count", "500")
    assert first[0] != other[0]
    assert first[1] != other[1]
    assert first[0].count(b"\n") == 500


def test_form(sample: list[dict[str, Any]]) -> None:
    assert len(sample) == 5_000
    assert (EXAMPLES / "requests.jsonl").stat().st_size < 1_500_000
    for request in sample:
        assert set(DECIDED_BY) <= set(request) <= FIELDS
        assert isinstance(request["context"], dict)
        assert all(isinstance(request[name], str) for name in set(request) - {"context"})


def test_repeats(sample: list[dict[str, Any]]) -> None:
    distinct = {json.dumps([each[name] for name in DECIDED_BY], sort_keys=True) for each in sample}
    assert 0.80 <= 1 - len(distinct) / len(sample) <= 0.92


@pytest.mark.parametrize("name", ["user_id", "ip", "api_key_id"])
def test_only_the_fleet_key_meets_a_limit(sample: list[dict[str, Any]], name: str) -> None:
    counts = Counter(each[name] for each in sample if name in each)
    assert counts.pop(FLEET_KEY, 1_150) == 1_150
    assert max(counts.values()) <= 700
    assert len(counts) > 40
    assert sum(name in each for each in sample) > 1_000


def test_skew(sample: list[dict[str, Any]]) -> None:
    for name in ("user_id", "resource"):
        ranked = [count for _, count in Counter(each[name] for each in sample).most_common()]
        busiest = sum(ranked[: len(ranked) // 10])
        assert 0.4 <= busiest / len(sample) <= 0.8


@pytest.mark.parametrize("now", ["2024-01-08T12:00:00Z", "2024-01-13T12:00:00Z"])
def test_allowed_and_denied_for_many_reasons(sample: list[dict[str, Any]], now: str) -> None:
    engine = load_policies(now)
    allowed, reasons = 0, Counter[str]()
    for request in sample:
        engine.set_input_json(json.dumps({name: request[name] for name in DECIDED_BY}))
        decision = json.loads(engine.eval_rule_as_json("data.clock.decision"))
        allowed += decision["allow"]
        if not decision["allow"]:
            reasons[decision["reason"]] += 1
    assert 0.55 <= allowed / len(sample) <= 0.85
    assert len(reasons) >= 14
    assert {"user suspended", "server quarantined", "unknown user", "tool denied"} <= set(reasons)
    assert {"second factor missing", "break-glass without a valid ticket"} <= set(reasons)
    assert reasons["outside the permitted hours"] > 0


def load_policies(now: str) -> Any:
    """Return an engine in which it is always ``now``."""
    engine = regorus.Engine()
    for path in sorted((EXAMPLES / "policies").glob("*.rego")):
        engine.add_policy(path.name, path.read_text())
    directory = json.loads(DIRECTORY.read_bytes())
    organisation = json.loads((DIRECTORY.parents[1] / "data.json").read_bytes())
    engine.add_data_json(json.dumps({"org": organisation | {"directory": directory}}))
    engine.add_policy("clock.rego", CLOCK.replace("NOW", json.dumps(now)))
    return engine
