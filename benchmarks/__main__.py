"""Run the benchmarks, print the report and write ``results.json``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import uvloop
import valkey
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.cases import Case, Sizes, all_cores, one_core
from benchmarks.driver import open_drivers
from benchmarks.http_service import http_cases, open_http
from benchmarks.measure import BenchmarkError, Sample, in_order, on_one_core
from benchmarks.operations import Operations
from benchmarks.report import console, goals_table, phase_table
from benchmarks.results import goals, reduce, write
from benchmarks.workload import POLICIES, prime, read_requests
from sark import Runtime, Settings, open_runtime
from sark.errors import SarkError

RESULTS = Path(__file__).with_name("results.json")
NO_LIMIT = 10**9

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
OWN_VARIABLES = ("SARK_", "VALKEY_", "OPA_")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: Calls per round.
        one_core: Rounds of the cases on one core.
        all_cores: Rounds of the cases on all cores.
        warm_up: Rounds before those, which don't count.
    """

    sizes: Sizes
    one_core: int
    all_cores: int
    warm_up: int


FULL = Plan(Sizes(alone=200, misses=40, together=1000), one_core=100, all_cores=50, warm_up=3)
QUICK = Plan(Sizes(alone=50, misses=10, together=200), one_core=5, all_cores=3, warm_up=1)


@dataclass(frozen=True, slots=True)
class Phase:
    """Cases that are measured in the same rounds.

    Attributes:
        title: For the report.
        cases: The cases.
        rounds: How many rounds count.
        drain: Empties the queues that the cases fill, between rounds.
    """

    title: str
    cases: Sequence[Case]
    rounds: int
    drain: Sequence[Callable[[], Awaitable[None]]]


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds, for tests.")] = False,
    http: Annotated[bool, typer.Option(help="Measure the HTTP service too.")] = True,
    pin: Annotated[
        bool, typer.Option(help="Keep a lone caller and the server on the same core.")
    ] = True,
    fast_loop: Annotated[
        bool, typer.Option("--uvloop/--asyncio", help="Event loop of both sides.")
    ] = True,
    output: Annotated[Path, typer.Option(help="Where the rows are written.")] = RESULTS,
) -> None:
    """Measure SARK against the bare driver, side by side on one server."""
    for name in [name for name in os.environ if name.startswith(OWN_VARIABLES)]:
        del os.environ[name]
    work = _run(QUICK if quick else FULL, http=http, pin=pin, output=output, out=console())
    try:
        (uvloop.run if fast_loop else asyncio.run)(work)
    except (BenchmarkError, SarkError, OSError) as error:
        typer.echo(f"error: {str(error) or type(error).__name__}", err=True)
        raise typer.Exit(1) from None


async def _run(plan: Plan, *, http: bool, pin: bool, output: Path, out: Console) -> None:
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sark-bench-")))
        settings = Settings(
            data_dir=directory / "library",
            policy_dir=POLICIES,
            limit_per_minute=NO_LIMIT,
            # What is kept is kept: hits are to stay hits.
            ttl_jitter=0,
            near_cache_entries=0,
        )
        runtime = await stack.enter_async_context(open_runtime(settings, ephemeral=True))
        embedded = runtime.embedded
        assert embedded is not None  # noqa: S101 - no server was named
        drivers = await stack.enter_async_context(open_drivers(embedded.url))
        workload = await prime(runtime, read_requests())
        operations = await Operations.of(runtime, drivers, workload)
        out.print(await _heading(runtime, operations))
        gc.collect()
        gc.freeze()

        samples: dict[str, list[Sample]] = {}
        with on_one_core(embedded.pid if pin else None) as pinned:
            where = "caller and server on one core" if pinned else "not pinned"
            cases = one_core(operations, plan.sizes)
            title = f"One caller, {where}"
            first = Phase(title, cases, plan.one_core, [operations.drain])
            samples |= await _measure(first, plan.warm_up, out)

        cases, drain = all_cores(operations, plan.sizes), [operations.drain]
        if http:
            served = await stack.enter_async_context(
                open_http(directory / "service", workload, limit_per_minute=NO_LIMIT)
            )
            cases += http_cases(served, plan.sizes)
            drain.append(served.drain)
        second = Phase("All cores, not pinned", cases, plan.all_cores, drain)
        samples |= await _measure(second, plan.warm_up, out)

    rows = reduce([*first.cases, *second.cases], samples)
    for phase in (first, second):
        out.print(phase_table(phase.title, phase.cases, rows, samples, out.width))
    out.print(goals_table(goals(rows)))
    write(rows, output)
    out.print(f"{len(rows)} rows written to {output.name}", highlight=False)


async def _measure(phase: Phase, warm_up: int, out: Console) -> dict[str, list[Sample]]:
    """Measure every case once a round; the progress bar is drawn between cases, never during."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in phase.cases}
    total = warm_up + phase.rounds
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=out,
        auto_refresh=False,
        transient=True,
        disable=not out.is_terminal,
    ) as progress:
        task = progress.add_task(f"{phase.title}, rounds", total=total)
        for number in range(total):
            for case in in_order(phase.cases, number):
                sample = await case.measure()
                if number >= warm_up:
                    samples[case.name].append(sample)
            for drain in phase.drain:
                await drain()
            progress.update(task, completed=number + 1, refresh=True)
    return samples


async def _heading(runtime: Runtime, operations: Operations) -> str:
    info: bytes = await runtime.store.state.execute("INFO", "server")
    server = info.partition(b"valkey_version:")[2].split()[0].decode()
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, "
        f"Python {platform.python_version()} ({loop}), valkey-py {valkey.__version__}, "
        f"Valkey {server} over a unix socket, cached decision of {operations.value_bytes} bytes"
    )


if __name__ == "__main__":
    if not POLICIES.is_dir():
        sys.exit("the benchmarks run from a checkout: examples/policies is missing")
    app()
