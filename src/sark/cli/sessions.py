"""``sark sessions``: who is logged in, and ending it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from sark.cli.arguments import JsonOption, ServiceOption, print_json, require_text
from sark.cli.service_client import admin_of
from sark.cli.session_source import source_of
from sark.cli.session_tables import print_report, print_session, print_sessions
from sark.errors import ConfigurationError
from sark.ops.session_stats import SessionReport
from sark.sessions.session import MAX_USER_ID_BYTES, check_text
from sark.settings import load

__all__ = ["sessions"]

sessions = typer.Typer(
    name="sessions", help="Who is logged in, and ending it.", no_args_is_help=True
)

UserArgument = Annotated[str, typer.Argument(help="The user.")]


@sessions.command(name="list")
def list_sessions(
    user: UserArgument, service: ServiceOption = None, json_output: JsonOption = False
) -> None:
    """Print a user's sessions, the newest first."""
    found = asyncio.run(source_of(load(), service).list(_id("USER", user)))
    if json_output:
        print_json(msgspec.to_builtins(found))
    else:
        print_sessions(found)


@sessions.command()
def show(
    user: UserArgument,
    session: Annotated[str, typer.Argument(help="The session.")],
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print one session; exit status 1 when it is not alive."""
    ids = _id("USER", user), _id("SESSION", session)
    found = asyncio.run(source_of(load(), service).show(*ids))
    if json_output:
        print_json(msgspec.to_builtins(found))
    else:
        print_session(found)


@sessions.command()
def revoke(  # noqa: PLR0917 - the parameters are the command's arguments
    user: UserArgument,
    session: Annotated[str | None, typer.Argument(help="End this session.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="End all of them.")] = False,
    spared: Annotated[str | None, typer.Option("--except", help="End all but this one.")] = None,
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """End sessions; prints the ids of those that were alive.

    Asks the service that runs on this data directory; with VALKEY_URL it ends them there itself, so
    that no service has to run. When it returns, no service accepts their tokens any more. Exit
    status 1 when that may not be so, or is not recorded: ask again.
    """
    if (session is not None) + everything + (spared is not None) != 1:
        raise ConfigurationError("expected one of SESSION, --all and --except ID")
    source, user = source_of(load(), service), _id("USER", user)
    if session is not None:
        found = asyncio.run(source.revoke(user, _id("SESSION", session)))
    else:
        kept = None if spared is None else _id("--except", spared)
        found = asyncio.run(source.revoke_all(user, kept))
    if json_output:
        print_json(msgspec.to_builtins(found))
    for session_id in () if json_output else found.ended:
        typer.echo(session_id)


@sessions.command()
def stats(service: ServiceOption = None, json_output: JsonOption = False) -> None:
    """Print a service's figures: logins, refreshes, refusals, ends, and what Valkey holds."""
    found = asyncio.run(admin_of(load(), service).call("GET", "/v1/sessions/stats"))
    if json_output:
        print_json(found)
    else:
        print_report(msgspec.convert(found, SessionReport))


def _id(name: str, value: str) -> str:
    require_text(name, value)
    return check_text(name, value, most=MAX_USER_ID_BYTES)
