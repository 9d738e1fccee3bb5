"""``sark keys``: the keys that sign access tokens, and their rotation."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from sark.errors import ConfigurationError
from sark.parts.keys import key_directory, key_retention
from sark.sessions.refresh_keys import RefreshKeyFile, RefreshKeySet
from sark.sessions.tokens import KeyFile, KeySet
from sark.settings import Settings, load

__all__ = ["keys"]

PIPED_WIDTH = 160
NONE = "-"

keys = typer.Typer(name="keys", help="The keys that sign access tokens.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@keys.command()
def generate(json_output: JsonOption = False) -> None:
    """Make the signing keys of an empty key folder, or another next key.

    A next key is published at once and signs after the next rotation; another one takes the
    place of one that waits, for instance because SARK_TOKEN_ALGORITHM has changed.
    """
    settings, file = _open()
    algorithm, now = settings.token_algorithm, int(time.time())
    if file.exists:
        changed = file.change(lambda known: known.with_next(algorithm, now))
    else:
        changed = file.read_or_create(algorithm, now)
    _print(changed, settings, as_json=json_output)


@keys.command()
def rotate(
    now: Annotated[
        bool,
        typer.Option("--now", help="Although whoever caches the keys may not have the next one."),
    ] = False,
    compromised: Annotated[
        bool,
        typer.Option(
            "--compromised", help="Drop every key: all access and refresh tokens are refused."
        ),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Let the next key sign, retire the one that signs, and publish a new next one.

    The keys of refresh tokens rotate with them; retired, they count for a session's longest life.
    Running services notice by themselves. The retired key still verifies until its last token has
    expired. Refused within ten minutes of the last rotation, unless told otherwise.
    """
    settings, file = _open()
    if not file.exists:
        raise ConfigurationError(f"{file.path}: there are no keys; see `sark keys generate`")
    algorithm, moment = settings.token_algorithm, int(time.time())

    def decide(known: KeySet) -> KeySet:
        if compromised:
            return KeySet.first(algorithm, moment)
        return known.rotated(algorithm, moment, key_retention(settings), hurry=now)

    changed = file.change(decide)
    # Second, so that a refused rotation changes nothing.
    RefreshKeyFile(key_directory(settings)).change(
        lambda known: RefreshKeySet.new() if compromised else known.rotated(moment)
    )
    _print(changed, settings, as_json=json_output)


@keys.command(name="list")
def list_keys(json_output: JsonOption = False) -> None:
    """Print the signing keys, without what is secret in them: kid, algorithm, state, dates."""
    settings, file = _open()
    if not file.exists:
        raise ConfigurationError(f"{file.path}: there are no keys; see `sark keys generate`")
    _print(file.read(), settings, as_json=json_output)


def _open() -> tuple[Settings, KeyFile]:
    settings = load()
    return settings, KeyFile(key_directory(settings))


def _print(known: KeySet, settings: Settings, *, as_json: bool) -> None:
    rows = _rows(known, key_retention(settings))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    table = Table(title="Signing keys (times in UTC)")
    for heading in ("kid", "algorithm", "state", "created", "signs since", "retired", "gone after"):
        table.add_column(heading, no_wrap=heading == "kid", overflow="fold")
    for row in rows:
        table.add_row(row["kid"], row["algorithm"], row["state"], *_cells(row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    console.print(table, markup=False)


def _rows(known: KeySet, retention: int) -> list[dict[str, Any]]:
    return [
        {
            "kid": record.key.kid,
            "algorithm": record.key.algorithm,
            "state": record.state,
            "created": _date(record.created_at),
            "active_since": _date(record.activated_at),
            "retired": _date(record.retired_at),
            "gone_after": _date(record.retired_at and record.retired_at + retention),
        }
        for record in known.current(time.time(), retention).records
    ]


def _date(moment: int | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cells(row: dict[str, Any]) -> list[str]:
    dates = (row[name] for name in ("created", "active_since", "retired", "gone_after"))
    return [NONE if date is None else date.replace("T", " ").rstrip("Z") for date in dates]
