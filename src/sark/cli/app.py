"""The ``sark`` command: its subcommands, and how it fails."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import sark
from sark.cli.authorize import authorize
from sark.cli.breaker import breaker
from sark.cli.cache import cache
from sark.cli.demo import demo
from sark.cli.keys import keys
from sark.cli.keyspace import keyspace
from sark.cli.limits import limits
from sark.cli.serve import serve
from sark.cli.sessions import sessions
from sark.cli.settings import settings
from sark.cli.siem import siem
from sark.cli.worker import worker
from sark.errors import ConfigurationError, SarkError

__all__ = ["app", "run"]

app = typer.Typer(
    name="sark",
    help="The Valkey state layer for authorization gateways.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"sark {sark.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """The Valkey state layer for authorization gateways."""


for command in (serve, worker, demo, authorize, settings, keyspace):
    app.command()(command)
app.add_typer(cache)
app.add_typer(sessions)
app.add_typer(keys)
app.add_typer(limits)
app.add_typer(siem)
app.add_typer(breaker)


def run() -> None:
    """Run the command; errors that a person can mend are one line each on standard error."""
    try:
        app()
    except ConfigurationError as error:
        _tell(error)
        sys.exit(2)
    except SarkError as error:
        _tell(error)
        sys.exit(1)


def _tell(error: SarkError) -> None:
    # Several settings may be wrong at once; each has its line.
    for line in str(error).splitlines():
        typer.echo(f"sark: {line}", err=True)
