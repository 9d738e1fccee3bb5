"""Figures of the decision cache: an adapter on events, and one report of everything.

Counters are of this process, since its start. What Valkey holds is estimated from a bounded sample.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from sark.events import Enforced, EvaluationEnded, GenerationChanged, Hub, Looked
from sark.ops.decision_keys import StoredDecisions, sample_decisions
from sark.policy.near_feed import NearFeed
from sark.runtime import Runtime

__all__ = ["CacheCounts", "CacheReport", "Latency", "NearReport", "collect_cache_report"]

REMEMBERED_LATENCIES = 1024
HITS = ("hit", "near")
MILLISECONDS = 1000


class Latency(msgspec.Struct, frozen=True):
    """From an invalidation to its effect in this process.

    Attributes:
        count: How many were measured since the start.
        measured: How many of them, the latest, the figures below are of.
        p50_ms: Milliseconds that half of them took at most.
        p99_ms: Milliseconds that 99 in 100 took at most.
        max_ms: The longest.
    """

    count: int
    measured: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Lookups(msgspec.Struct, frozen=True):
    """Look-ups of decisions.

    Attributes:
        total: All of them.
        results: By where the answer came from, or why it came from no cache.
        hit_ratio: Answered from either cache, of all; None before the first.
    """

    total: int
    results: dict[str, int]
    hit_ratio: float | None


class EvaluationCounts(msgspec.Struct, frozen=True):
    """Evaluations by the policy engine.

    Attributes:
        count: How many ended.
        undefined: Of these, without a decision.
        failures: Of these, failed.
        under_way: How many run now.
    """

    count: int
    undefined: int
    failures: int
    under_way: int


class NearReport(msgspec.Struct, frozen=True):
    """The near cache.

    Attributes:
        serving: Whether it is within its bound.
        failure: Why not; empty while it is.
        reconnects: How often the connection of its feed failed.
        lag_ms: Milliseconds since everything had been heard; None without a connection.
        entries: Decisions held.
        bytes: Their size, estimated.
        hits: Look-ups answered.
        misses: Look-ups not answered.
        stale: Of these, entries found invalid or expired.
        emptied: How often everything was dropped.
    """

    serving: bool
    failure: str
    reconnects: int
    lag_ms: float | None
    entries: int
    bytes: int
    hits: int
    misses: int
    stale: int
    emptied: int


class CacheReport(msgspec.Struct, frozen=True):
    """Everything about the decision cache.

    Attributes:
        revision: Of the policies in force.
        lookups: Of this process.
        near: The near cache; None when it is off.
        evaluations: Of this process.
        invalidations: Written by this process, by scope.
        enforced: Revoke-to-enforced latency of this process, as its near cache sees it.
        stored: What Valkey holds; None when it does not answer.
    """

    revision: str
    lookups: Lookups
    near: NearReport | None
    evaluations: EvaluationCounts
    invalidations: dict[str, int]
    enforced: Latency
    stored: StoredDecisions | None


class CacheCounts:
    """Counts what happens around the cache.

    Args:
        hub: Whose events are counted.
    """

    def __init__(self, hub: Hub) -> None:
        self._looked: Counter[str] = Counter()
        self._evaluated: Counter[str] = Counter()
        self._invalidated: Counter[str] = Counter()
        self._enforced = 0
        self._latencies: deque[float] = deque(maxlen=REMEMBERED_LATENCIES)
        hub.on(Looked, self._on_looked)
        hub.on(EvaluationEnded, self._on_evaluated)
        hub.on(GenerationChanged, self._on_invalidated)
        hub.on(Enforced, self._on_enforced)

    def _on_looked(self, event: Looked) -> None:
        self._looked[event.result] += 1

    def _on_evaluated(self, event: EvaluationEnded) -> None:
        self._evaluated[event.result] += 1

    def _on_invalidated(self, event: GenerationChanged) -> None:
        self._invalidated[event.scope] += 1

    def _on_enforced(self, event: Enforced) -> None:
        self._enforced += 1
        self._latencies.append(event.seconds * MILLISECONDS)

    def lookups(self, near_alone: int = 0) -> Lookups:
        """Sum up the look-ups.

        Args:
            near_alone: Those that the near cache answered alone, of which there are no events.
        """
        looked = self._looked + Counter({"near": near_alone})
        total = looked.total()
        hits = sum(looked[result] for result in HITS)
        return Lookups(total, dict(looked), hits / total if total else None)

    def evaluations(self, under_way: int) -> EvaluationCounts:
        """Sum up the evaluations."""
        counts = self._evaluated
        return EvaluationCounts(counts.total(), counts["undefined"], counts["failed"], under_way)

    def invalidations(self) -> dict[str, int]:
        """Count the invalidations by scope."""
        return {scope: self._invalidated[scope] for scope in ("all", "policy", "user")}

    def latency(self) -> Latency:
        """Sum up how soon invalidations took effect."""
        times = sorted(self._latencies)
        if not times:
            return Latency(self._enforced, 0, None, None, None)
        p50, p99 = (times[min(len(times) - 1, len(times) * p // 100)] for p in (50, 99))
        return Latency(self._enforced, len(times), p50, p99, times[-1])


async def collect_cache_report(runtime: Runtime, counts: CacheCounts) -> CacheReport:
    """Ask all parts."""
    decisions = runtime.gateway.decisions
    return CacheReport(
        revision=decisions.revision,
        lookups=counts.lookups(0 if decisions.near is None else decisions.near.served),
        near=None if decisions.near is None else _near(decisions.near),
        evaluations=counts.evaluations(decisions.evaluations.under_way),
        invalidations=counts.invalidations(),
        enforced=counts.latency(),
        stored=await sample_decisions(runtime.store.cache),
    )


def _near(feed: NearFeed) -> NearReport:
    stats, lag = feed.cache.stats(), feed.lag
    return NearReport(
        serving=feed.serving,
        failure=feed.failure,
        reconnects=feed.reconnects,
        lag_ms=None if lag == float("inf") else max(0.0, lag * MILLISECONDS),
        entries=stats.entries,
        bytes=stats.bytes,
        hits=stats.hits,
        misses=stats.misses,
        stale=stats.stale,
        emptied=stats.emptied,
    )
