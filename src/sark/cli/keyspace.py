"""``sark keyspace``: the table of all keys."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sark.keyspace import TABLE

__all__ = ["keyspace"]

PIPED_WIDTH = 160


def keyspace(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print every key that SARK writes: type, TTL, role, owner."""
    if json_output:
        rows = [asdict(row) | {"evictable": row.evictable} for row in TABLE]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(title="Keys that SARK writes")
    for heading in ("key", "type", "TTL", "server", "evictable", "owner"):
        table.add_column(heading, no_wrap=heading == "key")
    table.add_column("value", overflow="fold")
    for row in TABLE:
        evictable = "yes" if row.evictable else "no"
        table.add_row(row.pattern, row.type, row.ttl, row.role, evictable, row.owner, row.value)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    console.print(table, markup=False)
