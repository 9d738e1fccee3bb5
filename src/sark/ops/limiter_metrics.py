"""Prometheus metrics of what a limiter does, for a program that has nothing else of ours.

``Metrics`` of a whole service has the same ones and many more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sark.events import (
    GuardChanged,
    Hub,
    LimitFallback,
    LimitRefused,
    LimitShadowed,
    LimitsReloaded,
    LimitsReloadFailed,
    RoundTrip,
    ScriptLoaded,
)

__all__ = ["LimiterMetrics"]

MAX_POLICIES = 200
"""Names of limits that are told apart."""

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class LimiterMetrics:
    """Counts refusals, fallbacks, reloads, and calls to Valkey.

    Args:
        hub: Whose events are counted.
        registry: Where the metrics are registered; left out, a registry of their own.

    Attributes:
        registry: That registry.
    """

    def __init__(self, hub: Hub, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._count_limits(hub)
        self._count_store(hub)

    def expose(self) -> tuple[bytes, str]:
        """Render all of the registry; the body and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"sark_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"sark_{name}", help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, *labels: str, buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(f"sark_{name}", help_text, labels, buckets=buckets, registry=self.registry)

    def _count_limits(self, hub: Hub) -> None:
        policy = _bounded()
        refused = self._counter(
            "ratelimit_refused", "Requests refused by a limit", "kind", "policy"
        )
        shadow = self._counter(
            "ratelimit_shadow_refused", "Requests that a limit would refuse", "policy"
        )
        fallback = self._counter("ratelimit_fallback", "Checks decided without Valkey", "mode")
        reloads = self._counter("ratelimit_reloads", "Times that rules were changed", "result")
        hub.on(LimitRefused, lambda event: refused.labels(event.kind, policy(event.policy)).inc())
        hub.on(LimitShadowed, lambda event: shadow.labels(policy(event.policy)).inc())
        hub.on(LimitFallback, lambda event: fallback.labels(event.mode).inc())
        hub.on(LimitsReloaded, lambda _: reloads.labels("changed").inc())
        hub.on(LimitsReloadFailed, lambda _: reloads.labels("failed").inc())

    def _count_store(self, hub: Hub) -> None:
        seconds = self._histogram("store_call_seconds", "Exchanges with Valkey", "role", "result")
        commands = self._counter("store_commands", "Commands sent to Valkey", "role")
        scripts = self._counter("store_scripts_loaded", "Scripts sent after NOSCRIPT", "role")
        opened = self._counter("store_guard_opened", "Servers found dead", "role")

        def round_trip(event: RoundTrip) -> None:
            seconds.labels(event.role, event.result).observe(event.seconds)
            commands.labels(event.role).inc(event.commands)

        def guard_changed(event: GuardChanged) -> None:
            if event.is_open:
                opened.labels(event.role).inc()

        hub.on(RoundTrip, round_trip)
        hub.on(ScriptLoaded, lambda event: scripts.labels(event.role).inc())
        hub.on(GuardChanged, guard_changed)


def _bounded() -> Callable[[str], str]:
    """Make what lets so many values of a label through as they are, and calls later ones other."""
    known: set[str] = set()

    def value(text: str) -> str:
        if text in known or len(known) < MAX_POLICIES:
            known.add(text)
            return text
        return "other"

    return value
