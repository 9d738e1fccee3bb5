"""A TOML file that people write, and errors that say where in it something is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sark.errors import ConfigurationError
from sark.toml_lines import KeyPath, TomlLines

__all__ = ["MAX_FILE_BYTES", "TomlFile", "show", "spell", "where"]

MAX_FILE_BYTES = 262_144
LONGEST_SHOWN = 80
"""Characters of a refused value that are repeated to the user."""

_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class TomlFile:
    """A file that was read. Its methods check values and refuse with the place.

    Args:
        path: Where it is.

    Attributes:
        path: Likewise.
        content: What is in it.
        document: The same as data.

    Raises:
        ConfigurationError: It cannot be read, or is no TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = _read(path)
        text = _decode(path, self.content)
        self.document = _parse(path, text)
        self._lines = TomlLines(text)

    def line(self, key: KeyPath, item: int | None = None) -> int | None:
        """Return the line of a key, or of an item of its array."""
        return self._lines.of(key, item)

    def refuse(self, key: KeyPath, came: str, expected: str, item: int | None = None) -> NoReturn:
        """Say what is wrong with the value of a key, or with an item of its array.

        Raises:
            ConfigurationError: Always.
        """
        index = "" if item is None else f"[{item}]"
        raise ConfigurationError(
            f"{where(self.path, self.line(key, item))}: {spell(key)}{index}: got {came}, "
            f"expected {expected}"
        )

    def refuse_unknown(self, key: KeyPath, table: dict[str, Any], known: Sequence[str]) -> None:
        """Refuse names that nobody reads: a typo must not leave a default in force."""
        for name, value in table.items():
            if name not in known:
                what = "table" if isinstance(value, dict) else "key"
                self.refuse((*key, name), f"an unknown {what}", f"one of: {', '.join(known)}")

    def table(self, key: KeyPath, value: object) -> dict[str, Any]:
        """Return the value of a key that has to be a table."""
        if not isinstance(value, dict):
            self.refuse(key, show(value), "a table")
        return value

    def array(self, key: KeyPath, value: object, expected: str) -> list[Any]:
        """Return the value of a key that has to be an array."""
        if not isinstance(value, list):
            self.refuse(key, show(value), expected)
        return value

    def flag(self, key: KeyPath, value: object) -> bool:
        """Return the value of a key that has to be true or false."""
        if not isinstance(value, bool):
            self.refuse(key, show(value), "true or false")
        return value


def where(path: Path, line: int | None = None) -> str:
    """Name a place for people; without the line where it is not known."""
    shown = str(path) if str(path).isprintable() else ascii(str(path))
    return shown if line is None else f"{shown}:{line}"


def spell(key: KeyPath) -> str:
    """Write a key as TOML does."""
    return ".".join(name if _BARE_KEY.fullmatch(name) else show(name) for name in key)


def show(value: object) -> str:
    """Write a value on one line that is fit for a terminal."""
    if isinstance(value, bool):
        return str(value).lower()
    shown = "a table" if isinstance(value, dict) else repr(value)
    shown = shown if shown.isprintable() else ascii(value)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{where(path)}: got {error.strerror!r}, expected a readable file"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(
            f"{where(path)}: got a larger file, expected at most {MAX_FILE_BYTES} bytes"
        )
    return content


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{where(path, line)}: got the byte 0x{content[error.start]:02x}, expected UTF-8"
        ) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    line: int | None = None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        came = str(error)
        place = _PLACE.search(came)
        if place:
            came = came[: place.start()]
            came += f" at column {place['column']}" if place["column"] else " at the end"
            line = int(place["line"] or text.count("\n") + 1)
    except RecursionError:
        came = "values nested too deeply"
    came = came if came.isprintable() else ascii(came)
    raise ConfigurationError(f"{where(path, line)}: got no TOML ({came}), expected TOML")
