"""Forwarding audit events: what one worker process carries to a collector of Splunk's protocol.

The collector is a real one where ``make test-heavy`` has installed it (Tenzir), and always also a
process of ours that forgets what it takes, so that the sender is the slower of the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from pydantic import SecretStr

from benchmarks.measure import BenchmarkError, no_collection
from benchmarks.process import running
from benchmarks.results import FORWARD_REAL, FORWARD_STAND_IN, Result
from benchmarks.study import Advance, Study, row
from benchmarks.workload import POLICIES
from sark import Runtime, Settings, open_runtime
from sark.events import Forwarded
from sark.parts.forwarding import open_forwarding
from sark.settings import SinkAddress
from sark.siem import AuditEvent, EventQueue, QueueBounds, new_event_id, now
from sark.siem.event import encode_event
from sark.siem.sinks.registry import plan_sinks

__all__ = ["forwarding_study"]

EVENT_BYTES = 1024
GROUP = 500
TOKEN = SecretStr("b0221cd8-c4b4-465a-9a3c-273e3a75aa29")
TENZIR = Path(__file__).parents[1] / ".venv-receivers" / "bin" / "tenzir"
LONGEST_SECONDS = 120.0
START_SECONDS = 30.0
NO_BOUND = QueueBounds(10**9, 10**15)


def forwarding_study(rounds: int, events: int) -> Study:
    """Events per second, and per second of the processor, of one process.

    Args:
        rounds: How often each case is measured.
        events: Of 1 KB, in each round.
    """
    cases = {FORWARD_STAND_IN: ("sark", "ocsf"), FORWARD_REAL: ("sark", "ocsf")}
    if not TENZIR.exists():
        del cases[FORWARD_REAL]

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        settings = Settings(data_dir=directory, policy_dir=POLICIES, siem_max_events=10**9)
        rows: list[Result] = []
        async with contextlib.AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(settings, ephemeral=True))
            ports = {FORWARD_STAND_IN: await stack.enter_async_context(_stand_in())}
            if FORWARD_REAL in cases:
                ports[FORWARD_REAL] = await stack.enter_async_context(_tenzir(directory))
            for case, formats in cases.items():
                for form in formats:
                    samples = []
                    for _ in range(rounds):
                        samples.append(await _round(runtime, ports[case], form, events))
                        advance()
                    rows += _rows(f"{case}, {form}", samples)
        return rows

    return Study("Forwarding", 2 * len(cases) * rounds, measure)


def _rows(case: str, samples: list[tuple[float, float]]) -> list[Result]:
    wall, cpu = (median(each) for each in zip(*samples, strict=True))
    return [
        row(case, "events_per_second", wall, "1/s"),
        row(case, "events_per_cpu_second", cpu, "1/s"),
    ]


async def _round(runtime: Runtime, port: int, form: str, events: int) -> tuple[float, float]:
    """Fill the queue and forward all of it; events per second, and per second of our processor."""
    address = SinkAddress(
        "main", "splunk+http", host="127.0.0.1", port=port, options=(("format", form),)
    )
    settings = runtime.settings.model_copy(
        update={"siem_sinks": (address,), "siem_tokens": {"main": TOKEN}, "siem_gzip": False}
    )
    await _fill(runtime, events)
    done, left = asyncio.Event(), events

    def forwarded(event: Forwarded) -> None:
        nonlocal left
        left -= event.events
        if left <= 0:
            done.set()

    runtime.hub.on(Forwarded, forwarded)
    plans = plan_sinks(settings)
    with no_collection():
        started, worked = perf_counter(), process_time()
        async with open_forwarding(settings, runtime.store, plans, forward=True):
            async with asyncio.timeout(LONGEST_SECONDS):
                await done.wait()
            seconds, work = perf_counter() - started, process_time() - worked
    return events / seconds, events / work


async def _fill(runtime: Runtime, events: int) -> None:
    queue = EventQueue(runtime.store, ("main",), NO_BOUND, flush_timeout=10)
    try:
        for start in range(0, events, GROUP):
            group = [_event(start + number) for number in range(GROUP)]
            await queue.put_back("main", group, copies=False)
    finally:
        await queue.close()


def _event(number: int) -> bytes:
    def made(reason: str) -> bytes:
        return encode_event(
            AuditEvent(
                id=new_event_id(),
                time=now(),
                type="decision",
                policy="authz",
                user_id=f"user-{number:06}",
                action="server:read",
                resource=f"server/web-{number:06}",
                context={"request_id": f"r-{number:08}", "mfa": True},
                allow=True,
                reason=reason,
                ip="192.0.2.7",
            )
        )

    return made("x" * (EVENT_BYTES - len(made(""))))


@contextlib.asynccontextmanager
async def _stand_in() -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.receiver", stdout=asyncio.subprocess.PIPE
    )
    async with running(process):
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield int(await process.stdout.readline())


@contextlib.asynccontextmanager
async def _tenzir(directory: Path) -> AsyncIterator[int]:
    """Start a real collector that counts what arrives."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = directory / "receive.tql"
    options = f'hec_token="{TOKEN.get_secret_value()}", max_request_size=16777216'
    file.write_text(f'accept_splunk "127.0.0.1:{port}", {options}\nsummarize n=count()\n')
    process = await asyncio.create_subprocess_exec(
        TENZIR,
        "--bare-mode",
        "-f",
        file,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with running(process):
        await _listening(port)
        yield port


async def _listening(port: int) -> None:
    deadline = perf_counter() + START_SECONDS
    while perf_counter() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise BenchmarkError("the receiver does not listen")
