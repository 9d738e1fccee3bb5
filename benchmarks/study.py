"""Figures that are no times of single calls; each study has servers of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Result

__all__ = ["Advance", "Study", "row"]

Advance = Callable[[], None]
"""Called after each step."""


@dataclass(frozen=True, slots=True)
class Study:
    """One study.

    Attributes:
        title: For the report.
        steps: How often it advances.
        measure: Does it, in a directory of its own.
    """

    title: str
    steps: int
    measure: Callable[[Path, Advance], Awaitable[list[Result]]]


def row(
    case: str,
    metric: str,
    value: float,
    unit: str,
    *,
    baseline: str | None = None,
    base: float | None = None,
) -> Result:
    """Make a row; ``base`` is the baseline's figure."""
    ratio = round(value / base, 5) if base else None
    return Result(case, metric, round(value, 3), unit, baseline if base else None, ratio)
