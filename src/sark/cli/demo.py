"""``sark demo``: everything started, the sample requests driven through it, what happened told."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated

import msgspec
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from sark.errors import (
    ConfigurationError,
    InvalidRequestError,
    LimitExceededError,
    SessionError,
)
from sark.gateway import Request
from sark.keyspace import MAIN_SINK
from sark.runtime import Runtime, open_runtime
from sark.settings import Settings, load
from sark.siem import SinkStatus

__all__ = ["demo"]

SAMPLE_REQUESTS = Path("examples/requests.jsonl")
PERCENTILES = (50, 95, 99)
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 5.0


Sample = tuple[str, Request]
"""A request, and the file and line that it stands in."""


@dataclass(slots=True)
class Tally:
    """What happened to the requests."""

    seconds: list[float] = field(default_factory=list)
    allowed: int = 0
    hits: int = 0
    denials: Counter[str] = field(default_factory=Counter)
    limited: Counter[str] = field(default_factory=Counter)


def demo(
    requests: Annotated[
        Path, typer.Option(help="Requests to send, one JSON object a line.")
    ] = SAMPLE_REQUESTS,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="Requests under way at once.")
    ] = 50,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Times to send the file.")] = 1,
) -> None:
    """Drive the sample requests through a gateway on an embedded Valkey of its own.

    Nothing else is touched: VALKEY_URL and SARK_SIEM_SINKS are ignored, and the data live in a
    temporary directory, the file that the audit events are forwarded to among them.
    """
    sample = _read(requests) * repeat
    # Whoever ends it, its server and its directory are cleared away.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="sark-demo-") as directory:
        ours = {
            **dict.fromkeys(("valkey_url", "valkey_state_url", "siem_sinks", "siem_tokens")),
            "spill_dir": None,
            "data_dir": Path(directory),
        }
        settings = load().model_copy(update=ours)
        uvloop.run(_demo(settings, sample, concurrency))


async def _demo(settings: Settings, sample: list[Sample], concurrency: int) -> None:
    console = Console()
    console.print("Starting an embedded Valkey and the embedded Rego engine ...")
    async with open_runtime(settings, ephemeral=True, forward=True) as runtime:
        tally = Tally()
        started = perf_counter()
        with _progress(console) as progress:
            bar = progress.add_task("authorizing", total=len(sample))
            source = iter(sample)
            workers = [
                _worker(runtime, source, tally, lambda: progress.advance(bar))
                for _ in range(concurrency)
            ]
            await asyncio.gather(*workers)
        elapsed = perf_counter() - started
        status = await _forwarded(runtime)
        _report(console, tally, elapsed, concurrency, status)
    console.print("Nothing is left behind.")


async def _forwarded(runtime: Runtime) -> SinkStatus:
    """Wait until the audit events have been forwarded; gives up when none moves for long."""
    queue = runtime.forwarding.queues[MAIN_SINK]
    before, patience = await queue.status(), PATIENCE_SECONDS
    while (before.queued.events or before.in_flight.events) and patience > 0:
        await asyncio.sleep(POLL_SECONDS)
        status = await queue.status()
        moved = status.delivered != before.delivered
        before, patience = status, PATIENCE_SECONDS if moved else patience - POLL_SECONDS
    return before


async def _worker(
    runtime: Runtime, source: Iterator[Sample], tally: Tally, advance: Callable[[], None]
) -> None:
    for place, request in source:
        before = perf_counter()
        try:
            answer = await runtime.authorize(request)
        except LimitExceededError as refusal:
            tally.limited[refusal.kind] += 1
        except (InvalidRequestError, SessionError) as error:
            raise ConfigurationError(f"{place}: {error}") from None
        else:
            tally.hits += answer.cached is not False
            if answer.allow:
                tally.allowed += 1
            else:
                tally.denials[answer.reason] += 1
        tally.seconds.append(perf_counter() - before)
        advance()


def _report(
    console: Console, tally: Tally, elapsed: float, concurrency: int, audited: SinkStatus
) -> None:
    total, limited = len(tally.seconds), tally.limited.total()
    decided = total - limited
    rows = Table(title="What happened", show_header=False)
    rows.add_row("requests", f"{total:,} in {elapsed:.2f} s, {concurrency} at once")
    rows.add_row("throughput", f"{total / elapsed:,.0f} requests/s in this one process")
    times = sorted(tally.seconds)
    spelled = ", ".join(f"p{p} {_percentile(times, p) * 1000:.2f} ms" for p in PERCENTILES)
    rows.add_row("latency", spelled)
    rows.add_row(
        "cache hits", f"{tally.hits:,} of {decided:,} decisions ({_share(tally.hits, decided)})"
    )
    rows.add_row("allowed", f"{tally.allowed:,} ({_share(tally.allowed, decided)})")
    rows.add_row("denied", f"{tally.denials.total():,}")
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in tally.limited.most_common())
    rows.add_row("rate limited", f"{limited:,}" + (f" ({kinds})" if kinds else ""))
    rows.add_row(
        "audit events",
        f"{audited.accepted.events:,} accepted, {audited.delivered.events:,} forwarded to a file",
    )
    console.print(rows)
    if tally.denials:
        denials = Table("reason", "denials", title="Denials by reason")
        for reason, count in tally.denials.most_common():
            denials.add_row(reason, f"{count:,}")
        console.print(denials)


def _read(path: Path) -> list[Sample]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}; run from a checkout or name a file with --requests"
        ) from None
    decode = msgspec.json.Decoder(Request).decode
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append((f"{path}:{number}", decode(line)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigurationError(f"{path}:{number}: {error}") from None
    if not found:
        raise ConfigurationError(f"{path}: holds no requests")
    return found


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        console=console,
    )


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
