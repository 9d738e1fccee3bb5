"""Figures of the cache: what is counted, and what is remembered of latencies."""

from __future__ import annotations

import pytest

from sark.events import Enforced, EvaluationEnded, GenerationChanged, Hub, Looked
from sark.ops.cache_stats import CacheCounts


def test_nothing_happened_yet() -> None:
    counts = CacheCounts(Hub())
    lookups, latency = counts.lookups(), counts.latency()
    assert (lookups.total, lookups.results, lookups.hit_ratio) == (0, {}, None)
    assert (latency.count, latency.measured, latency.p50_ms, latency.max_ms) == (0, 0, None, None)
    assert counts.invalidations() == {"all": 0, "policy": 0, "user": 0}


def test_both_caches_are_hits() -> None:
    hub = Hub()
    counts = CacheCounts(hub)
    for result, times in {"hit": 3, "near": 2, "absent": 4, "stale": 1}.items():
        for _ in range(times):
            hub.emit(Looked("authz", result))  # type: ignore[arg-type]
    assert (counts.lookups().total, counts.lookups().hit_ratio) == (10, 0.5)


def test_evaluations_and_invalidations() -> None:
    hub = Hub()
    counts = CacheCounts(hub)
    hub.emit(EvaluationEnded("authz", "evaluated", 0.1))
    hub.emit(EvaluationEnded("authz", "undefined", 0.1))
    hub.emit(EvaluationEnded("authz", "failed", 0.1))
    hub.emit(GenerationChanged("user", "ann"))
    found = counts.evaluations(2)
    assert (found.count, found.undefined, found.failures, found.under_way) == (3, 1, 1, 2)
    assert counts.invalidations() == {"all": 0, "policy": 0, "user": 1}


def test_percentiles_are_of_the_latest_and_in_milliseconds() -> None:
    hub = Hub()
    counts = CacheCounts(hub)
    hub.emit(Enforced("user", 99.0))
    for number in range(1, 1025):
        hub.emit(Enforced("user", number / 1000))
    latency = counts.latency()
    assert (latency.count, latency.measured) == (1025, 1024)
    assert latency.p50_ms == pytest.approx(512, abs=1)
    assert latency.p99_ms == pytest.approx(1014, abs=1)
    assert latency.max_ms == pytest.approx(1024), "the first has been forgotten"
