"""From samples to rows: the form of ``results.json``, and the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.cases import (
    AIOCACHE,
    AUTHORIZE_HIT,
    AUTHORIZE_TOKEN,
    CALLERS,
    CASHEWS,
    CASHEWS_NEAR,
    CASHEWS_NEAR_KEY,
    GET,
    GET_LEAN,
    MGET,
    MGET_LEAN,
    NEAR_HIT,
    PIPELINE,
    PIPELINE_LEAN,
    SESSION_CHECK,
    VALKEY_HIT,
    Case,
)
from benchmarks.measure import Sample, percentile, ratios

__all__ = [
    "BREAKER_CLOSED",
    "BREAKER_HALF_OPEN",
    "FORWARD_REAL",
    "FORWARD_STAND_IN",
    "SLOWEST_METRIC",
    "TRIPS_METRIC",
    "Goal",
    "Result",
    "goals",
    "measured_baselines",
    "reduce",
    "write",
]

FORWARD_REAL = "forwarding to a Splunk collector (Tenzir)"
FORWARD_STAND_IN = "forwarding to a stand-in of one"
METRICS = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
LATENCY_UNIT = "us"
RATE_METRIC, RATE_UNIT = "requests_per_second", "1/s"
SLOWEST_METRIC = "slowest_to_median"
BREAKER_CLOSED, BREAKER_HALF_OPEN = "guarded call, closed", "admission of a probe, half-open"
TRIPS_METRIC = "round_trips"

CACHED_TO_GET = 1.5
MGET_RATIO = 1.3
MGET_RATE_RATIO = 0.85
SLOWEST_TO_MEDIAN = 5.0
NEAR_P50_US, NEAR_P95_US = 2.5, 5.0
NEAR_RATE_RATIO = 4.0
CHECK_RATIO = 1.3
COMPACT_BYTES = 350.0
SESSION_CHECK_RATIO, TOKEN_RATIO = 1.3, 1.15
SESSION_BYTES = 800.0
ENFORCED_P50_MS, ENFORCED_P99_MS, ENFORCED_BOUND_MS = 2.0, 50.0, 250.0
GUARDED_US = 5.0
GET_P95_US = 1000.0
SET_P95_US = 2000.0
LEASED_PER_SECOND = 100_000.0
FORWARDED_PER_SECOND = 20_000.0


class Result(msgspec.Struct, frozen=True):
    """One figure of one case, compared with one baseline.

    Attributes:
        case: What was measured.
        metric: ``p50``, ``p95``, ``p99`` (over all calls of all rounds),
            ``requests_per_second`` or ``slowest_to_median`` (the median round); a study's own.
        value: The figure.
        unit: ``us``, ``1/s``, ``x``; of a study also ``ms``, ``bytes`` and ``1``.
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
    """What a figure should be at most, or at least.

    Attributes:
        text: The goal.
        value: The figure; None when it was not measured.
        limit: The most it may be.
        unit: Of both.
        at_least: The limit is the least that it may be.
    """

    text: str
    value: float | None
    limit: float
    unit: str
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """``PASS``, ``FAIL`` or ``-``."""
        if self.value is None:
            return "-"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "PASS" if met else "FAIL"


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
        if case.name.endswith(f"{CALLERS} callers"):
            rows.append(_slowest(case.name, ours))
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
        rows.append(Result(name, metric, round(value, 2), LATENCY_UNIT, baseline, ratio))
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


def _slowest(name: str, ours: Sequence[Sample]) -> Result:
    """Compare the longest wait of a round with its median."""
    value = median(sample.latency(1.0) / sample.latency(0.5) for sample in ours)
    return Result(name, SLOWEST_METRIC, round(value, 2), "x", None, None)


def goals(rows: Sequence[Result]) -> list[Goal]:
    """Compare the figures with what they should be."""
    return [
        *_driver_goals(rows),
        *_valkey_hit_goals(rows),
        *_near_hit_goals(rows),
        *_session_goals(rows),
        *_study_goals(rows),
        *_limit_goals(rows),
        *_audit_goals(rows),
        *_forwarding_goals(rows),
        *_breaker_goals(rows),
    ]


