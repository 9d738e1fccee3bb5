"""From samples to rows: the form of ``results.json``, and the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.cases import GET, GET_LEAN, Case
from benchmarks.measure import Sample, percentile, ratios

__all__ = ["Goal", "Result", "goals", "measured_baselines", "reduce", "write"]

METRICS = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
LATENCY_UNIT = "us"
RATE_METRIC, RATE_UNIT = "requests_per_second", "1/s"

CACHED_TO_GET = 1.5
GET_P95_US = 1000.0
SET_P95_US = 2000.0


class Result(msgspec.Struct, frozen=True):
    """One figure of one case, compared with one baseline.

    Attributes:
        case: What was measured.
        metric: ``p50``, ``p95``, ``p99`` (over all calls of all rounds) or
            ``requests_per_second`` (the median round).
        value: The figure.
        unit: ``us`` or ``1/s``.
        baseline: The case that it is compared with, if any.
        ratio: Median over the rounds of this case's figure divided by the baseline's.
    """

    case: str
    metric: str
    value: float
    unit: str
    baseline: str | None
    ratio: float | None


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be at most.

    Attributes:
        text: The goal.
        value: The figure; None when it was not measured.
        limit: The most it may be.
        unit: Of both.
    """

    text: str
    value: float | None
    limit: float
    unit: str

    @property
    def verdict(self) -> str:
        """``PASS``, ``FAIL`` or ``-``."""
        if self.value is None:
            return "-"
        return "PASS" if self.value <= self.limit else "FAIL"


def reduce(cases: Sequence[Case], samples: Mapping[str, Sequence[Sample]]) -> list[Result]:
    """Turn the samples into rows: each metric of each case, once per baseline.

    Args:
        cases: All cases.
        samples: By the case's name, one per round. A baseline that was not measured is left out.
    """
    rows: list[Result] = []
    for case in cases:
        ours = samples[case.name]
        for baseline in measured_baselines(case, samples) or (None,):
            theirs = samples[baseline] if baseline else None
            rows += _latencies(case.name, ours, baseline, theirs)
            if case.concurrent:
                rows.append(_rate(case.name, ours, baseline, theirs))
    return rows


def measured_baselines(case: Case, samples: Mapping[str, Sequence[Sample]]) -> tuple[str, ...]:
    """Name the baselines of a case that were measured."""
    return tuple(name for name in case.baselines if name in samples)


def _latencies(
    name: str, ours: Sequence[Sample], baseline: str | None, theirs: Sequence[Sample] | None
) -> list[Result]:
    calls = [latency for sample in ours for latency in sample.latencies]
    rows = []
    for metric, share in METRICS.items():
        value = percentile(calls, share) / 1000
        ratio = _paired(ours, theirs, share) if theirs else None
        rows.append(Result(name, metric, round(value, 1), LATENCY_UNIT, baseline, ratio))
    return rows


def _paired(ours: Sequence[Sample], theirs: Sequence[Sample], share: float) -> float:
    return round(median(ratios(ours, theirs, lambda sample: sample.latency(share))), 3)


def _rate(
    name: str, ours: Sequence[Sample], baseline: str | None, theirs: Sequence[Sample] | None
) -> Result:
    value = median(sample.per_second for sample in ours)
    paired = ratios(ours, theirs, lambda sample: sample.per_second) if theirs else None
    ratio = round(median(paired), 3) if paired else None
    return Result(name, RATE_METRIC, round(value, 1), RATE_UNIT, baseline, ratio)


def goals(rows: Sequence[Result]) -> list[Goal]:
    """Compare the figures with what they should be."""
    cached = "cached decision"
    ratio = f"p50 at most {CACHED_TO_GET} times that of"
    get, set_ = f"p95 below {GET_P95_US / 1000:g} ms", f"p95 below {SET_P95_US / 1000:g} ms"
    return [
        Goal(f"{cached}: {ratio} {GET}", _ratio(rows, cached, GET), CACHED_TO_GET, "x"),
        Goal(f"{cached}: {ratio} {GET_LEAN}", _ratio(rows, cached, GET_LEAN), CACHED_TO_GET, "x"),
        Goal(f"{GET}: {get}", _p95(rows, GET), GET_P95_US, LATENCY_UNIT),
        Goal(f"{cached}: {get}", _p95(rows, cached), GET_P95_US, LATENCY_UNIT),
        Goal(f"driver SET: {set_}", _p95(rows, "driver SET"), SET_P95_US, LATENCY_UNIT),
        Goal(f"stored decision: {set_}", _p95(rows, "stored decision"), SET_P95_US, LATENCY_UNIT),
    ]


def _ratio(rows: Sequence[Result], case: str, baseline: str) -> float | None:
    found = (r for r in rows if (r.case, r.metric, r.baseline) == (case, "p50", baseline))
    return next((row.ratio for row in found), None)


def _p95(rows: Sequence[Result], case: str) -> float | None:
    return next((r.value for r in rows if (r.case, r.metric) == (case, "p95")), None)


def write(rows: Sequence[Result], path: Path) -> None:
    """Write the rows as a JSON list, readable for people and in diffs."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
