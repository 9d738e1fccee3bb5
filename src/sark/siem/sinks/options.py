"""The kinds of values that options of a sink's address take, as in ``?ack=true&index=audit``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Option", "choice", "file", "flag", "text", "whole"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        expected: What is accepted, completing the sentence "expected ...".
        read: Turns the text into a value; raises ``ValueError`` for what is not accepted.
        default: The value of an option that is not given.
    """

    expected: str
    read: Callable[[str], Any]
    default: Any = None


def flag(*, default: bool = False) -> Option:
    """``true`` or ``false``."""
    return Option("true or false", _words({"true": True, "false": False}), default)


def choice(*words: str, default: str | None = None) -> Option:
    """One of a few words."""
    return Option(f"one of {', '.join(words)}", _words({word: word for word in words}), default)


def text(expected: str, pattern: str, *, default: str | None = None) -> Option:
    """Text that matches a pattern as a whole."""
    compiled = re.compile(pattern)

    def read(given: str) -> str:
        if not compiled.fullmatch(given):
            raise ValueError("does not match")
        return given

    return Option(expected, read, default)


def whole(low: int, high: int, *, default: int | None = None) -> Option:
    """A whole number between two bounds, both included."""
    digits = re.compile("[0-9]{1,19}")

    def read(given: str) -> int:
        if not digits.fullmatch(given) or not low <= int(given) <= high:
            raise ValueError("not in range")
        return int(given)

    return Option(f"a whole number from {low} to {high}", read, default)


def file() -> Option:
    """The path of a file, absolute or relative to the working directory."""
    return Option("a path", Path)


def _words(words: dict[str, Any]) -> Callable[[str], Any]:
    def read(given: str) -> Any:
        if given not in words:
            raise ValueError("another word")
        return words[given]

    return read
