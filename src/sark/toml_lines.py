"""Where in a TOML file a key stands. ``tomllib`` gives no lines for what it has read.

It is asked again, piece by piece: no statement of TOML can be read before its last line, and every
complete one can be read by itself. So the first lines that can be read together are a statement,
and what they hold says which keys it sets. The text has been read as a whole before, so that it is
known to be TOML.
"""

from __future__ import annotations

import tomllib
from typing import Any

__all__ = ["TomlLines"]

KeyPath = tuple[str, ...]
# One of these is on the last line of every statement that has more than one.
_CLOSING = ("]", "}", '"""', "'''")


class TomlLines:
    """Finds keys in a text.

    Args:
        text: A valid TOML document.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        # First and last line of the statement that sets a key or opens a table, from 0.
        self._spans: dict[KeyPath, tuple[int, int]] = {}
        self._scan()

    def of(self, key: KeyPath, item: int | None = None) -> int | None:
        """Return the line of a key, from 1.

        Args:
            key: The names that lead to it.
            item: Which item of the array that the key holds, from 0.

        Returns:
            The line, or the one of the table around the key when the key itself is not there; for
            an item of an array within an inline table the line of the table. None when nothing of
            it is there.
        """
        while key and key not in self._spans:
            key, item = key[:-1], None
        if not key:
            return None
        first, last = self._spans[key]
        return 1 + (first if item is None else self._line_of_item(first, last, item))

    def _scan(self) -> None:
        table: KeyPath = ()
        first = 0
        for last, line in enumerate(self._lines):
            if last > first and not any(closing in line for closing in _CLOSING):
                continue
            found = self._read(first, last)
            if found is None:
                continue
            keys = _keys(found)
            if self._lines[first].lstrip(" \t").startswith("["):
                table = max(keys, key=len)
            else:
                keys = [table + key for key in keys]
            for key in keys:
                self._spans.setdefault(key, (first, last))
            first = last + 1

    def _line_of_item(self, first: int, last: int, item: int) -> int:
        """Close the array after each of its lines, until the item is among what is read."""
        in_array = False
        for line in range(first, last):
            found: Any = self._read(first, line, "]")
            while isinstance(found, dict):
                found = next(iter(found.values()))
            if found is not None:
                in_array = True
                if len(found) > item:
                    return line
        return last if in_array else first

    def _read(self, first: int, last: int, closing: str = "") -> dict[str, Any] | None:
        try:
            return tomllib.loads("\n".join([*self._lines[first : last + 1], closing]))
        except tomllib.TOMLDecodeError:
            return None


def _keys(table: Any) -> list[KeyPath]:
    """List the keys of a table and of those in it."""
    if isinstance(table, list):
        # A header in double brackets.
        table = table[0] if table else {}
    if not isinstance(table, dict):
        return []
    keys: list[KeyPath] = []
    for name, value in table.items():
        keys.append((name,))
        keys.extend((name, *key) for key in _keys(value))
    return keys
