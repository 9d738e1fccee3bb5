"""``sark cache``: revoke decisions, reload policies, look into the cache."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from sark.cli.arguments import (
    JsonOption,
    ServiceOption,
    parse_context,
    print_json,
    require_text,
)
from sark.cli.cache_tables import print_explanation, print_report
from sark.cli.service_client import ServiceClient, admin_of, running_admin, user_path
from sark.cli.warm import warm
from sark.errors import ConfigurationError, UnknownPolicyError
from sark.ops.cache_stats import CacheReport
from sark.parts.decisions import generations_of
from sark.policy.explain import Explanation
from sark.policy.question import check_text
from sark.settings import Settings, load
from sark.store import Store, Topology

__all__ = ["cache"]

cache = typer.Typer(
    name="cache", help="Revoke decisions, reload policies, warm, look in.", no_args_is_help=True
)
cache.command()(warm)


@cache.command()
def invalidate(
    policy: Annotated[str | None, typer.Option(help="Revoke what this policy decided.")] = None,
    user: Annotated[str | None, typer.Option(help="Revoke what is about this user.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Revoke everything.")] = False,
) -> None:
    """Revoke cached decisions and print a freshness token.

    A request that carries the token is answered by later decisions only. Asks the service that runs
    on this data directory; with VALKEY_URL it writes there itself. Exit status 1: it may not have
    happened, ask again, or a name or id is unusable; 2: the command or its settings are.
    """
    if (policy is not None) + (user is not None) + everything != 1:
        raise ConfigurationError("expected one of --policy NAME, --user ID and --all")
    settings = load()
    if policy is not None:
        require_text("--policy", policy)
        check_text("--policy", policy)
    if user is not None:
        require_text("--user", user)
        check_text("--user", user)
    typer.echo(asyncio.run(_invalidate(settings, policy, user)))


@cache.command()
def reload(service: ServiceOption = None) -> None:
    """Let the service read its policies again.

    Broken ones are refused with exit status 1, and the running ones stay. Exit status 2: no service
    was found.
    """
    client = admin_of(load(), service)
    found = asyncio.run(client.call("POST", "/v1/policies/reload"))
    text = "other policies are in force" if found["changed"] else "nothing has changed"
    typer.echo(f"{text}: revision {found['revision']}")


@cache.command()
def stats(service: ServiceOption = None, json_output: JsonOption = False) -> None:
    """Print the figures of a service's decision cache."""
    found = asyncio.run(admin_of(load(), service).call("GET", "/v1/cache/stats"))
    if json_output:
        print_json(found)
    else:
        print_report(msgspec.convert(found, CacheReport))


@cache.command()
def explain(  # noqa: PLR0917 - the parameters are the command's arguments
    user: Annotated[str, typer.Argument(help="Who would act.")],
    action: Annotated[str, typer.Argument(help="What to do, such as server:read.")],
    resource: Annotated[str, typer.Argument(help="What to do it to.")],
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="key=value for the policy; the value may be JSON."),
    ] = None,
    ip: Annotated[str | None, typer.Option(help="Address of the acting user.")] = None,
    api_key_id: Annotated[str | None, typer.Option(help="Id of the api key in use.")] = None,
    policy: Annotated[str | None, typer.Option(help="Which policy decides.")] = None,
    consistency: Annotated[
        str | None, typer.Option(help="fast, fresh or full; fresh goes with --freshness.")
    ] = None,
    freshness: Annotated[
        str | None, typer.Option(help="What an invalidation returned; several joined by commas.")
    ] = None,
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Tell where a question would be answered from, and why; nothing is decided or changed."""
    body = {"user_id": user, "action": action, "resource": resource}
    named = {**body, "ip": ip, "api_key_id": api_key_id, "policy": policy}
    named |= {"consistency": consistency, "freshness": freshness}
    for name, text in named.items():
        require_text(name, text or "")
    asked: dict[str, Any] = {**named, "context": parse_context(context or [])}
    found = asyncio.run(admin_of(load(), service).call("POST", "/v1/cache/explain", asked))
    if json_output:
        print_json(found)
    else:
        print_explanation(msgspec.convert(found, Explanation))


async def _invalidate(settings: Settings, policy: str | None, user: str | None) -> str:
    client = running_admin(settings)
    if client is not None:
        return await _ask(client, policy, user)
    topology = Topology.of(settings)
    if topology is None:
        raise ConfigurationError(
            f"no service runs on {settings.data_dir}: start one with `sark serve`, "
            "or set VALKEY_URL"
        )
    if policy is not None and policy not in settings.policies:
        # A service knows what it serves; here only the settings tell.
        known = ", ".join(settings.policies)
        reason = f"got {policy[:64]!r}, expected one of: {known} (SARK_POLICIES)"
        raise UnknownPolicyError("--policy", reason)
    async with Store(topology, settings) as store:
        generations = generations_of(settings, store)
        if policy is not None:
            return await generations.invalidate_policy(policy)
        if user is not None:
            return await generations.invalidate_user(user)
        return await generations.invalidate_all()


async def _ask(client: ServiceClient, policy: str | None, user: str | None) -> str:
    path = "/v1/cache/invalidate"
    if policy is not None:
        path = f"/v1/policies/{quote(policy, safe='')}/invalidate"
    elif user is not None:
        path = f"{user_path(user)}/invalidate"
    answer = await client.call("POST", path)
    return str(answer["freshness"])
