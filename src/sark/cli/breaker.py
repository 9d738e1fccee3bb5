"""``sark breaker``: circuit breakers, seen and forced."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sark.breaker import Snapshot
from sark.cli.arguments import JsonOption, ServiceOption, print_json, require_text
from sark.cli.breaker_source import source_of
from sark.settings import load

__all__ = ["breaker"]

PIPED_WIDTH = 160

breaker = typer.Typer(
    name="breaker", help="Circuit breakers: see, hold open or closed, reset.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Such as siem.")]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0, help="How long; 0: until it is changed by hand.")
]


@breaker.command()
def show(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print the circuit breakers.

    Asks the service that runs on this data directory; with VALKEY_URL it asks Valkey itself.
    """
    source = source_of(load(), service)
    if name is None:
        found = asyncio.run(source.list())
        if json_output:
            print_json({"breakers": msgspec.to_builtins(found)})
            return
        _print(found)
    else:
        _tell(asyncio.run(source.show(_text(name))), json_output)


@breaker.command("force-open")
def force_open(
    name: NameArgument,
    seconds: SecondsOption = 0,
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Refuse all calls, everywhere, until it is reset or the time is over.

    Exit status 1: it may not have happened, ask again.
    """
    _tell(asyncio.run(source_of(load(), service).force(_text(name), "open", seconds)), json_output)


@breaker.command("force-closed")
def force_closed(
    name: NameArgument,
    seconds: SecondsOption = 0,
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Admit all calls, everywhere, whatever becomes of them; else as force-open."""
    found = asyncio.run(source_of(load(), service).force(_text(name), "closed", seconds))
    _tell(found, json_output)


@breaker.command()
def reset(
    name: NameArgument, service: ServiceOption = None, json_output: JsonOption = False
) -> None:
    """Close it everywhere as if nothing had happened."""
    _tell(asyncio.run(source_of(load(), service).force(_text(name), "reset", 0)), json_output)


def _text(name: str) -> str:
    require_text("NAME", name)
    return name


def _tell(found: Snapshot, json_output: bool) -> None:
    if json_output:
        print_json(msgspec.to_builtins(found))
    else:
        _print([found])


def _print(found: list[Snapshot]) -> None:
    table = Table()
    for heading in ("breaker", "state", "for", "failures", "retry in", "opened", "reason"):
        table.add_column(heading, overflow="fold")
    for each in found:
        table.add_row(
            each.name,
            each.state.replace("_", " "),
            f"{each.in_state:,.0f} s",
            f"{each.failures:,}",
            f"{each.retry_after:,.1f} s" if each.retry_after else "",
            f"{each.opened:,}",
            # A reason may come from anywhere.
            Text("".join(c if c.isprintable() else "?" for c in each.reason)),
        )
    console = Console()
    (console if console.is_terminal else Console(width=PIPED_WIDTH)).print(table, markup=False)
