"""Patterns of names, as a kind of value."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sark.settings._kinds import Kind, show_plain

__all__ = ["COMMON", "field_patterns"]

NOTHING = "none"
COMMON = "common"

# A name, or a path of names: no empty segment, and nothing that other pattern languages mean.
_PATTERN = re.compile(r"[^\s,.?\[\]{}\\]+(\.[^\s,.?\[\]{}\\]+)*")


def field_patterns() -> Kind:
    """A comma separated list of patterns of field names, as ``Redaction`` takes them.

    The word ``none`` alone stands for no pattern.
    """

    def parse(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            items = tuple(item.strip() for item in value.split(","))
        elif isinstance(value, Iterable):
            items = tuple(map(str, value))
        else:
            raise ValueError("not a list")  # noqa: TRY004 - pydantic takes ValueError alone
        if len(items) == 1 and items[0].lower() == NOTHING:
            return ()
        if NOTHING in items or not all(map(_PATTERN.fullmatch, items)):
            raise ValueError("not a list of patterns")
        return items

    return Kind(
        "list",
        "comma separated names of fields, or paths such as payment.card, in which * may stand for "
        "any characters, and common for a list of them; or none",
        parse,
        show=lambda items: show_plain(items) or NOTHING,
    )
