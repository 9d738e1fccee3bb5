"""``sark limits``: the rules of rate limits, who is near one, show and reset."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from sark.cli.arguments import require_text
from sark.cli.service_client import admin_of
from sark.errors import InvalidRequestError
from sark.ratelimit import LimitState
from sark.ratelimit.limit import KINDS
from sark.ratelimit.report import LimitsReport, NearLimit
from sark.settings import load

__all__ = ["limits"]

PIPED_WIDTH = 160
LISTED = {
    "allow": "on the allow-list: none of these applies",
    "deny": "on the deny-list: refused at once, whatever these say",
}

limits = typer.Typer(
    name="limits", help="Rate limits: rules, who is near one, show, reset.", no_args_is_help=True
)

ServiceOption = Annotated[
    str | None,
    typer.Option("--service", help="Address of the service; else the one that runs here."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Whose limits.")]
KindOption = Annotated[str, typer.Option("--kind", help="user, ip or apikey.")]


@limits.command("list")
def list_rules(service: ServiceOption = None, json_output: JsonOption = False) -> None:
    """Print the rules in force."""
    found = _ask("GET", "/v1/limits", service)
    if json_output:
        _print_json(found)
        return
    report = msgspec.convert(found, LimitsReport)
    table = _table("rule", "kind", "limits", "action", "path", "tier", "mode")
    for rule in report.rules:
        counted = map(" ".join, zip(rule.limits, rule.algorithms, strict=True))
        mode = ("shadow" if rule.shadow else "") + (" continue" if rule.goes_on else "")
        mode += " never applies" if rule.name in report.unreachable else ""
        table.add_row(
            rule.name,
            ", ".join(rule.kinds),
            ", ".join(counted) or "none",
            *(", ".join(texts) for texts in (rule.actions, rule.paths, rule.tiers)),
            mode.strip(),
        )
    table.add_row("(default)", ", ".join(KINDS), report.default or "none", "", "", "", "")
    _console().print(table, markup=False)
    for pattern, cost in report.costs.items():
        typer.echo(f"{pattern} costs {cost}")
    listed = f"allow-list: {report.allowed}, deny-list: {report.denied}"
    typer.echo(f"{listed}; revision {report.revision}")


@limits.command()
def top(
    most: Annotated[int, typer.Option("--most", min=1, max=100, help="Longest list.")] = 20,
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print who is nearest to a limit; only who has used more than half of one is known."""
    found = _ask("GET", f"/v1/limits/top?most={most}", service)
    if json_output:
        _print_json(found)
        return
    near = msgspec.convert(found["limits"], list[NearLimit])
    if not near:
        typer.echo("nobody has used more than half of a limit")
        return
    table = _table("kind", "id", "used", "limit", "remaining", "of", "reset")
    for each in near:
        table.add_row(each.kind, each.id, f"{each.used:.0%}", *_cells(each.state))
    _console().print(table, markup=False)


@limits.command()
def show(
    identity: IdArgument,
    kind: KindOption = "user",
    service: ServiceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print every limit that may apply to an identity; nothing is charged."""
    found = _ask("POST", "/v1/limits/show", service, _subject(identity, kind))
    if json_output:
        _print_json(found)
        return
    table = _table("limit", "remaining", "of", "reset")
    for state in msgspec.convert(found["limits"], list[LimitState]):
        table.add_row(*_cells(state))
    _console().print(table, markup=False)
    if found.get("listed"):
        typer.echo(LISTED[found["listed"]])


@limits.command()
def reset(identity: IdArgument, kind: KindOption = "user", service: ServiceOption = None) -> None:
    """Forget what an identity has used."""
    found = _ask("POST", "/v1/limits/reset", service, _subject(identity, kind))
    typer.echo(f"{found['reset']} limits were in use and begin again")


@limits.command()
def reload(service: ServiceOption = None) -> None:
    """Let the service read its limits file again.

    A broken one is refused with exit status 1, and the running rules stay.
    """
    found = _ask("POST", "/v1/limits/reload", service)
    text = "other rules are in force" if found["changed"] else "nothing has changed"
    typer.echo(f"{text}: revision {found['revision']}")


def _ask(method: str, path: str, service: str | None, body: dict[str, Any] | None = None) -> Any:
    return asyncio.run(admin_of(load(), service).call(method, path, body))


def _subject(identity: str, kind: str) -> dict[str, Any]:
    require_text("ID", identity)
    if kind not in KINDS:
        raise InvalidRequestError("--kind", f"got {kind!r}, expected one of: {', '.join(KINDS)}")
    return {"id": identity, "kind": kind}


def _cells(state: LimitState) -> tuple[str, str, str, str]:
    shown = f"{state.limit:,} in {state.window} s"
    shown += f", burst {state.burst:,}" if state.burst else ""
    name = f"{state.policy} (shadow)" if state.shadow else state.policy
    return name, f"{state.remaining:,}", shown, f"{state.reset} s"


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
