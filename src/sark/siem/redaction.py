"""Keeping secrets that callers put into a context out of the audit trail.

A policy may need to see a one-time code or a customer's number; whoever reads the SIEM need not. So
values are replaced by the names of their fields before an event is queued, and what was replaced is
nowhere after that: not in Valkey, not in the spill store, at no receiver. The decision itself is
made with the values.

Contexts have few names and repeat them, so what the patterns say of a name is remembered: where
nothing matches, it costs one look-up per field, and the context stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import is_not
from typing import Any, Final

from sark.patterns import Patterns

__all__ = ["COMMON", "COMMON_SECRETS", "REDACTED", "Redaction"]

REDACTED: Final = "[redacted]"

COMMON: Final = "common"
COMMON_SECRETS: Final = (
    "*password",
    "*passwd",
    "*passphrase",
    "pwd",
    "*secret",
    "*secret_key",
    "*secretkey",
    "*token",
    "*authorization",
    "*cookie",
    "*cookies",
    "*api_key",
    "*apikey",
    "*private_key",
    "*privatekey",
    "*credential",
    "*credentials",
)
"""What ``common`` stands for: names under which secrets are found in practice."""

REMEMBERED_PATHS: Final = 4096
LONGEST_REMEMBERED: Final = 128
"""Characters of a path beyond which it is judged anew each time; callers choose the names."""

_CONTAINERS: Final = (dict, list)


class Redaction:
    """Replaces values in a context by the names of their fields.

    A pattern without a dot describes the name of a field at any depth. One with a dot describes the
    path from the context's root, with dots between the names; the objects in a list have the path
    of the list. ``*`` stands for any characters; case does not matter, nor whether it is ``-`` or
    ``_``. A name that has dots in it reads like a path.

    Args:
        patterns: Such as ``*password``, ``payment.card`` or ``payment.*``; ``common`` stands for
            ``COMMON_SECRETS``. Without any, nothing is replaced.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        folded = [_fold(pattern) for pattern in _spell_out(patterns)]
        self._names = Patterns(pattern for pattern in folded if "." not in pattern)
        self._paths = Patterns(pattern for pattern in folded if "." in pattern)
        self._replaces = bool(folded)
        self._is_hidden = lru_cache(REMEMBERED_PATHS)(self._judge)

    def apply(self, context: dict[str, Any]) -> dict[str, Any]:
        """Return a context without what the patterns describe.

        Args:
            context: It is not changed; the same object is returned when nothing has to be replaced.
        """
        return self._object(context, "") if self._replaces else context

    def _object(self, fields: dict[str, Any], prefix: str) -> dict[str, Any]:
        copy: dict[str, Any] | None = None
        for name, value in fields.items():
            path = prefix + name
            judge = self._is_hidden if len(path) <= LONGEST_REMEMBERED else self._judge
            if judge(path):
                new: Any = REDACTED
            elif isinstance(value, _CONTAINERS):
                new = self._inside(value, path)
            else:
                continue
            if new is not value:
                copy = dict(fields) if copy is None else copy
                copy[name] = new
        return fields if copy is None else copy

    def _inside(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return self._object(value, f"{path}.")
        if isinstance(value, list):
            items = [self._inside(item, path) for item in value]
            return items if any(map(is_not, items, value)) else value
        return value

    def _judge(self, path: str) -> bool:
        folded = _fold(path)
        return self._names.match(folded.rpartition(".")[2]) or self._paths.match(folded)


def _spell_out(patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        if pattern == COMMON:
            yield from COMMON_SECRETS
        else:
            yield pattern


def _fold(text: str) -> str:
    """Take away what names differ in without meaning another thing."""
    return text.lower().replace("-", "_")
