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
from fnmatch import fnmatch
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
from benchmarks.peers.client import (
    PYTHON,
    open_peers,
    peer_cases_all_cores,
    peer_cases_one_core,
)
from benchmarks.report import console, goals_table, phase_table, study_table
from benchmarks.results import Result, goals, reduce, write
from benchmarks.study import Study
from benchmarks.study_audit import audit_study
from benchmarks.study_breaker import breaker_study
from benchmarks.study_forwarding import forwarding_study
from benchmarks.study_invalidation import invalidation_study
from benchmarks.study_limits import limits_study
from benchmarks.study_memory import compression_study, memory_study
from benchmarks.study_revocation import revocation_study
from benchmarks.study_sessions import session_study
from benchmarks.study_stampede import stampede_study
from benchmarks.workload import POLICIES, prime, read_requests
from sark import Runtime, Settings, open_runtime
from sark.errors import SarkError

RESULTS = Path(__file__).with_name("results.json")
NO_LIMIT = 10**9
NEAR_BOUND_MS = 2000
TOKEN_TTL_SECONDS = 86_400
BUDGET_MS = 5000

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
        studies: What is measured besides single calls.
    """

    sizes: Sizes
    one_core: int
    all_cores: int
    warm_up: int
    studies: tuple[Study, ...]


FULL = Plan(
    Sizes(alone=200, misses=40, together=1000, near=2000),
    one_core=100,
    all_cores=50,
    warm_up=3,
    studies=(
        memory_study(20_000),
        compression_study(2000),
        revocation_study((1, 4, 16), 300),
        invalidation_study(100_000),
        stampede_study(10),
        session_study(20_000, 2000),
        limits_study(20, 100),
        audit_study(40, 200),
        forwarding_study(5, 50_000),
        breaker_study(20, 1000),
    ),
)
QUICK = Plan(
    Sizes(alone=50, misses=10, together=200, near=200),
    one_core=5,
    all_cores=3,
    warm_up=1,
    studies=(
        memory_study(1000),
        compression_study(50),
        revocation_study((1,), 10),
        invalidation_study(2000),
        stampede_study(2),
        session_study(1000, 50),
        limits_study(2, 50),
        audit_study(3, 50),
        forwarding_study(1, 5000),
        breaker_study(2, 100),
    ),
)


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


@dataclass(frozen=True, slots=True)
class Choice:
    """What of it is measured.

    Attributes:
        only: Part of a name, or a pattern with ``*``; None chooses everything.
        http: The HTTP service too.
        pin: Keep a lone caller and the server on one core.
    """

    only: str | None
    http: bool
    pin: bool

    def takes(self, name: str) -> bool:
        """Tell whether a case or study is chosen."""
        if self.only is None:
            return True
        return fnmatch(name.lower(), f"*{self.only.lower()}*")

    def cases(self, cases: Sequence[Case]) -> list[Case]:
        """Choose cases, and what they are compared with."""
        chosen = {case.name for case in cases if self.takes(case.name)}
        chosen |= {name for case in cases if case.name in chosen for name in case.baselines}
        return [case for case in cases if case.name in chosen]


@app.command()
def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds, for tests.")] = False,
    only: Annotated[
        str | None, typer.Option(help="Cases and studies whose name contains this pattern.")
    ] = None,
    http: Annotated[bool, typer.Option(help="Measure the HTTP service too.")] = True,
    pin: Annotated[
        bool, typer.Option(help="Keep a lone caller and the server on the same core.")
    ] = True,
    fast_loop: Annotated[
        bool, typer.Option("--uvloop/--asyncio", help="Event loop of all sides.")
    ] = True,
    peers: Annotated[
        Path, typer.Option(help="Python of the peers' environment; without it they are left out.")
    ] = PYTHON,
    output: Annotated[Path | None, typer.Option(help="Where the rows are written.")] = None,
) -> None:
    """Measure SARK against the bare driver and its peers, side by side on one server."""
    for name in [name for name in os.environ if name.startswith(OWN_VARIABLES)]:
        del os.environ[name]
    if output is None and only is None:
        output = RESULTS
    choice = Choice(only, http, pin)
    work = _run(QUICK if quick else FULL, choice, peers, output, console())
    try:
        (uvloop.run if fast_loop else asyncio.run)(work)
    except (BenchmarkError, SarkError, OSError) as error:
        typer.echo(f"error: {str(error) or type(error).__name__}", err=True)
        raise typer.Exit(1) from None


async def _run(plan: Plan, choice: Choice, peers: Path, output: Path | None, out: Console) -> None:
    rows: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sark-bench-") as name:
        directory = Path(name)
        rows += await _cases(plan, choice, peers, directory, out)
        for number, study in enumerate(plan.studies):
            if choice.takes(study.title):
                rows += await _study(study, directory / f"study-{number}", out)
    if not rows:
        raise BenchmarkError(f"no case or study is called {choice.only!r}")
    out.print(goals_table([goal for goal in goals(rows) if goal.value is not None]))
    if output is not None:
        write(rows, output)
        out.print(f"{len(rows)} rows written to {output.name}", highlight=False)


async def _cases(
    plan: Plan, choice: Choice, python: Path, directory: Path, out: Console
) -> list[Result]:
    async with contextlib.AsyncExitStack() as stack:
        settings = Settings(
            data_dir=directory / "library",
            policy_dir=POLICIES,
            limit_per_minute=NO_LIMIT,
            # What is kept is kept: hits are to stay hits.
            ttl_jitter=0,
            near_cache_entries=0,
            # Tokens must outlive the run, and a stall must not end it, however slow the machine is.
            access_token_ttl=TOKEN_TTL_SECONDS,
            request_budget_ms=BUDGET_MS,
        )
        runtime = await stack.enter_async_context(open_runtime(settings, ephemeral=True))
        embedded = runtime.embedded
        assert embedded is not None  # noqa: S101 - no server was named
        near = await stack.enter_async_context(
            open_runtime(_near_settings(settings.data_dir, embedded.url))
        )
        drivers = await stack.enter_async_context(open_drivers(embedded.url))
        workload = await prime(runtime, read_requests())
        operations = await Operations.of(runtime, near, drivers, workload)
        peers = await stack.enter_async_context(
            open_peers(embedded.url, await operations.decisions(), python=python)
        )
        out.print(await _heading(runtime, operations))
        if peers is None:
            out.print("aiocache and cashews are left out: run `make bench`, which installs them")
        gc.collect()
        gc.freeze()

        samples: dict[str, list[Sample]] = {}
        others = () if peers is None else (peers.pid,)
        cases = one_core(operations, plan.sizes)
        if peers is not None:
            cases += peer_cases_one_core(peers, plan.sizes)
        with on_one_core(embedded.pid if choice.pin else None, *others) as pinned:
            where = "caller and server on one core" if pinned else "not pinned"
            title = f"One caller, {where}"
            first = Phase(title, choice.cases(cases), plan.one_core, [operations.drain])
            samples |= await _measure(first, plan.warm_up, out)

        cases, drain = all_cores(operations, plan.sizes), [operations.drain]
        if peers is not None:
            cases += peer_cases_all_cores(peers, plan.sizes)
        if choice.http and choice.takes("HTTP, 1 connection"):
            served = await stack.enter_async_context(
                open_http(directory / "service", workload, limit_per_minute=NO_LIMIT)
            )
            cases += http_cases(served, plan.sizes)
            drain.append(served.drain)
        second = Phase("All cores, not pinned", choice.cases(cases), plan.all_cores, drain)
        samples |= await _measure(second, plan.warm_up, out)

    rows = reduce([*first.cases, *second.cases], samples)
    for phase in (first, second):
        if phase.cases:
            out.print(phase_table(phase.title, phase.cases, rows, samples, out.width))
    return rows


def _near_settings(directory: Path, url: str) -> Settings:
    """Name the same server, with a near cache; its bound allows for a machine that stalls."""
    return Settings.model_validate(
        {
            "VALKEY_URL": url,
            "SARK_DATA_DIR": directory,
            "SARK_KEY_DIR": directory / "keys",
            "SARK_POLICY_DIR": POLICIES,
            "SARK_LIMIT_PER_MINUTE": NO_LIMIT,
            "SARK_TTL_JITTER": 0,
            "SARK_NEAR_CACHE_BOUND_MS": NEAR_BOUND_MS,
            "SARK_REQUEST_BUDGET_MS": BUDGET_MS,
        }
    )


async def _study(study: Study, directory: Path, out: Console) -> list[Result]:
    with _progress(out) as progress:
        task = progress.add_task(study.title, total=study.steps)
        found = await study.measure(
            directory, lambda: progress.update(task, advance=1, refresh=True)
        )
    out.print(study_table(study.title, found))
    return found


def _progress(out: Console) -> Progress:
    """Make a progress bar that is drawn only when told to."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=out,
        auto_refresh=False,
        transient=True,
        disable=not out.is_terminal,
    )


async def _measure(phase: Phase, warm_up: int, out: Console) -> dict[str, list[Sample]]:
    """Measure every case once a round; the progress bar is drawn between cases, never during."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in phase.cases}
    if not phase.cases:
        return samples
    total = warm_up + phase.rounds
    with _progress(out) as progress:
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
