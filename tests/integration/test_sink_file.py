"""The file sink: whole lines through rotation, full disks, crashes and other writers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from sark.errors import ConfigurationError, SinkError
from sark.settings import load
from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.registry import make_sink, plan_sinks
from sark.siem.sinks.verdict import Delivered, Partly, Unavailable
from tests.support.polling import until

CHECKOUT = Path(__file__).parents[2]
WITHIN = 20.0

# Appends batches of 20 events for ever, and tells after each where the next begins.
WRITER = """
import asyncio, sys
from pathlib import Path
from sark.siem.sinks.file import FileSink
from sark.siem.sinks.verdict import Delivered
from tests.integration.test_sink_file import batch

async def main(path, start):
    sink = FileSink(Path(path), fsync=False)
    await sink.open()
    first = int(start)
    while True:
        assert await sink.send(batch(first, 20)) == Delivered()
        first += 20
        print(first, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def sink_at(address: str) -> Sink:
    (plan,) = plan_sinks(load({"SARK_SIEM_SINKS": address}))
    return make_sink(plan)


@asynccontextmanager
async def opened(path: Path, options: str = "") -> AsyncIterator[Sink]:
    sink = sink_at(f"file://{path}{options}")
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def batch(first: int, count: int, size: int = 100) -> list[Entry]:
    return [
        Entry(f"e{n}", 1.7e9, json.dumps({"n": n, "pad": "x" * size}).encode())
        for n in range(first, first + count)
    ]


def numbers(path: Path) -> list[int]:
    """The events of a file, every line of which has to be whole."""
    text = path.read_bytes()
    assert text.endswith(b"\n") or not text
    return [json.loads(line)["n"] for line in text.splitlines()]


def folder_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def start_writer(path: Path, first: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, path, str(first)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(writer: subprocess.Popen[str]) -> int:
    assert writer.stdout is not None
    return int(writer.stdout.readline())


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk: a write is cut, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("options", ["", "?fsync=false"])
async def test_events_are_lines_of_a_private_file(tmp_path: Path, options: str) -> None:
    path = tmp_path / "log" / "of audit" / "events.jsonl"
    sink = sink_at(f"file://{tmp_path}/log/of%20audit/events.jsonl{options}")
    await sink.open()
    for first in range(0, 30, 10):
        assert await sink.send(batch(first, 10)) == Delivered()
    await sink.close()
    assert numbers(path) == list(range(30))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_is_there_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text('{"n": 1}\n')
    path.chmod(0o640)
    async with opened(path) as sink:
        await sink.send(batch(2, 1))
    assert numbers(path) == [1, 2]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_torn_line_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text('{"n": 1}\n{"n": 2, "pa')
    async with opened(path) as sink:
        assert await sink.send(batch(3, 2)) == Delivered()
    lines = path.read_text().splitlines()
    assert lines[1] == '{"n": 2, "pa'
    assert [json.loads(line)["n"] for line in (lines[0], *lines[2:])] == [1, 3, 4]


@pytest.mark.parametrize("removed", [False, True])
async def test_a_rotated_file_is_opened_anew(tmp_path: Path, removed: bool) -> None:
    path, rotated = tmp_path / "events", tmp_path / "events.1"
    async with opened(path) as sink:
        await sink.send(batch(0, 3))
        if removed:
            path.unlink()
        else:
            path.rename(rotated)
        assert await sink.send(batch(3, 3)) == Delivered()
    assert numbers(path) == [3, 4, 5]
    assert removed or numbers(rotated) == [0, 1, 2]


async def test_nothing_is_lost_while_the_file_is_rotated_again_and_again(tmp_path: Path) -> None:
    path, count = tmp_path / "events", 400
    rotations = 0
    async with opened(path, "?fsync=false") as sink:

        async def rotate() -> None:
            nonlocal rotations
            while True:
                await asyncio.sleep(0)
                if path.exists():
                    path.rename(tmp_path / f"rotated-{rotations}")
                    rotations += 1

        rotating = asyncio.create_task(rotate())
        delivered = [
            first for first in range(count) if await sink.send(batch(first, 1)) == Delivered()
        ]
        rotating.cancel()
    found = [number for file in folder_files(tmp_path) for number in numbers(file)]
    assert rotations > 10
    assert set(delivered) <= set(found)


async def test_a_full_disk_keeps_the_lines_that_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "events"
    async with opened(path) as sink:
        assert await sink.send(batch(0, 1000)) == Delivered()
        size = path.stat().st_size
        line = size / 1000
        with disk_of(int(size + 3.5 * line)):
            verdict = await sink.send(batch(1000, 10))
            assert verdict == Partly(retry=frozenset(range(3, 10)), reason="file too large")
            assert numbers(path) == list(range(1003))
            assert await sink.send(batch(1003, 1)) == Unavailable("file too large")
            assert numbers(path) == list(range(1003))
        assert await sink.send(batch(1003, 7)) == Delivered()
    assert numbers(path) == list(range(1010))


async def test_a_batch_counts_only_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    path = tmp_path / "events"
    async with opened(path) as sink:
        await sink.send(batch(0, 1))
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fail)
            assert await sink.send(batch(1, 1)) == Unavailable("input/output error")
        assert await sink.send(batch(1, 1)) == Delivered()
    assert numbers(path) == [0, 1, 1]


async def test_several_processes_share_a_file_and_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "events"
    writers = [start_writer(path, first) for first in (0, 1_000_000)]
    try:
        told = [await asyncio.to_thread(first_line, writer) for writer in writers]
        size = path.stat().st_size
        await until(
            lambda: path.stat().st_size > size + 300_000, within=WITHIN, what="they write on"
        )
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        rest = [writer.communicate()[0].split() for writer in writers]
    told = [int(later[-1]) if later else first for first, later in zip(told, rest, strict=True)]
    async with opened(path) as sink:
        assert await sink.send(batch(5_000_000, 1)) == Delivered()
    lines = path.read_bytes().splitlines()
    found = set()
    torn = 0
    for line in lines:
        try:
            found.add(json.loads(line)["n"])
        except ValueError:
            torn += 1
    # Each killed process may leave one line torn, of a batch that it told nobody about.
    assert torn <= len(writers)
    assert found >= {*range(told[0]), *range(1_000_000, told[1]), 5_000_000}


@pytest.mark.parametrize("kind", ["folder", "pipe"])
async def test_what_cannot_be_written_is_told_at_the_start(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    sink = sink_at(f"file://{path}")
    with pytest.raises(SinkError, match=f"{path} cannot be written: "):
        await sink.open()
    await sink.close()


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="SARK_SIEM_SINKS: the sink main: expected the pa"):
        sink_at("file:")