def _driver_goals(rows: Sequence[Result]) -> list[Goal]:
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


def _valkey_hit_goals(rows: Sequence[Result]) -> list[Goal]:
    many = f", {CALLERS} callers"
    alone, together = VALKEY_HIT, VALKEY_HIT + many
    most = f"p50 at most {MGET_RATIO} times that of"
    least = f"calls/s at least {MGET_RATE_RATIO} times those of"
    found = [
        Goal(f"{alone}: {most} {name}", _ratio(rows, alone, name), MGET_RATIO, "x")
        for name in (MGET, MGET_LEAN)
    ]
    found += [
        Goal(
            f"{together}: {least} {name}",
            _ratio(rows, together, name + many, RATE_METRIC),
            MGET_RATE_RATIO,
            "x",
            at_least=True,
        )
        for name in (MGET, MGET_LEAN)
    ]
    slowest = f"slowest call of a round at most {SLOWEST_TO_MEDIAN:g} times the median"
    figure = _value(rows, together, SLOWEST_METRIC)
    found.append(Goal(f"{together}: {slowest}", figure, SLOWEST_TO_MEDIAN, "x"))
    for peer in (AIOCACHE, CASHEWS):
        found += [
            Goal(f"{alone}: p50 below that of {peer}", _ratio(rows, alone, peer), 1.0, "x"),
            Goal(
                f"{together}: more calls/s than {peer}",
                _ratio(rows, together, peer + many, RATE_METRIC),
                1.0,
                "x",
                at_least=True,
            ),
        ]
    return found


def _near_hit_goals(rows: Sequence[Result]) -> list[Goal]:
    return [
        Goal(
            f"{NEAR_HIT}: p50 at most {NEAR_P50_US:g} us",
            _value(rows, NEAR_HIT, "p50"),
            NEAR_P50_US,
            LATENCY_UNIT,
        ),
        Goal(
            f"{NEAR_HIT}: p95 at most {NEAR_P95_US:g} us", _p95(rows, NEAR_HIT), NEAR_P95_US, "us"
        ),
        *(
            Goal(
                f"{NEAR_HIT}: calls/s at least {NEAR_RATE_RATIO:g} times those of {name}",
                _ratio(rows, NEAR_HIT, name, RATE_METRIC),
                NEAR_RATE_RATIO,
                "x",
                at_least=True,
            )
            for name in (CASHEWS_NEAR_KEY, CASHEWS_NEAR)
        ),
    ]


def _session_goals(rows: Sequence[Result]) -> list[Goal]:
    check = f"{SESSION_CHECK}: p50 at most {SESSION_CHECK_RATIO} times that of"
    token = f"{AUTHORIZE_TOKEN}: p50 at most {TOKEN_RATIO} times that of {AUTHORIZE_HIT}"
    return [
        *(
            Goal(f"{check} {name}", _ratio(rows, SESSION_CHECK, name), SESSION_CHECK_RATIO, "x")
            for name in (PIPELINE, PIPELINE_LEAN)
        ),
        Goal(token, _ratio(rows, AUTHORIZE_TOKEN, AUTHORIZE_HIT), TOKEN_RATIO, "x"),
        Goal(
            f"session: at most {SESSION_BYTES:g} bytes",
            _value(rows, "session", "bytes"),
            SESSION_BYTES,
            "bytes",
        ),
    ]


def _study_goals(rows: Sequence[Result]) -> list[Goal]:
    enforced = "revoked to enforced, 4 processes"
    limits = {"p50": ENFORCED_P50_MS, "p99": ENFORCED_P99_MS, "max": ENFORCED_BOUND_MS}
    compact = "200-byte decision, compact key"
    sweep = next((r for r in rows if r.case.startswith("user's invalidation")), None)
    stampede = next((r for r in rows if r.case.startswith("stampede")), None)
    return [
        Goal(
            f"{compact}: at most {COMPACT_BYTES:g} bytes",
            _value(rows, compact, "bytes"),
            COMPACT_BYTES,
            "bytes",
        ),
        *(
            Goal(
                f"{enforced}: {metric} at most {most:g} ms",
                _value(rows, enforced, metric),
                most,
                "ms",
            )
            for metric, most in limits.items()
        ),
        Goal("user's invalidation: 1 round trip", sweep.value if sweep else None, 1, "1"),
        Goal("stampede: 1 evaluation", stampede.value if stampede else None, 1, "1"),
    ]


