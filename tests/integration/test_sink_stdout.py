"""The sink of the standard output: lines for whoever reads, and no wait without end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from sark.errors import SinkError
from sark.siem.sinks.base import Entry
from sark.siem.sinks.stdout import StdoutSink
from sark.siem.sinks.verdict import Delivered, Partly, Unavailable

PIPE_BYTES = 65_536
CHECKOUT = Path(__file__).parents[2]

SCRIPT = """
import asyncio
from sark.settings import load
from sark.siem.sinks.registry import make_sink, plan_sinks
from tests.integration.test_sink_stdout import batch

async def main():
    (plan,) = plan_sinks(load({"SARK_SIEM_SINKS": "stdout:"}))
    sink = make_sink(plan)
    await sink.open()
    print(await sink.send(batch(0, 3)), file=__import__("sys").stderr)
    await sink.close()

asyncio.run(main())
"""


def batch(first: int, count: int, size: int = 100) -> list[Entry]:
    return [
        Entry(f"e{n}", 1.7e9, json.dumps({"n": n, "pad": "x" * size}).encode())
        for n in range(first, first + count)
    ]


def numbers(text: bytes) -> list[int]:
    assert text.endswith(b"\n")
    return [json.loads(line)["n"] for line in text.splitlines()]


class Pipe:
    """A pipe whose writing end a sink has."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self.reader: IO[bytes] = os.fdopen(reading, "rb", buffering=0)

    def close_writing(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1

    def read_rest(self) -> bytes:
        self.close_writing()
        return self.reader.readall()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close_writing()
    made.reader.close()


@asynccontextmanager
async def opened(pipe: Pipe, within: float = 5.0) -> AsyncIterator[StdoutSink]:
    sink = StdoutSink(timeout=within, descriptor=pipe.writing)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def test_a_process_writes_events_to_its_standard_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=CHECKOUT, capture_output=True, check=True
    )
    assert numbers(done.stdout) == [0, 1, 2]
    assert done.stderr == b"Delivered(slow_down=False)\n"


@pytest.mark.parametrize("size", [10, 3000, 4080, 4090, 9000])
async def test_lines_of_any_length_arrive(pipe: Pipe, size: int) -> None:
    async with opened(pipe) as sink:
        reading = asyncio.create_task(asyncio.to_thread(pipe.reader.readall))  # type: ignore[attr-defined]
        for first in range(0, 100, 50):
            assert await sink.send(batch(first, 50, size)) == Delivered()
        pipe.close_writing()
        assert numbers(await reading) == list(range(100))


async def test_a_reader_that_stops_holds_up_nobody(pipe: Pipe) -> None:
    async with opened(pipe, within=0.2) as sink:
        verdict = await sink.send(batch(0, 2000))
        assert isinstance(verdict, Partly)
        assert verdict.reason == "nobody reads it"
        taken = 2000 - len(verdict.retry)
        assert verdict.retry == frozenset(range(taken, 2000))
        assert 0 < taken < 2000
        assert await sink.send(batch(taken, 10)) == Unavailable("nobody reads it")
        await asyncio.to_thread(pipe.reader.read, PIPE_BYTES)
        assert await sink.send(batch(taken, 10)) == Delivered()
    assert numbers(pipe.read_rest())[-10:] == list(range(taken, taken + 10))


async def test_a_long_line_that_was_cut_is_ended_first(pipe: Pipe) -> None:
    async with opened(pipe, within=0.2) as sink:
        assert isinstance(await sink.send(batch(0, 1, 2 * PIPE_BYTES)), Unavailable)
        await asyncio.to_thread(pipe.reader.read, PIPE_BYTES)
        assert await sink.send(batch(1, 2)) == Delivered()
    cut, *whole = pipe.read_rest().splitlines()
    assert not cut.strip(b"x")
    assert [json.loads(line)["n"] for line in whole] == [1, 2]


async def test_a_reader_that_is_gone(pipe: Pipe) -> None:
    async with opened(pipe) as sink:
        pipe.reader.close()
        assert await sink.send(batch(0, 3)) == Unavailable("broken pipe")


async def test_several_sinks_on_one_pipe_keep_their_lines_apart(pipe: Pipe) -> None:
    reading = asyncio.create_task(asyncio.to_thread(pipe.reader.readall))  # type: ignore[attr-defined]
    async with opened(pipe) as one, opened(pipe) as other:
        verdicts = await asyncio.gather(one.send(batch(0, 500)), other.send(batch(1000, 500)))
    assert all(verdict == Delivered() for verdict in verdicts)
    pipe.close_writing()
    assert sorted(numbers(await reading)) == [*range(500), *range(1000, 1500)]


async def test_a_closed_standard_output_is_told_at_the_start(pipe: Pipe) -> None:
    descriptor = os.dup(pipe.writing)
    os.close(descriptor)
    sink = StdoutSink(descriptor=descriptor)
    with suppress(OSError), pytest.raises(SinkError, match="the standard output is closed"):
        await sink.open()
    await sink.close()
