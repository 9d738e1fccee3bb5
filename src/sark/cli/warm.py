"""``sark cache warm``: decide questions before they are asked.

A running service does it, where there is one: it has the policies that its decisions must be made
under. Where only Valkey is known this process decides by itself, and then leaves everything alone
that it can't explain by its own policies: it may be valid for services that have others.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sark.cli.service_client import ServiceClient, admin_of, running_admin
from sark.cli.warm_through import count_lines, warm_through
from sark.errors import ConfigurationError, InvalidRequestError
from sark.gateway import Gateway, Request
from sark.ops.decision_keys import sample_key_forms
from sark.policy import Question
from sark.policy.warm_up import hot_questions
from sark.policy.warming import Unusable, WarmReport
from sark.policy.warming import warm as warm_cache
from sark.runtime import Runtime, open_runtime
from sark.settings import Settings, load

__all__ = ["warm"]

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
# A file of another kind should not fill the screen.
MAX_TOLD = 5


def warm(
    file: Annotated[
        Path | None,
        typer.Option("--from", help="Requests, one JSON object a line, as for `sark demo`."),
    ] = None,
    hot: Annotated[
        bool, typer.Option("--hot", help="The log of the most asked questions.")
    ] = False,
    rate: Annotated[
        int | None,
        typer.Option(
            min=1, max=100_000, help="Evaluations per second; SARK_WARM_RATE if not given."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most questions to take.")] = None,
    service: Annotated[
        str | None,
        typer.Option("--service", help="Address of the service; else the one that runs here."),
    ] = None,
) -> None:
    """Decide questions that are not cached, and store the decisions; the most asked by default.

    The service that runs on this data directory, or at --service, does it. With VALKEY_URL alone
    this process does, by its own policies, and leaves decisions alone that were made under others.
    Charges no limits and audits nothing: nobody is answered. Ctrl-C ends it; what was stored stays.

    Exit status 1 when questions got no decision or were left alone, 130 when it was interrupted.
    """
    if file is not None and hot:
        raise ConfigurationError("--hot: got it beside --from, expected one of the two")
    settings = load()
    client = admin_of(settings, service) if service is not None else running_admin(settings)
    if client is None and settings.valkey_url is None:
        raise ConfigurationError(
            f"no service runs on {settings.data_dir}: start one with `sark serve`, "
            "or set VALKEY_URL"
        )
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    running = (
        _run(settings, file, rate or settings.warm_rate, limit)
        if client is None
        else _ask(client, file, rate, limit)
    )
    raise typer.Exit(asyncio.run(running))


async def _ask(
    client: ServiceClient, file: Path | None, rate: int | None, limit: int | None
) -> int:
    """Let a service warm."""
    told, report, interrupted = _Told(), WarmReport(), False
    total = None if file is None else min(count_lines(file), limit or 2**63)
    with _progress(Console(stderr=True)) as progress:
        bar = progress.add_task("warming", total=total)

        def advance(so_far: WarmReport, of: int) -> None:
            nonlocal report, total
            report, total = so_far, of if total is None else total
            progress.update(bar, completed=so_far.done, total=total)

        try:
            await warm_through(client, file, rate=rate, limit=limit, tell=told.add, on=advance)
        except asyncio.CancelledError:
            interrupted = True
    return _conclude(told, report, total or 0, interrupted=interrupted)


async def _run(settings: Settings, file: Path | None, rate: int, limit: int | None) -> int:
    """Warm in this process, with no near cache of its own."""
    settings = settings.model_copy(update={"near_cache_entries": 0, "hot_sample": 0})
    told = _Told()
    async with open_runtime(settings) as runtime:
        await _check_key_form(runtime)
        if file is None:
            members = await runtime.hot.read(limit)
            total = len(members)
            questions = hot_questions(members, runtime.gateway.decisions, settings.policies)
        else:
            total = count_lines(file)
            questions = _questions(file, runtime.gateway)
        if limit is not None:
            total, questions = min(total, limit), islice(questions, limit)
        report, interrupted = await _warm(runtime, told.all(questions), rate, total)
        revision = runtime.gateway.decisions.revision
    code = _conclude(told, report, total, interrupted=interrupted)
    if report.foreign:
        typer.echo(
            f"sark: {report.foreign:,} decisions are cached under another stamp, and were left: "
            f"revoked, or made under other policies than this process has (revision {revision}). "
            "A service knows: --service ADDRESS lets it warm",
            err=True,
        )
    return code


async def _check_key_form(runtime: Runtime) -> None:
    """Refuse to store what nobody would look up."""
    form, found = runtime.settings.cache_key, await sample_key_forms(runtime.store.cache)
    if found and form not in found:
        raise ConfigurationError(
            f"SARK_CACHE_KEY: got {form!r}, but the decisions on the server have keys of the form "
            f"{found.pop()!r}: expected the setting of the services"
        )


async def _warm(
    runtime: Runtime, questions: Iterable[Question | Unusable], rate: int, total: int
) -> tuple[WarmReport, bool]:
    """Warm with a progress bar; the report, and whether it was interrupted."""
    report = WarmReport()
    with _progress(Console(stderr=True)) as progress:
        bar = progress.add_task("warming", total=total)

        def advance(so_far: WarmReport) -> None:
            nonlocal report
            report = so_far
            progress.update(bar, completed=so_far.done)

        try:
            await warm_cache(
                runtime.gateway.decisions, questions, rate=rate, replace=False, on_progress=advance
            )
        except asyncio.CancelledError:
            return report, True
    return report, False


def _conclude(told: _Told, report: WarmReport, total: int, *, interrupted: bool) -> int:
    """Print what came of it; the exit status."""
    told.tell()
    _summarize(report, total)
    if report.reason:
        typer.echo(f"sark: given up: {report.reason}", err=True)
    if interrupted:
        typer.echo("sark: interrupted; what was stored stays", err=True)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if report.failed or report.foreign or report.reason else 0


def _questions(file: Path, gateway: Gateway) -> Iterator[Question | Unusable]:
    """Read requests as their questions, cut for their policies as real ones are."""
    decode = msgspec.json.Decoder(Request).decode
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                question, _ = gateway.check(decode(line))
            except (
                msgspec.DecodeError,
                UnicodeDecodeError,
                RecursionError,
                InvalidRequestError,
            ) as error:
                yield Unusable(f"{file}:{number}", str(error))
            else:
                yield question


class _Told:
    """Keeps the first of what can't be asked until the progress bar is gone."""

    def __init__(self) -> None:
        self._first: list[Unusable] = []
        self._count = 0

    def all(self, questions: Iterable[Question | Unusable]) -> Iterator[Question | Unusable]:
        for item in questions:
            if isinstance(item, Unusable):
                self.add(item)
            yield item

    def add(self, item: Unusable) -> None:
        self._count += 1
        if self._count <= MAX_TOLD:
            self._first.append(item)

    def tell(self) -> None:
        for item in self._first:
            typer.echo(f"sark: {item.place}: {item.reason}", err=True)
        if self._count > MAX_TOLD:
            typer.echo(f"sark: ... and {self._count - MAX_TOLD:,} more", err=True)


def _summarize(report: WarmReport, total: int) -> None:
    rows = Table(title="Warming", show_header=False)
    rows.add_row("questions", f"{report.done:,} of {total:,} in {report.seconds:.2f} s")
    rows.add_row("cached already", f"{report.cached:,}")
    rows.add_row("evaluated", f"{report.evaluated:,}, of which {report.stored:,} were stored")
    rows.add_row("failed", f"{report.failed:,}")
    if report.foreign:
        rows.add_row("left alone", f"{report.foreign:,}, cached under another stamp")
    rows.add_row("skipped", f"{report.skipped:,}")
    Console().print(rows)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
