"""``sark keys``: what it makes, moves and shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sark.sessions.refresh_keys import RefreshKeyFile
from sark.sessions.tokens.key_file import KEY_FILE_NAME
from tests.support.service import call_sark


def keys(directory: Path, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    return call_sark("keys", *arguments, SARK_KEY_DIR=directory, **variables)


def rows(directory: Path, *arguments: str, **variables: object) -> list[dict[str, Any]]:
    ended = keys(directory, *arguments, "--json", **variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def states(found: list[dict[str, Any]]) -> list[str]:
    return [row["state"] for row in found]


def secrets_of(directory: Path) -> list[str]:
    document = json.loads((directory / KEY_FILE_NAME).read_bytes())
    return [key["jwk"]["d"] for key in document["keys"]]


def test_a_whole_life(tmp_path: Path) -> None:
    first = rows(tmp_path, "generate")
    assert states(first) == ["active", "next"]
    assert first == rows(tmp_path, "list")
    assert first[0]["algorithm"] == "EdDSA"
    other = rows(tmp_path, "generate", SARK_TOKEN_ALGORITHM="RS256")
    assert other[0] == first[0]
    assert (other[1]["algorithm"], other[1]["kid"] != first[1]["kid"]) == ("RS256", True)
    rotated = rows(tmp_path, "rotate", "--now")
    assert states(rotated) == ["active", "next", "retired"]
    assert rotated[0]["kid"] == other[1]["kid"]
    assert rotated[2]["kid"] == first[0]["kid"]
    assert rotated[2]["retired"] < rotated[2]["gone_after"]
    anew = rows(tmp_path, "rotate", "--compromised")
    assert states(anew) == ["active", "next"]
    assert not {row["kid"] for row in anew} & {row["kid"] for row in rotated}


def test_a_key_that_was_just_published_is_not_made_to_sign(tmp_path: Path) -> None:
    before = rows(tmp_path, "generate")
    ended = keys(tmp_path, "rotate")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("sark: the next key has been published for ")
    assert rows(tmp_path, "list") == before


@pytest.mark.parametrize("command", ["rotate", "list"])
def test_without_keys(tmp_path: Path, command: str) -> None:
    ended = keys(tmp_path, command)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"sark: {tmp_path}/{KEY_FILE_NAME}: there are no keys; see `sark keys generate`\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_with_an_outside_server_the_folder_must_be_named() -> None:
    ended = call_sark("keys", "list", VALKEY_URL="valkey://127.0.0.1:1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("sark: SARK_KEY_DIR: got nothing")


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    said = ""
    for arguments in (["generate"], ["rotate", "--now"], ["list"], ["list", "--json"]):
        ended = keys(tmp_path, *arguments)
        assert ended.returncode == 0
        said += ended.stdout + ended.stderr
    assert len(secrets_of(tmp_path)) == 3
    assert not any(secret in said for secret in secrets_of(tmp_path))
    shown = keys(tmp_path, "list").stdout
    for row in rows(tmp_path, "list"):
        dates = [row[name] for name in ("created", "active_since", "retired", "gone_after")]
        for cell in (row["kid"], row["algorithm"], row["state"], *filter(None, dates)):
            assert cell.replace("T", " ").rstrip("Z") in shown or cell in shown


def test_the_keys_of_refresh_tokens_rotate_along(tmp_path: Path) -> None:
    rows(tmp_path, "generate")
    file = RefreshKeyFile(tmp_path)
    rows(tmp_path, "rotate", "--now")
    assert not file.path.exists()  # the first start makes them
    before = file.read_or_create()
    assert keys(tmp_path, "rotate").returncode == 2
    assert file.read() == before
    rows(tmp_path, "rotate", "--now")
    after = file.read()
    assert (after.active, after.retired[0].key) == (before.next, before.active)
    rows(tmp_path, "rotate", "--compromised")
    anew = file.read()
    assert anew.retired == ()
    assert not {anew.active, anew.next} & {after.active, after.next}
