"""``sark limits`` and its routes, on a service with rules."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import until_sync
from tests.support.service import SarkService, call_sark

DENIED = 3
RULES = """
[rules.heavy]
kind = "user"
action = "heavy:*"
limits = ["100/hour"]
algorithm = "sliding"
continue = true

[rules.users]
kind = "user"
limits = ["20/minute", "1000/day"]

[rules.keys]
kind = "apikey"
limits = ["2/minute"]
shadow = true

[rules.late]
kind = "user"
limits = ["1/minute"]

[costs]
"heavy:*" = 10

[deny]
ip = ["192.0.2.0/24"]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    path = directory / "limits.toml"
    path.write_text(RULES)
    with SarkService(directory, SARK_LIMITS_FILE=path, SARK_POLICY_WATCH_INTERVAL=0) as running:
        yield running


def call(service: SarkService, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_sark(
        *arguments, SARK_DATA_DIR=service.data_dir, SARK_POLICIES="authz,silent,broken"
    )


def ask(service: SarkService, *arguments: str) -> dict[str, Any]:
    ended = call(service, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def authorize(service: SarkService, user: str, action: str) -> dict[str, Any]:
    ended = call(service, "authorize", user, action, "r")
    assert ended.returncode in {0, DENIED}
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def test_rules_apply_to_what_is_authorized(service: SarkService) -> None:
    answer = authorize(service, "ann", "heavy:export")
    assert [
        (state["policy"], state["limit"], state["remaining"]) for state in answer["limits"]
    ] == [("heavy", 100, 90), ("users-60", 20, 10), ("users-86400", 1000, 990)]
    authorize(service, "ann", "heavy:export")
    ended = call(service, "authorize", "ann", "heavy:export", "r")
    assert ended.returncode == 1
    assert "users-60" in ended.stdout + ended.stderr


def test_show_top_and_reset(service: SarkService) -> None:
    authorize(service, "team/bob :{}", "heavy:x")
    authorize(service, "team/bob :{}", "y:read")
    shown = ask(service, "limits", "show", "team/bob :{}", "--json")["limits"]
    # The default limit is not among them: a rule decides for every user.
    assert {state["policy"]: state["remaining"] for state in shown} == {
        "heavy": 90,
        "users-60": 9,
        "users-86400": 989,
    }
    again = ask(service, "limits", "show", "team/bob :{}", "--json")["limits"]
    assert [state["remaining"] for state in again] == [state["remaining"] for state in shown]

    (near,) = [e for e in ask(service, "limits", "top", "--json")["limits"] if "bob" in e["id"]]
    assert (near["kind"], near["id"], near["used"]) == ("user", "team/bob :{}", 0.55)
    assert near["state"]["policy"] == "users-60"
    assert "55%" in call(service, "limits", "top").stdout

    ended = call(service, "limits", "reset", "team/bob :{}")
    assert ended.stdout == "3 limits were in use and begin again\n"
    shown = ask(service, "limits", "show", "team/bob :{}", "--json")["limits"]
    assert [state["remaining"] for state in shown] == [100, 20, 1000]
    assert "bob" not in call(service, "limits", "top").stdout


def test_show_tells_of_the_lists(service: SarkService) -> None:
    answer = ask(service, "limits", "show", "192.0.2.7", "--kind", "ip", "--json")
    assert answer["listed"] == "deny"
    text = call(service, "limits", "show", "192.0.2.7", "--kind", "ip").stdout
    assert "on the deny-list: refused at once" in text
    assert "listed" not in ask(service, "limits", "show", "ann", "--json")


def test_list_prints_the_rules(service: SarkService) -> None:
    text = call(service, "limits", "list").stdout
    for part in (
        "heavy",
        "100/hour sliding",
        "20/minute fixed",
        "1000/day fixed",
        "shadow",
        "never applies",
    ):
        assert part in text
    assert "heavy:* costs 10" in text
    assert "(default)" in text
    report = ask(service, "limits", "list", "--json")
    assert [rule["name"] for rule in report["rules"]] == ["heavy", "users", "keys", "late"]
    assert (report["default"], report["denied"]) == ("1000/minute", 1)


def test_a_denied_address_is_refused_and_recorded(service: SarkService) -> None:
    ended = call(service, "authorize", "cy", "x:read", "r", "--ip", "192.0.2.9")
    assert ended.returncode == 1
    assert "deny" in ended.stderr + ended.stdout


@pytest.mark.parametrize("kind", ["ip", "nobody"])
def test_who_cannot_be_is_one_line(service: SarkService, kind: str) -> None:
    ended = call(service, "limits", "show", "no address", "--kind", kind)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1


def test_a_broken_file_is_refused_and_the_rules_stay(service: SarkService) -> None:
    path = Path(service.data_dir).parent / "limits.toml"
    assert path.is_file()
    try:
        path.write_text(RULES.replace('"20/minute"', '"twenty/minute"'))
        ended = call(service, "limits", "reload")
        assert ended.returncode == 1
        assert "limits.toml:11: rules.users.limits[0]: got 'twenty/minute'" in ended.stderr
        assert "20/minute" in call(service, "limits", "list").stdout

        path.write_text(RULES.replace('"20/minute"', '"30/minute"'))
        assert call(service, "limits", "reload").stdout.startswith("other rules are in force")
        assert "30/minute" in call(service, "limits", "list").stdout
        assert call(service, "limits", "reload").stdout.startswith("nothing has changed")
    finally:
        path.write_text(RULES)
        call(service, "limits", "reload")


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(RULES)
    with SarkService(
        tmp_path / "service", SARK_LIMITS_FILE=path, SARK_POLICY_WATCH_INTERVAL=0.05
    ) as running:
        path.write_text(RULES.replace('"20/minute"', '"7/minute"'))

        def in_force() -> bool:
            return "7/minute" in call(running, "limits", "list").stdout

        until_sync(in_force, within=10, what="the changed file is in force")
