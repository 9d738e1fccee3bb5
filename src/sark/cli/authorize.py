"""``sark authorize``: ask one question from the shell."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import msgspec
import typer

from sark.cli.arguments import parse_context, require_text
from sark.cli.service_client import caller_of
from sark.cli.spilled import spilled_told
from sark.errors import ConfigurationError
from sark.gateway import Request
from sark.policy.decisions import Consistency
from sark.runtime import open_runtime
from sark.settings import Settings, load

__all__ = ["authorize"]

EXIT_ALLOWED, EXIT_DENIED = 0, 3
STDIN = "-"


def authorize(  # noqa: PLR0917 - the parameters are the command's arguments
    user: Annotated[str, typer.Argument(help="Who wants to act.")],
    action: Annotated[str, typer.Argument(help="What to do, such as server:read.")],
    resource: Annotated[str, typer.Argument(help="What to do it to.")],
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="key=value for the policy; the value may be JSON."),
    ] = None,
    access_token: Annotated[
        str | None,
        typer.Option(
            "--access-token-file",
            help="File with the user's access token; - reads it from standard input.",
        ),
    ] = None,
    ip: Annotated[str | None, typer.Option(help="Address of the acting user.")] = None,
    user_agent: Annotated[
        str | None, typer.Option(help="User agent, where sessions are bound to it.")
    ] = None,
    api_key_id: Annotated[str | None, typer.Option(help="Id of the api key in use.")] = None,
    policy: Annotated[str | None, typer.Option(help="Which policy decides.")] = None,
    consistency: Annotated[
        str | None, typer.Option(help="fast, fresh or full; fresh goes with --freshness.")
    ] = None,
    freshness: Annotated[
        str | None, typer.Option(help="What `sark cache invalidate` printed.")
    ] = None,
) -> None:
    """Decide one request and print the answer; exit status 0 for allow, 3 for deny.

    With an access token, its session has to be alive and USER's. It is read from a file because
    other users can see a command's arguments.

    Asks the service that runs on this data directory. With VALKEY_URL the request is decided in
    this process as a service would, also while Valkey is away; standard error then tells in which
    folder the audit event waits.
    """
    named = {"USER": user, "ACTION": action, "RESOURCE": resource, "--ip": ip}
    named |= {"--api-key-id": api_key_id, "--policy": policy, "--freshness": freshness}
    named["--user-agent"] = user_agent
    if consistency not in {None, *get_args(Consistency)}:
        raise ConfigurationError(
            f"--consistency: got {consistency!r}, expected fast, fresh or full"
        )
    for name, text in named.items():
        require_text(name, text or "")
    request = Request(
        user_id=user,
        action=action,
        resource=resource,
        context=parse_context(context or []),
        access_token=access_token and _read_token(access_token),
        user_agent=user_agent,
        ip=ip,
        api_key_id=api_key_id,
        policy=policy,
        consistency=cast("Consistency | None", consistency),
        freshness=freshness,
    )
    answer = asyncio.run(_ask(load(), request))
    typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    raise typer.Exit(EXIT_ALLOWED if answer["allow"] else EXIT_DENIED)


def _read_token(name: str) -> str:
    """Read an access token; nothing of what was read is ever shown."""
    try:
        read = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        token = read.decode("ascii").strip()
    except OSError as error:
        raise ConfigurationError(f"--access-token-file: {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token:
        raise ConfigurationError(f"--access-token-file: {name}: expected an access token")
    return token


async def _ask(settings: Settings, request: Request) -> dict[str, Any]:
    if settings.valkey_url is not None:
        with spilled_told(settings) as hub:
            async with open_runtime(settings, hub=hub) as sark:
                answer: dict[str, Any] = msgspec.to_builtins(await sark.authorize(request))
        return answer
    members = msgspec.structs.asdict(request)
    found: dict[str, Any] = await caller_of(settings).call("POST", "/v1/authorize", members)
    return found