def _limit_goals(rows: Sequence[Result]) -> list[Goal]:
    check, many = "check of three limits", f", {CALLERS} callers"
    found = [
        Goal(
            f"{check}: p50 at most {CHECK_RATIO} times that of {name}",
            _ratio(rows, check, name),
            CHECK_RATIO,
            "x",
        )
        for name in ("driver EVALSHA", "driver EVALSHA, lean")
    ]
    return found + [
        Goal(
            f"{name}{many}: calls/s at least {least:g} times those of {peer}",
            _ratio(rows, name + many, peer + many, RATE_METRIC),
            least,
            "x",
            at_least=True,
        )
        for name, peer, least in (
            (check, "limits", 2.5),
            (check, "throttled-py", 4.0),
            (check, "pyrate-limiter", 4.0),
            (f"{check}, sliding", "limits, sliding", 2.5),
            (f"{check}, gcra", "throttled-py, gcra", 4.0),
            (f"{check}, gcra", "pyrate-limiter", 4.0),
        )
    ]


def _breaker_goals(rows: Sequence[Result]) -> list[Goal]:
    closed, half_open = BREAKER_CLOSED, BREAKER_HALF_OPEN
    most = f"{closed}: p50 at most {GUARDED_US:g} us"
    return [
        Goal(most, _value(rows, closed, "p50"), GUARDED_US, LATENCY_UNIT),
        Goal(f"{closed}: no round trip", _value(rows, closed, TRIPS_METRIC), 0, "1"),
        Goal(f"{half_open}: 1 round trip", _value(rows, half_open, TRIPS_METRIC), 1, "1"),
    ]


def _audit_goals(rows: Sequence[Result]) -> list[Goal]:
    push = "driver RPUSH"
    rates = [
        Goal(
            f"append{many}: calls/s at least {least} times those of {push}",
            _ratio(rows, f"append{many}", f"{push}{many}", RATE_METRIC),
            least,
            "x",
            at_least=True,
        )
        for many, least in ((", 50 callers", 3.5), (", 500 callers", 5.5))
    ]
    waits = [
        Goal(
            f"append{many}: p95 at most {most} times that of {push}",
            _ratio(rows, f"append{many}", f"{push}{many}", "p95"),
            most,
            "x",
        )
        for many, most in (("", 1.25), (", 50 callers", 0.5))
    ]
    lease = "lease of 1000, acknowledged"
    leased = _value(rows, lease, "events_per_second")
    least = LEASED_PER_SECOND
    return [
        *rates,
        *waits,
        Goal(f"{lease}: at least {least:,.0f} events/s", leased, least, "1/s", at_least=True),
    ]


def _forwarding_goals(rows: Sequence[Result]) -> list[Goal]:
    least = FORWARDED_PER_SECOND
    return [
        Goal(
            f"{case}: at least {least:,.0f} events/s of 1 KB",
            _value(rows, f"{case}, sark", "events_per_second"),
            least,
            "1/s",
            at_least=True,
        )
        for case in (FORWARD_REAL, FORWARD_STAND_IN)
    ]


def _ratio(rows: Sequence[Result], case: str, baseline: str, metric: str = "p50") -> float | None:
    found = (r for r in rows if (r.case, r.metric, r.baseline) == (case, metric, baseline))
    return next((row.ratio for row in found), None)


def _value(rows: Sequence[Result], case: str, metric: str) -> float | None:
    return next((r.value for r in rows if (r.case, r.metric) == (case, metric)), None)


def _p95(rows: Sequence[Result], case: str) -> float | None:
    return _value(rows, case, "p95")


def write(rows: Sequence[Result], path: Path) -> None:
    """Write the rows as a JSON list, readable for people and in diffs."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
