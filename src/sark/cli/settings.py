"""``sark settings``: every setting, its value in force and where that came from."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sark.settings import SettingRow, describe, load

_WIDTH_OF_FILES = 160
"""Columns when the output isn't a terminal, where rich would assume 80."""

_GAPS = 4 * 2
"""Columns between the five columns of the table."""

_NARROWEST = 80
"""Columns below which names would be broken; a narrower terminal wraps the lines itself."""


def settings(
    json_output: Annotated[
        bool, typer.Option("--json", help="Print a JSON list instead of a table.")
    ] = False,
) -> None:
    """Print every setting with its type, unit, default, current value and where it came from."""
    rows = describe(load())
    if json_output:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return
    console = Console()
    width = max(console.width, _NARROWEST) if console.is_terminal else _WIDTH_OF_FILES
    console = Console(width=width)
    console.print(table(rows, console.width))


def table(rows: list[SettingRow], width: int) -> Table:
    """Lay the rows out: values and descriptions fold, names of variables stay whole."""
    laid_out = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, columns in _widths(rows, width).items():
        laid_out.add_column(title, width=columns, overflow="fold")
    for row in rows:
        # ``Text`` throughout: in a plain string, rich would read ``[::1]`` as markup.
        laid_out.add_row(
            Text.assemble((row.variable, "bold"), "\n", (row.description.replace("`", ""), "dim")),
            Text(_or_unset(row.current), style="" if row.source == "default" else "cyan"),
            Text(row.source),
            Text(_or_unset(row.default)),
            Text(f"{row.type}\n{row.unit}" if row.unit else row.type),
        )
    return laid_out


def _widths(rows: list[SettingRow], width: int) -> dict[str, int]:
    """Share the width out; left to itself, rich cuts the last columns when a value is long."""
    name = max(len(row.variable) for row in rows)
    source = max(len(row.source) for row in rows)
    word = max(len(word) for row in rows for word in (row.type, *(row.unit or "").split()))
    spare = width - name - source - word - _GAPS
    current = min(max(len(_or_unset(row.current)) for row in rows), spare // 2)
    default = min(max(len(_or_unset(row.default)) for row in rows), spare // 2)
    return {
        "Setting": name + spare - current - default,
        "Current": current,
        "From": source,
        "Default": default,
        "Type, unit": word,
    }


def _or_unset(value: str | None) -> str:
    return "unset" if value is None else value
