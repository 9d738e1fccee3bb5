"""The file sink on a file system that is full."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sark.siem.sinks.base import Entry
from sark.siem.sinks.file import FileSink
from sark.siem.sinks.verdict import Delivered, Partly, Unavailable

pytestmark = pytest.mark.heavy

DISK_BYTES = 64 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))
    if os.geteuid() != 0 or subprocess.run(["mount", *options], check=False).returncode != 0:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def batch(first: int, count: int) -> list[Entry]:
    return [
        Entry(f"e{n}", 1.7e9, json.dumps({"n": n, "pad": "x" * 200}).encode())
        for n in range(first, first + count)
    ]


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_bytes().splitlines()]


async def test_whole_lines_stay_and_the_rest_is_sent_again(small_disk: Path) -> None:
    path, ballast = small_disk / "events", small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES // 2))
    sink = FileSink(path)
    await sink.open()
    sent = 0
    while (verdict := await sink.send(batch(sent, 10))) == Delivered():
        sent += 10
    assert isinstance(verdict, Partly)
    assert verdict.reason == "no space left on device"
    sent += 10 - len(verdict.retry)
    assert numbers(path) == list(range(sent))
    assert await sink.send(batch(sent, 10)) == Unavailable("no space left on device")
    assert numbers(path) == list(range(sent))
    ballast.unlink()
    assert await sink.send(batch(sent, 10)) == Delivered()
    await sink.close()
    assert numbers(path) == list(range(sent + 10))
