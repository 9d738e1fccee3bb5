"""The report on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, quantiles

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cases import Case
from benchmarks.measure import Sample, ratios
from benchmarks.results import (
    METRICS,
    RATE_METRIC,
    SLOWEST_METRIC,
    Goal,
    Result,
    measured_baselines,
)

__all__ = ["console", "goals_table", "phase_table", "study_table"]

WIDTH_OF_FILES = 132

# Below it the hundredths count.
FEW_MICROSECONDS = 20

# Below it there is no room for the spread of the ratios, and names are folded.
WIDTH_FOR_SPREAD = 110

_STYLES = {"PASS": "bold green", "FAIL": "bold red", "-": "dim"}


def console() -> Console:
    """Make the console; wide enough for the tables when it is no terminal."""
    made = Console()
    return made if made.is_terminal else Console(width=WIDTH_OF_FILES)


def phase_table(
    title: str,
    cases: Sequence[Case],
    rows: Sequence[Result],
    samples: Mapping[str, Sequence[Sample]],
    width: int,
) -> Table:
    """Lay one group of cases out, a line for each case and each of its baselines."""
    spread = width >= WIDTH_FOR_SPREAD
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("case")
    for name in ("p50 us", "p95 us", "p99 us", "calls/s", "max/p50"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    if spread:
        table.add_column("half of rounds", no_wrap=True)
    table.add_column("of")
    for case in cases:
        figures = {row.metric: row.value for row in rows if row.case == case.name}
        first = [case.name, *(_microseconds(figures[metric]) for metric in METRICS)]
        first.append(f"{figures[RATE_METRIC]:,.0f}" if RATE_METRIC in figures else "")
        first.append(f"{figures[SLOWEST_METRIC]:,.1f}" if SLOWEST_METRIC in figures else "")
        for baseline in measured_baselines(case, samples) or (None,):
            ratio, half, of = _compared(samples, case, baseline) if baseline else ("", "", "")
            table.add_row(*first, ratio, *([half] if spread else []), of)
            first = [""] * len(first)
    return table


def study_table(title: str, rows: Sequence[Result]) -> Table:
    """Lay a study's figures out, one a line."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("case", "metric"):
        table.add_column(name)
    for name in ("value", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("of")
    for row in rows:
        value = f"{row.value:,.2f}".removesuffix(".00")
        unit = "" if row.unit == "1" else f" {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        table.add_row(row.case, row.metric, value + unit, ratio, row.baseline)
    return table


def _microseconds(value: float) -> str:
    return f"{value:,.2f}" if value < FEW_MICROSECONDS else f"{value:,.0f}"


def _compared(
    samples: Mapping[str, Sequence[Sample]], case: Case, baseline: str
) -> tuple[str, str, str]:
    """Tell ratio, spread and baseline: of the median time, or of the rate of several callers."""
    metric, read = ("calls/s", _rate) if case.concurrent else ("p50", _p50)
    found = ratios(samples[case.name], samples[baseline], read)
    low, _, high = quantiles(found, n=4, method="inclusive")
    return f"{median(found):.2f}", f"{low:.2f} to {high:.2f}", f"{metric} of {baseline}"


def _p50(sample: Sample) -> float:
    return sample.latency(0.5)


def _rate(sample: Sample) -> float:
    return sample.per_second


def goals_table(goals: Sequence[Goal]) -> Table:
    """Lay the goals out."""
    table = Table(title="Goals", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("goal")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for goal in goals:
        table.add_row(goal.text, _figure(goal), f"[{_STYLES[goal.verdict]}]{goal.verdict}[/]")
    return table


def _figure(goal: Goal) -> str:
    if goal.value is None:
        return "-"
    if goal.unit == "1":
        return f"{goal.value:g}"
    return f"{goal.value:,.2f} {goal.unit}"
