"""Processes that wait for orders: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from benchmarks.measure import BenchmarkError

__all__ = ["LINE_BYTES", "ask", "running"]

LINE_BYTES = 2**24
ANSWER_SECONDS = 60.0
STOP_SECONDS = 15.0


async def ask(process: Process, order: Any) -> bytes:
    """Send an order and wait for the answer.

    Raises:
        BenchmarkError: The process has ended.
    """
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(msgspec.json.encode(order) + b"\n")
    async with asyncio.timeout(ANSWER_SECONDS):
        line = await process.stdout.readline()
    if not line:
        raise BenchmarkError("a process of the benchmark has ended")
    return line


@contextlib.asynccontextmanager
async def running(process: Process) -> AsyncIterator[None]:
    """Stop a process at the end: asked first, then killed."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
