"""``sark cache warm``: decide questions before they are asked."""

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

from sark.errors import ConfigurationError, InvalidRequestError
from sark.gateway import Gateway, Request
from sark.policy import Question
from sark.policy.warm_up import hot_questions
from sark.policy.warming import Unusable, WarmReport
from sark.policy.warming import warm as warm_cache
from sark.runtime import Runtime, key_directory, open_runtime
from sark.settings import ServerUrl, Settings, load
from sark.store.datadir import read_run_file

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
) -> None:
    """Decide questions that are not cached, and store the decisions; the most asked by default.

    Charges no limits and audits nothing: nobody is answered. Needs the settings of the services
    that share the cache, their policies above all. Ctrl-C ends it; what was stored stays.

    Exit status 1 when questions got no decision, 130 when it was interrupted.
    """
    if file is not None and hot:
        raise ConfigurationError("--hot: got it beside --from, expected one of the two")
    settings = _reaching_valkey(load())
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    code = asyncio.run(_run(settings, file, rate or settings.warm_rate, limit))
    raise typer.Exit(code)


def _reaching_valkey(settings: Settings) -> Settings:
    """Direct this process to the Valkey that the services use, with no near cache of its own."""
    ours: dict[str, object] = {"near_cache_entries": 0, "hot_sample": 0}
    if settings.valkey_url is None:
        run = read_run_file(settings.data_dir)
        if run is None:
            raise ConfigurationError(
                f"no service runs on {settings.data_dir}: start one with `sark serve`, "
                "or set VALKEY_URL"
            )
        ours |= {"valkey_url": ServerUrl(run.valkey_url), "key_dir": key_directory(settings)}
    return settings.model_copy(update=ours)


async def _run(settings: Settings, file: Path | None, rate: int, limit: int | None) -> int:
    told = _Told()
    async with open_runtime(settings) as runtime:
        if file is None:
            members = await runtime.hot.read(limit)
            total = len(members)
            questions = hot_questions(members, runtime.gateway.decisions, settings.policies)
        else:
            total = _count(file)
            questions = _questions(file, runtime.gateway)
        if limit is not None:
            total, questions = min(total, limit), islice(questions, limit)
        report, interrupted = await _warm(runtime, told.all(questions), rate, total)
    told.tell()
    _summarize(report, total)
    if interrupted:
        typer.echo("sark: interrupted; what was stored stays", err=True)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if report.failed else 0


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
            await warm_cache(runtime.gateway.decisions, questions, rate=rate, on_progress=advance)
        except asyncio.CancelledError:
            return report, True
    return report, False


def _count(file: Path) -> int:
    try:
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError as error:
        raise ConfigurationError(f"--from: {file}: {error.strerror}") from None


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
                self._count += 1
                if self._count <= MAX_TOLD:
                    self._first.append(item)
            yield item

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
