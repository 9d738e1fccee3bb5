"""The service under test and its client, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from benchmarks.cases import CALLERS, Case, Sizes
from benchmarks.http_load import Order, Task, Times
from benchmarks.measure import BenchmarkError, Sample
from benchmarks.process import LINE_BYTES, ask, running
from benchmarks.workload import POLICIES, ROOT, Workload
from sark import Settings
from sark.keyspace import MAIN_SINK
from sark.siem import EventQueue, QueueBounds
from sark.store import Store, Topology
from sark.store.datadir import RunFile, read_run_file

__all__ = ["HttpUnderTest", "http_cases", "open_http"]

READY_SECONDS = 30.0
POLL_SECONDS = 0.05
PURGE_TIMEOUT_SECONDS = 1.0


class HttpUnderTest:
    """A running service and a client that waits for orders.

    Args:
        client: The client process.
        queue: The service's audit queue.
    """

    def __init__(self, client: Process, queue: EventQueue) -> None:
        self._client = client
        self._queue = queue

    async def measure(self, connections: int, requests: int) -> Sample:
        """Let the client send requests.

        Raises:
            BenchmarkError: A request failed, or was not answered from the cache.
        """
        line = await ask(self._client, Order(connections, requests))
        times = msgspec.json.decode(line, type=Times)
        if times.error is not None:
            raise BenchmarkError(f"HTTP: {times.error}")
        return Sample(times.latencies, times.elapsed)

    async def drain(self) -> None:
        """Empty the service's audit queue, which is bounded."""
        await self._queue.purge()


def http_cases(http: HttpUnderTest, sizes: Sizes) -> list[Case]:
    """List the cases through HTTP, compared with the same calls in process."""
    return [
        Case(
            "HTTP, 1 connection",
            _measure(http, 1, sizes.alone),
            ("authorize, near hit, 1 caller", "driver GET, 1 caller"),
        ),
        Case(
            f"HTTP, {CALLERS} connections",
            _measure(http, CALLERS, sizes.together),
            (f"authorize, near hit, {CALLERS} callers", f"driver GET, {CALLERS} callers"),
            concurrent=True,
        ),
    ]


def _measure(
    http: HttpUnderTest, connections: int, requests: int
) -> Callable[[], Awaitable[Sample]]:
    return lambda: http.measure(connections, requests)


@contextlib.asynccontextmanager
async def open_http(
    directory: Path, workload: Workload, *, limit_per_minute: int
) -> AsyncIterator[HttpUnderTest]:
    """Start the service and the client; ask every hit once, so that it is one.

    Args:
        directory: For the service's data; its output goes beside it.
        workload: What the client will ask.
        limit_per_minute: Rate limit that refuses nothing.

    Raises:
        BenchmarkError: The service does not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        run = await stack.enter_async_context(_service(directory, limit_per_minute))
        store = Store(Topology.single(run.valkey_url), Settings(data_dir=directory))
        await stack.enter_async_context(store)
        queue = EventQueue(store, (MAIN_SINK,), QueueBounds(), flush_timeout=PURGE_TIMEOUT_SECONDS)
        url = f"{run.http}/v1/authorize"
        await _fill(url, workload)
        client = await stack.enter_async_context(_client(url, workload))
        yield HttpUnderTest(client, queue)


@contextlib.asynccontextmanager
async def _service(directory: Path, limit_per_minute: int) -> AsyncIterator[RunFile]:
    environment = os.environ | {
        "SARK_PORT": "0",
        "SARK_DATA_DIR": str(directory),
        "SARK_POLICY_DIR": str(POLICIES),
        "SARK_LIMIT_PER_MINUTE": str(limit_per_minute),
        "SARK_LOG_LEVEL": "warning",
    }
    command = Path(sys.executable).with_name("sark")
    output = directory.with_name("service.log")
    with output.open("wb") as log:
        service = await asyncio.create_subprocess_exec(
            *(command, "serve", "--ephemeral"),
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
            env=environment,
        )
    async with running(service):
        yield await _ready(service, directory, output)


async def _ready(service: Process, directory: Path, output: Path) -> RunFile:
    deadline = time.monotonic() + READY_SECONDS
    while service.returncode is None and time.monotonic() < deadline:
        run = read_run_file(directory)
        if run is not None and run.http is not None:
            return run
        await asyncio.sleep(POLL_SECONDS)
    raise BenchmarkError(f"sark serve did not become ready; it said: {_last_line(output)}")


def _last_line(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"


async def _fill(url: str, workload: Workload) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for body in _bodies(workload):
            headers = {"Content-Type": "application/json"}
            async with session.post(url, data=body, headers=headers) as response:
                if response.status != 200:
                    text = await response.text()
                    raise BenchmarkError(f"HTTP {response.status} from the service: {text}")


@contextlib.asynccontextmanager
async def _client(url: str, workload: Workload) -> AsyncIterator[Process]:
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.http_load"),
        stdin=PIPE,
        stdout=PIPE,
        cwd=ROOT,
        limit=LINE_BYTES,
    )
    async with running(client):
        assert client.stdin is not None  # noqa: S101 - it is a pipe
        client.stdin.write(msgspec.json.encode(Task(url, _bodies(workload))) + b"\n")
        yield client


def _bodies(workload: Workload) -> list[str]:
    return [msgspec.json.encode(request).decode() for request in workload.hits]
