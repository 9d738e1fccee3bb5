"""Scripts: assembled from package files, named by their content."""

from __future__ import annotations

import re
from hashlib import sha1
from importlib.resources import files
from pathlib import Path

import pytest

import sark
from sark.store import Script, ScriptCall, load_script

SOURCE = Path(sark.__file__).parent
LUA = sorted(SOURCE.rglob("*.lua"))
CLOCK = ("sark.store", "clock.lua")


def test_the_name_on_the_server_is_the_digest_of_the_text() -> None:
    script = Script("greeting", "return 'hé'")
    assert script.sha == sha1("return 'hé'".encode(), usedforsecurity=False).hexdigest()


def test_equal_texts_are_one_script_to_the_server() -> None:
    assert Script("one", "return 1").sha == Script("other", "return 1").sha
    assert Script("one", "return 1").sha != Script("one", "return 2").sha


def test_fragments_come_in_order_on_lines_of_their_own() -> None:
    clock = files(CLOCK[0]).joinpath(CLOCK[1]).read_text("utf-8")
    script = load_script("twice", CLOCK, CLOCK)
    assert script.name == "twice"
    assert script.text == f"{clock}\n{clock}"


def test_a_script_that_runs_on_a_full_server_says_so_in_its_first_line() -> None:
    plain = load_script("plain", CLOCK)
    assert load_script("lets leave", CLOCK, when_full=True).text == (
        f"#!lua flags=allow-oom\n{plain.text}"
    )


def test_a_missing_file_is_noticed_when_it_is_loaded() -> None:
    with pytest.raises(FileNotFoundError):
        load_script("none", ("sark.store", "none.lua"))


def test_a_call_counts_its_keys() -> None:
    script = Script("s", "return 1")
    call = ScriptCall(script, ["a", "b"], [1, b"x"])
    assert call.command() == ("EVALSHA", script.sha, 2, "a", "b", 1, b"x")
    assert ScriptCall(script, []).command() == ("EVALSHA", script.sha, 0)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.name)
def test_scripts_say_what_they_are_and_never_sweep_the_keyspace(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("--"), "no header"
    code = re.sub(r"--.*", "", text)
    swept = re.findall(r"""call\(\s*['"](keys|scan|flushall|flushdb)['"]""", code, re.IGNORECASE)
    assert swept == []
    assert "redis." not in code, "the server's own name is `server`"


def test_there_are_scripts_to_look_at() -> None:
    assert len(LUA) >= 5
