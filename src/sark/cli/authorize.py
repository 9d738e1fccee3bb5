"""``sark authorize``: ask one question from the shell."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import aiohttp
import msgspec
import typer

from sark.errors import ConfigurationError, SarkError
from sark.gateway import Request
from sark.runtime import open_runtime
from sark.settings import Settings, load
from sark.store.datadir import read_run_file

__all__ = ["authorize"]

EXIT_ALLOWED, EXIT_DENIED = 0, 3
TIMEOUT_SECONDS = 10.0


def authorize(  # noqa: PLR0917 - the parameters are the command's arguments
    user: Annotated[str, typer.Argument(help="Who wants to act.")],
    action: Annotated[str, typer.Argument(help="What to do, such as server:read.")],
    resource: Annotated[str, typer.Argument(help="What to do it to.")],
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="key=value for the policy; the value may be JSON."),
    ] = None,
    ip: Annotated[str | None, typer.Option(help="Address of the acting user.")] = None,
    api_key_id: Annotated[str | None, typer.Option(help="Id of the api key in use.")] = None,
    policy: Annotated[str | None, typer.Option(help="Which policy decides.")] = None,
) -> None:
    """Decide one request and print the answer; exit status 0 for allow, 3 for deny.

    Asks the service that runs on this data directory; without one, VALKEY_URL must be set, and the
    request is decided in this process.
    """
    named = {"USER": user, "ACTION": action, "RESOURCE": resource, "--ip": ip}
    named |= {"--api-key-id": api_key_id, "--policy": policy}
    for name, text in named.items():
        _require_text(name, text or "")
    request = Request(
        user_id=user,
        action=action,
        resource=resource,
        context=_parse_context(context or []),
        ip=ip,
        api_key_id=api_key_id,
        policy=policy,
    )
    answer = asyncio.run(_ask(load(), request))
    typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    raise typer.Exit(EXIT_ALLOWED if answer["allow"] else EXIT_DENIED)


async def _ask(settings: Settings, request: Request) -> dict[str, Any]:
    if settings.valkey_url is not None:
        async with open_runtime(settings) as sark:
            answer: dict[str, Any] = msgspec.to_builtins(await sark.authorize(request))
            return answer
    run = read_run_file(settings.data_dir)
    if run is None or run.http is None:
        raise ConfigurationError(
            f"no service runs on {settings.data_dir}: start one with `sark serve`, "
            "or set VALKEY_URL"
        )
    return await _post(f"{run.http}/v1/authorize", settings, request)


async def _post(url: str, settings: Settings, request: Request) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if settings.service_token is not None:
        headers["Authorization"] = f"Bearer {settings.service_token.get_secret_value()}"
    # Left-out members stay out: the service tells null from absent.
    body = msgspec.json.encode({k: v for k, v in _members(request).items() if v is not None})
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            document = msgspec.json.decode(await response.read(), type=dict[str, Any])
            if response.status == 200:  # noqa: PLR2004 - the one status of an answer
                return document
    except (aiohttp.ClientError, TimeoutError) as error:
        raise SarkError(f"{url}: {error or type(error).__name__}") from None
    except msgspec.DecodeError:
        raise SarkError(f"{url}: answered {response.status} without a JSON object") from None
    if response.status == 401:  # noqa: PLR2004 - likewise
        raise SarkError(f"{_problem(document)}; SARK_SERVICE_TOKEN has to be the service's")
    raise SarkError(_problem(document))


def _members(request: Request) -> dict[str, Any]:
    return msgspec.structs.asdict(request)


def _problem(document: dict[str, Any]) -> str:
    parts = [str(document.get("title", "refused"))]
    if document.get("field"):
        parts.append(str(document["field"]))
    if document.get("detail"):
        parts.append(str(document["detail"]))
    return ": ".join(parts)


def _parse_context(pairs: list[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs; a value that is JSON is taken as such, else as text."""
    context: dict[str, Any] = {}
    for pair in pairs:
        _require_text("--context", pair)
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"--context: got {pair!r}, expected key=value")
        if key in context:
            raise ConfigurationError(f"--context: {key!r} is given twice")
        try:
            context[key] = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            context[key] = value
    return context


def _require_text(name: str, argument: str) -> None:
    """Refuse bytes that the shell passed on although they are no text."""
    if not argument.isprintable() and any("\ud800" <= char <= "\udfff" for char in argument):
        raise ConfigurationError(f"{name}: got {argument!r}, expected UTF-8")
