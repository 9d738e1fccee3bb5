"""``sark siem``: the sinks of audit events, what waits for them, and what they refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sark.cli.arguments import JsonOption, ServiceOption, print_json, require_text
from sark.cli.siem_source import SiemSource, What, source_of
from sark.cli.siem_tables import print_sinks, print_test
from sark.errors import ConfigurationError
from sark.http.siem import MAX_AT_ONCE
from sark.settings import load

__all__ = ["siem"]

FOLLOW_SECONDS = 0.2
READING_SECONDS = 0.6
EXIT_REFUSED = 1

siem = typer.Typer(
    name="siem", help="The sinks of audit events and what waits for them.", no_args_is_help=True
)

SinkArgument = Annotated[str, typer.Argument(help="Name of the sink.")]
CountOption = Annotated[
    int, typer.Option("-n", "--count", min=1, max=MAX_AT_ONCE, help="Most events to print.")
]
MostOption = Annotated[
    int | None, typer.Option("-n", "--count", min=1, help="Most events, the oldest first.")
]


@siem.command()
def status(service: ServiceOption = None, json_output: JsonOption = False) -> None:
    """Print where every audit event is: the account of each sink, in events and bytes.

    Reads Valkey itself with VALKEY_URL, and can then tell nothing of what the services hold: their
    spill stores, and whether their forwarders are paused. Name one of them to see that.
    """

    async def ask() -> None:
        async with source_of(load(), service) as source:
            found = await source.status()
            if any(each.account is not None and each.rates is None for each in found.sinks):
                # Rates need two readings.
                await asyncio.sleep(READING_SECONDS)
                found = await source.status()
        if json_output:
            print_json(found)
        else:
            print_sinks(found)

    asyncio.run(ask())


@siem.command()
def tail(
    sink: SinkArgument = "main",
    count: CountOption = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as events come.")] = False,
    service: ServiceOption = None,
) -> None:
    """Print the newest events that wait in a sink's queue, one JSON object a line.

    Events leave the queue when they are forwarded: --follow looks five times a second, and does not
    see those that come and go in between.
    """
    asyncio.run(_tail(sink, count, follow=follow, service=service))


@siem.command()
def failed(
    sink: SinkArgument = "main",
    count: CountOption = 10,
    service: ServiceOption = None,
) -> None:
    """Print a sink's dead letters with their reasons, the oldest first, one JSON object a line."""

    async def ask() -> None:
        async with source_of(load(), service) as source:
            _print_lines(await source.read(sink, "failed", count))

    require_text("SINK", sink)
    asyncio.run(ask())


@siem.command()
def replay(
    sink: SinkArgument = "main", count: MostOption = None, service: ServiceOption = None
) -> None:
    """Put a sink's dead letters back into its queue, as far as that has room; their ids stay."""

    async def ask() -> int:
        async with source_of(load(), service) as source:
            waiting = await _waiting(source, sink, "failed")
            return await _in_steps(
                "replaying", min(waiting, count or waiting), lambda n: source.replay(sink, n)
            )

    require_text("SINK", sink)
    typer.echo(f"{asyncio.run(ask()):,} events are queued again")


@siem.command()
def purge(
    sink: SinkArgument = "main",
    what: Annotated[
        Literal["failed", "queue"], typer.Option(help="Dead letters, or events that wait.")
    ] = "failed",
    count: MostOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    service: ServiceOption = None,
) -> None:
    """Drop a sink's dead letters, or its queue, for good; asks before it does.

    They are booked as purged. Exit status 1 when the answer is no.
    """

    async def ask() -> int:
        async with source_of(load(), service) as source:
            waiting = await _waiting(source, sink, what)
            most = min(waiting, count or waiting)
            if most and not yes:
                named = "dead letters" if what == "failed" else "audit events"
                typer.confirm(f"Drop {most:,} {named} of {sink} for good?", abort=True, err=True)
            return await _in_steps("purging", most, lambda n: source.purge(sink, what, n))

    require_text("SINK", sink)
    typer.echo(f"{asyncio.run(ask()):,} events are gone")


@siem.command(name="test-sink")
def send_test(
    sink: SinkArgument = "main", service: ServiceOption = None, json_output: JsonOption = False
) -> None:
    """Send one test event to a sink, past its queue. Exit status 1 when it is not taken."""

    async def ask() -> bool:
        async with source_of(load(), service) as source:
            found = await source.test(sink)
        if json_output:
            print_json(found)
        else:
            print_test(found)
        return found.delivered

    require_text("SINK", sink)
    if not asyncio.run(ask()):
        raise typer.Exit(EXIT_REFUSED)


async def _tail(sink: str, count: int, *, follow: bool, service: str | None) -> None:
    require_text("SINK", sink)
    async with source_of(load(), service) as source:
        seen = await source.read(sink, "newest", MAX_AT_ONCE if follow else count)
        _print_lines(seen[-count:])
        while follow:
            await asyncio.sleep(FOLLOW_SECONDS)
            found = await source.read(sink, "newest", MAX_AT_ONCE)
            known = {bytes(each) for each in seen}
            _print_lines([each for each in found if bytes(each) not in known])
            # What has left the queue is forgotten, so that this stays small.
            seen = found or seen


async def _waiting(source: SiemSource, sink: str, what: What) -> int:
    """Tell how many events there are to move."""
    for report in (await source.status()).sinks:
        if report.sink == sink and report.account is not None:
            booked = report.account.failed if what == "failed" else report.account.queued
            return booked.events
        if report.sink == sink:
            raise ConfigurationError("Valkey does not answer: nothing was done")
    # An unknown one is refused in the words of its source.
    await source.read(sink, what, 1)
    return 0


async def _in_steps(task: str, total: int, move: Callable[[int], Awaitable[int]]) -> int:
    """Move events a thousand at a time, until none is left or there is no room."""
    done = 0
    if not total:
        return done
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task(task, total=total)
        while done < total:
            moved = await move(min(MAX_AT_ONCE, total - done))
            done += moved
            progress.update(bar, completed=done)
            if not moved:
                break
    return done


def _print_lines(events: Sequence[msgspec.Raw]) -> None:
    for each in events:
        typer.echo(bytes(each).decode())
