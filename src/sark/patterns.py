"""Texts in which ``*`` stands for any characters, matched in linear time.

What is matched comes from outside, so no text may make it slow. A pattern's ``*`` cut it into
pieces: the text must begin with the first piece and end with the last, and the pieces between have
to be found one after the other, each at the first place where it fits. Nothing is missed by that,
since what lies behind the first place includes what lies behind any later one.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Patterns"]

Pieces = tuple[str, tuple[str, ...], str]


class Patterns:
    """Texts with ``*`` for any characters. None of them is matched by nothing and by everything.

    Args:
        patterns: The texts.
    """

    __slots__ = ("_exact", "_pieces", "patterns")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._exact = frozenset(text for text in self.patterns if "*" not in text)
        self._pieces = tuple(_cut(text) for text in self.patterns if "*" in text)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def match(self, text: str) -> bool:
        """Tell whether one of the patterns matches; what is not known, an empty text, does not."""
        if not text:
            return False
        return text in self._exact or any(_fits(text, pieces) for pieces in self._pieces)


def _cut(pattern: str) -> Pieces:
    first, *between, last = pattern.split("*")
    return first, tuple(filter(None, between)), last


def _fits(text: str, pieces: Pieces) -> bool:
    first, between, last = pieces
    place, end = len(first), len(text) - len(last)
    if place > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in between:
        place = text.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True
