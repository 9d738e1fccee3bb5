"""The ``sark`` command in this process: refusals, tables, the reading of arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sark
from sark.cli import main
from sark.cli.arguments import parse_context
from sark.errors import ConfigurationError
from sark.keyspace import TABLE

Run = Callable[..., tuple[int, str, str]]
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is to be refused


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """A function that runs the command: exit code, standard output, standard error."""
    for name in os.environ:
        if name.startswith(("SARK_", "VALKEY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SARK_DATA_DIR", str(tmp_path / "data"))

    def call(*arguments: str, **variables: str) -> tuple[int, str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["sark", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return int(code or 0), out, err

    return call


def one_line(run: Run, *arguments: str, **variables: str) -> str:
    code, out, err = run(*arguments, **variables)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    return line


# Refusals


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "example.invalid"])
def test_a_service_for_others_needs_a_credential(run: Run, host: str, tmp_path: Path) -> None:
    line = one_line(run, "serve", SARK_HOST=host)
    assert line.startswith(f"sark: SARK_HOST: got '{host}'")
    assert "SARK_SERVICE_TOKEN" in line
    assert "SARK_ALLOW_ANONYMOUS=true" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [("serve",), ("demo",), ("authorize", "u", "a", "r")])
def test_a_bad_setting_stops_every_command(run: Run, command: tuple[str, ...]) -> None:
    line = one_line(run, *command, SARK_PORT="x")
    assert line == "sark: SARK_PORT: got 'x', expected a whole number from 0 to 65535"


def test_a_typo_is_found(run: Run) -> None:
    assert "SARK_PROT: unknown variable, the closest known one is SARK_PORT" in one_line(
        run, "serve", SARK_PROT="1"
    )


def test_secrets_are_not_repeated(run: Run) -> None:
    assert "hunter2" not in one_line(run, "serve", SARK_ADMIN_TOKEN="hunter2 ")


def test_each_bad_setting_has_its_line(run: Run) -> None:
    code, _, err = run("serve", SARK_PORT="x", SARK_TTL_LOW="y")
    assert code == 2
    assert [line.split(" got")[0] for line in err.splitlines()] == [
        "sark: SARK_PORT:",
        "sark: SARK_TTL_LOW:",
    ]


def test_without_a_service_authorize_says_what_to_do(run: Run, tmp_path: Path) -> None:
    assert one_line(run, "authorize", "u", "a", "r") == (
        f"sark: no service runs on {tmp_path / 'data'}: start one with `sark serve`, "
        "or set VALKEY_URL"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--context", "x"), "sark: --context: got 'x', expected key=value"),
        (("--context", "=1"), "sark: --context: got '=1', expected key=value"),
        (("--context", ""), "sark: --context: got '', expected key=value"),
        (("--context", "a=1", "--context", "a=2"), "sark: --context: 'a' is given twice"),
        (("--context", "a=\udcff"), "sark: --context: got 'a=\\udcff', expected UTF-8"),
        (("--ip", "\udcff"), "sark: --ip: got '\\udcff', expected UTF-8"),
    ],
)
def test_bad_arguments_are_told(run: Run, arguments: tuple[str, ...], said: str) -> None:
    assert one_line(run, "authorize", "u", "a", "r", *arguments) == said


@pytest.mark.parametrize("position", range(3))
def test_arguments_that_are_no_text_are_told(run: Run, position: int) -> None:
    arguments = ["u", "a", "r"]
    arguments[position] = "\udcff"
    assert one_line(run, "authorize", *arguments).endswith(": got '\\udcff', expected UTF-8")


def test_a_run_file_that_others_can_read_is_not_trusted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "run.json").write_text("{}")
    (tmp_path / "data" / "run.json").chmod(0o644)
    assert "is open to other users" in one_line(run, "authorize", "u", "a", "r")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"user_id":"u","action":"a","resource":"r"}\n\n{"user_id":1}\n',
            ":3: Expected `str | null`",
        ),
        ("{bad\n", ":1: "),
        ('{"user_id":"u"}\n', ":1: Object missing required field `action`"),
        ('{"context":' + '{"a":' * 10_000, ":1: "),
        ("", ": holds no requests"),
        ("\n \n", ": holds no requests"),
    ],
    ids=["type", "no JSON", "missing", "deep", "empty", "blank"],
)
def test_a_bad_line_of_the_demo_is_told(run: Run, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(content)
    assert one_line(run, "demo", "--requests", str(path)).startswith(f"sark: {path}{said}")


def test_a_line_of_the_demo_that_is_no_text_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"user_id":"\xff","action":"a","resource":"r"}\n')
    assert one_line(run, "demo", "--requests", str(path)).startswith(f"sark: {path}:1: ")


def test_a_missing_file_of_the_demo_is_told(run: Run, tmp_path: Path) -> None:
    assert one_line(run, "demo", "--requests", str(tmp_path / "missing")) == (
        f"sark: {tmp_path}/missing: No such file or directory; "
        "run from a checkout or name a file with --requests"
    )


# Tables


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"sark {sark.__version__}\n", "")


def test_without_arguments_it_helps(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    for command in ("serve", "demo", "authorize", "settings", "keyspace"):
        assert command in out + err


def test_keyspace_prints_every_key(run: Run) -> None:
    code, out, err = run("keyspace")
    assert (code, err) == (0, "")
    for row in TABLE:
        assert row.pattern in out


def test_keyspace_as_json(run: Run) -> None:
    code, out, _ = run("keyspace", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["pattern"] for row in rows] == [row.pattern for row in TABLE]
    assert all({"type", "ttl", "role", "owner", "evictable"} <= row.keys() for row in rows)
    assert {row["role"] for row in rows} == {"state", "cache"}


def test_settings_show_where_values_come_from(run: Run) -> None:
    code, out, _ = run("settings", "--json", SARK_PORT="1234", SARK_ADMIN_TOKEN="t" * 32)
    rows = {row["variable"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["SARK_PORT"]["current"], rows["SARK_PORT"]["default"]) == ("1234", "8000")
    assert rows["SARK_PORT"]["source"] != rows["SARK_HOST"]["source"]
    assert "t" * 32 not in out


# Reading the context


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("production", "production"),
        ("true", True),
        ("null", None),
        ("1", 1),
        ("1.5", 1.5),
        ('"1"', "1"),
        ('{"a":[1]}', {"a": [1]}),
        ("", ""),
        ("a=b", "a=b"),
        ("{broken", "{broken"),
        ("NaN", "NaN"),
        ("1e400", "1e400"),
        ("[" * 10_000, "[" * 10_000),
        ("007", "007"),
        ("é", "é"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_values_are_json_or_text(value: str, read: object) -> None:
    context = parse_context([f"key={value}"])
    assert context == {"key": read}
    assert type(context["key"]) is type(read)


def test_no_context() -> None:
    assert parse_context([]) == {}


def test_keys_may_be_anything_but_empty() -> None:
    assert parse_context(["a b=1", "é=2"]) == {"a b": 1, "é": 2}
    with pytest.raises(ConfigurationError):
        parse_context(["=1"])


def test_an_interrupt_during_the_import_is_no_traceback() -> None:
    code = (
        "import sys, sark.cli\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sark.cli.app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sark.cli.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")
