"""Arguments that several commands read alike."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from sark.errors import ConfigurationError

__all__ = ["JsonOption", "ServiceOption", "parse_context", "print_json", "require_text"]

ServiceOption = Annotated[
    str | None,
    typer.Option("--service", help="Address of the service; else the one that runs here."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parse_context(pairs: list[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs; a value that is JSON is taken as such, else as text."""
    context: dict[str, Any] = {}
    for pair in pairs:
        require_text("--context", pair)
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


def require_text(name: str, argument: str) -> None:
    """Refuse bytes that the shell passed on although they are no text."""
    if not argument.isprintable() and any("\ud800" <= char <= "\udfff" for char in argument):
        raise ConfigurationError(f"{name}: got {argument!r}, expected UTF-8")


def print_json(document: Any) -> None:
    """Print an answer for programs."""
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
