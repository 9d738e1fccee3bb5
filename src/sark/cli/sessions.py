"""``sark sessions``: who is logged in, and ending it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from sark.cli.arguments import JsonOption, ServiceOption, print_json, require_text
from sark.cli.service_client import admin_of, user_path
from sark.cli.session_tables import print_report, print_session, print_sessions
from sark.errors import ConfigurationError
from sark.ops.session_stats import SessionReport
from sark.sessions import Session
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
    found = _ask("GET", _path(user), service)
    if json_output:
        print_json(found["sessions"])
    else:
        print_sessions(msgspec.convert(found["sessions"], list[Session]))


@sessions.command()
def show(
    user: UserArgument,
    session: Annotated[str, typer.Argument(help="The session.")],
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print one session; exit status 1 when it is not alive."""
    found = _ask("GET", _path(user, session), service)
    if json_output:
        print_json(found)
    else:
        print_session(msgspec.convert(found, Session))


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

    When it returns, no service accepts their tokens any more. Exit status 1 when that may not be
    so: ask again.
    """
    if (session is not None) + everything + (spared is not None) != 1:
        raise ConfigurationError("expected one of SESSION, --all and --except ID")
    path = _path(user, session)
    if spared is not None:
        path = f"{path}?except={quote(_id('--except', spared), safe='')}"
    found = _ask("DELETE", path, service)
    if json_output:
        print_json(found)
    for session_id in () if json_output else found["ended"]:
        typer.echo(session_id)


@sessions.command()
def stats(service: ServiceOption = None, json_output: JsonOption = False) -> None:
    """Print a service's figures: logins, refreshes, refusals, ends, and what Valkey holds."""
    found = _ask("GET", "/v1/sessions/stats", service)
    if json_output:
        print_json(found)
    else:
        print_report(msgspec.convert(found, SessionReport))


def _ask(method: str, path: str, service: str | None) -> dict[str, Any]:
    found: dict[str, Any] = asyncio.run(admin_of(load(), service).call(method, path))
    return found


def _path(user: str, session: str | None = None) -> str:
    path = f"{user_path(_id('USER', user))}/sessions"
    return path if session is None else f"{path}/{quote(_id('SESSION', session), safe='')}"


def _id(name: str, value: str) -> str:
    require_text(name, value)
    return check_text(name, value, most=MAX_USER_ID_BYTES)
