"""Structures that hold tokens and don't show them."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["HidesTokens"]

_HIDDEN = "..."


class HidesTokens(msgspec.Struct, frozen=True):
    """A base for structures: fields named ``..._token`` are left out of every representation."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    # ``rich`` and its tracebacks ask for this one.
    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            (name, _HIDDEN if name.endswith("_token") and value is not None else value)
            for name, value in msgspec.structs.asdict(self).items()
        ]
