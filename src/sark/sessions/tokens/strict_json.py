"""JSON read strictly: one object, UTF-8, no member twice, nothing that JSON doesn't have.

Parsers differ in what they make of ``{"sub": "a", "sub": "b"}``, and an attacker needs two that
differ (RFC 8725 section 2.4). The standard library's takes the last, and NaN and UTF-16 besides.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["strict_object"]


def strict_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: It is something else; the message never quotes it.
    """
    try:
        value = _DECODER.decode(data.decode())
    except (ValueError, RecursionError):
        # Numbers of thousands of digits are a ValueError too.
        raise ValueError("not strict JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the one error of this function
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands in it twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
