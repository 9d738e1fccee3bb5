"""Loading policies: whatever does not load is refused in one line that says where and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sark.errors import ConfigurationError, PolicyError
from sark.policy.evaluators import EmbeddedRego
from sark.policy.evaluators.rego_source import read_source

HEAD = "package sark.authz\nimport rego.v1\n"
GOOD = HEAD + 'decision := {"allow": true}\n'

Refusal = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """A function that loads files and returns why they are refused, without the directory."""

    def load(files: dict[str, str | bytes], policies: tuple[str, ...] = ("authz",)) -> str:
        write(tmp_path, files)
        with pytest.raises(PolicyError) as caught:
            EmbeddedRego(tmp_path, policies)
        message = str(caught.value)
        assert "\n" not in message
        assert "backtrace" not in message.lower()
        assert len(message) < 400
        return message.removeprefix(f"{tmp_path}").removeprefix("/")

    return load


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (HEAD + 'decision := {"allow":\n', 4, "expecting expression"),
        (HEAD + "decision := {\n\n", 5, "expecting"),
        ("pack sark", 1, "expecting `package`"),
        ("", 1, "Missing package"),
        (HEAD + 'decision := {"allow": x} if { y == 1 }\n', 3, "`y` is unsafe"),
        (HEAD + 'decision := {"allow": true} if not x == y\n', 3, "unsafe"),
        (GOOD + "\nother if { z == q }\n", 5, "unsafe"),
        (HEAD + "decision := 1 if input.x\nelse := q\n", 4, "q is unsafe"),
        (HEAD + 'decision := {"allow": foo(input.x)}\n', 3, "could not find function foo"),
        (HEAD + 'decision := {"allow": io.jwt.decode(input.x)}\n', 3, r"io\.jwt\.decode"),
        (HEAD + 'decision := {"allow": to_number("x")}\n', 3, "could not parse string"),
        (HEAD + f'decision := {{"allow": true, "reason": "{"x" * 2000}"}}\n', 3, "1024"),
        (HEAD + "decision := a\na := b\nb := a\n", 4, "recursion"),
    ],
)
def test_bad_rego_is_refused_with_file_line_and_reason(
    refusal: Refusal, text: str, line: int, reason: str
) -> None:
    message = refusal({"sub/bad.rego": text})
    assert re.match(rf"sub/bad\.rego:{line}:\d+: ", message), message
    assert re.search(reason, message), message


def test_rego_that_contradicts_itself_is_refused(refusal: Refusal) -> None:
    message = refusal({"a.rego": GOOD, "b.rego": HEAD + 'decision := {"allow": false}\n'})
    assert message.startswith("b.rego:3:1: rule conflicts")


@pytest.mark.parametrize(
    "text", ["package other\n", HEAD + "verdict := 1\n", "package sark.other\ndecision := 1\n"]
)
def test_a_policy_without_entry_point_is_refused_by_name(refusal: Refusal, text: str) -> None:
    assert refusal({"a.rego": text}).endswith(
        "no rule data.sark.authz.decision; SARK_POLICIES names the policy 'authz'"
    )


def test_each_named_policy_needs_an_entry_point(refusal: Refusal) -> None:
    message = refusal({"a.rego": GOOD}, ("authz", "tools"))
    assert "data.sark.tools.decision" in message


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere: no such directory; SARK_POLICY_DIR"):
        EmbeddedRego(tmp_path / "nowhere", ("authz",))
    (tmp_path / "file").write_text(GOOD)
    with pytest.raises(PolicyError, match="no such directory"):
        EmbeddedRego(tmp_path / "file", ("authz",))


@pytest.mark.parametrize(
    "files", [{}, {"a_test.rego": GOOD}, {"data.json": "{}"}, {".git/a.rego": GOOD}, {"x.txt": ""}]
)
def test_a_directory_without_policy_is_refused(
    refusal: Refusal, files: dict[str, str | bytes]
) -> None:
    assert "holds no .rego file" in refusal(files)


@pytest.mark.parametrize(
    ("name", "content", "at", "reason"),
    [
        ("data.json", '{"a": 1,\n"b":}', "data.json:2: ", "malformed"),
        ("data.json", "", "data.json: ", "truncated"),
        ("data.json", "[1]", "data.json: ", "expected an object"),
        ("data.json", '{"a": 1e999}', "data.json: ", "out of range"),
        ("data.json", '{"a":' + "[" * 300 + "]" * 300 + "}", "", "recursion limit"),
        ("data.json", '{"a":' + "[" * 99_999 + "]" * 99_999 + "}", "data.json: ", "deep"),
        ("data.json", b'{"a": "\xff"}', "data.json: ", "utf-8"),
        ("d/x.yaml", "a: 1\nb: [1,\n", "d/x.yaml:3:1: ", "flow node"),
        ("d/x.yml", "a:\n\t- 1\n", "d/x.yml:2:1: ", "cannot start any token"),
        ("d/x.yaml", "a: !!python/object:os.system x", "d/x.yaml:1:4: ", "constructor"),
        ("d/x.yaml", "a: 1\n---\nb: 2\n", "d/x.yaml:2:1: ", "single document"),
        ("d/x.yaml", "a: 2026-13-40\n", "d/x.yaml: ", "month"),
        ("d/x.yaml", 'a: "\x01"\n', "d/x.yaml: ", "special characters"),
        ("x.yaml", "", "x.yaml: ", "expected an object"),
        ("x.yaml", "countries:\n  no: Norway\n", "x.yaml: ", "the name False; quote it"),
        ("x.yaml", "a:\n  - ~: 1\n", "x.yaml: ", "the name None; quote it"),
        ("x.yaml", "ports:\n  80: http\n", "x.yaml: ", "the name 80; quote it"),
        ("x.yaml", "a: .nan\n", "x.yaml: ", "finite"),
        ("x.yaml", "a: [1, {b: -.inf}]\n", "x.yaml: ", r"data\.a\[1\]\.b"),
        ("x.yaml", "a: &a [*a]\n", "x.yaml: ", "in itself"),
        ("x.yaml", "a: " + "[" * 3000 + "]" * 3000, "x.yaml: ", "recursion"),
    ],
)
def test_bad_data_are_refused_with_their_file(
    refusal: Refusal, name: str, content: str | bytes, at: str, reason: str
) -> None:
    message = refusal({"a.rego": GOOD, name: content})
    assert message.startswith(at), message
    assert re.search(reason, message), message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"data.json": '{"x": 1}', "more.json": '{"x": 1}'},
            "more.json: data.x is defined by another file too",
        ),
        (
            {"data.json": '{"org": {"x": 1}}', "org/data.yaml": "x: 2"},
            "org/data.yaml: data.org.x is defined by another file too",
        ),
        (
            {"data.json": '{"org": 1}', "org/data.json": '{"x": 1}'},
            "org/data.json: data.org is defined by another file too",
        ),
        (
            {"data.json": '{"sark": {"authz": {"decision": {"allow": true}}}}'},
            "data.json: sark.authz.decision is data and also a rule",
        ),
        (
            {"other.json": '{"x": 1}', "sark/authz/x.yaml": "decision: {allow: true}"},
            "sark/authz/x.yaml: sark.authz.decision is data and also a rule",
        ),
        ({"sark/data.json": '{"authz": 1}'}, "sark/data.json: sark.authz is data and also a"),
        ({"data.json": '{"sark": []}'}, "data.json: sark is data and also a package"),
    ],
)
def test_data_that_conflict_are_refused(
    refusal: Refusal, files: dict[str, str | bytes], message: str
) -> None:
    denial = HEAD + 'decision := {"allow": false}\n'
    assert refusal({"a.rego": denial, **files}).startswith(message)


def test_data_merge_where_nothing_conflicts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.rego": GOOD,
            "data.json": '{"org": {"a": 1}, "sark": {"authz": {"more": 1}}}',
            "org/b.yaml": "b: 2026-01-02\n",
            "org/deep/c.yml": "c: [1, 2.5, null, true]\n",
            ".hidden/data.json": "broken",
            "notes.txt": "broken",
        },
    )
    source = read_source(tmp_path)
    assert source.data["org"]["deep"] == {"c": [1, 2.5, None, True]}
    assert source.data["org"]["a"] == 1
    EmbeddedRego(tmp_path, ("authz",))


def test_tests_are_no_policy(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": GOOD, "a_test.rego": "not rego", "b/b_test.rego": "{"})
    EmbeddedRego(tmp_path, ("authz",))


def test_a_policy_may_need_an_input_that_makes_sense(tmp_path: Path) -> None:
    rules = 'decision := {"allow": to_number(input.resource) > json.unmarshal(input.action)}\n'
    write(tmp_path, {"a.rego": HEAD + rules})
    EmbeddedRego(tmp_path, ("authz",))


def revision(root: Path, policies: tuple[str, ...] = ("authz",)) -> str:
    return EmbeddedRego(root, policies).revision


def test_the_revision_changes_with_content(tmp_path: Path) -> None:
    seen: set[str] = set()
    for change in (
        {"a.rego": GOOD},
        {"a.rego": GOOD + "# a comment\n"},
        {"b.rego": HEAD},
        {"data.json": '{"x": 1}'},
        {"data.json": '{"x": 2}'},
        {"org/data.yaml": "y: 1"},
    ):
        write(tmp_path, dict(change))
        seen.add(revision(tmp_path))
    (tmp_path / "b.rego").rename(tmp_path / "c.rego")
    seen.add(revision(tmp_path))
    (tmp_path / "c.rego").unlink()
    seen.add(revision(tmp_path))
    assert len(seen) == 8


def test_the_revision_has_128_bits(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": GOOD})
    assert re.fullmatch("[0-9a-f]{32}", revision(tmp_path))


def test_the_revision_does_not_change_with_what_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": GOOD, "data.json": '{"x": 1}'})
    before = revision(tmp_path)
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    write(tmp_path, {"a_test.rego": "x", "README.md": "x", ".git/data.json": "{"})
    assert revision(tmp_path) == before


def test_two_directories_of_equal_content_have_one_revision(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, {"z.rego": GOOD, "b/data.json": '{"x": 1}'})
    assert revision(tmp_path / "one") == revision(tmp_path / "two")


def test_content_does_not_move_between_files_unnoticed(tmp_path: Path) -> None:
    write(tmp_path / "one", {"a.rego": GOOD + "# b.rego\n", "b.rego": HEAD})
    write(tmp_path / "two", {"a.rego": GOOD, "b.rego": HEAD + "# b.rego\n"})
    assert revision(tmp_path / "one") != revision(tmp_path / "two")


def test_what_changes_on_disk_changes_no_loaded_policy(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": GOOD})
    engine = EmbeddedRego(tmp_path, ("authz",))
    before = engine.revision
    write(tmp_path, {"a.rego": "broken"})
    assert engine.revision == before


def test_without_the_extra_the_engine_says_what_is_missing() -> None:
    code = """
import sys
sys.modules["regorus"] = sys.modules["yaml"] = None
import sark.gateway, sark.runtime
from pathlib import Path
from sark.errors import ConfigurationError
from sark.policy.evaluators import EmbeddedRego
try:
    EmbeddedRego(Path("examples/policies"), ("authz",))
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == (
        "the embedded Rego engine is not installed: pip install 'sark[embedded]'\n"
    )
    assert issubclass(PolicyError, ConfigurationError)
