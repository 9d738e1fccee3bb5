"""Metrics of audit events between their queue and the SIEM, and of the circuit breakers.

Sinks and breakers are named by settings and code, so their labels are few.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sark.events import (
    AuditReplayed,
    AuditSpilled,
    BreakerChanged,
    DeadLettered,
    Forwarded,
    ForwardFailed,
    Hub,
    LeaseExpired,
    SinkPaused,
)

__all__ = ["ForwardingMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STATES = ("closed", "open", "half_open", "forced_open", "forced_closed")


class ForwardingMetrics:
    """Counts what sinks take and refuse, and what waits for them.

    Args:
        hub: Whose events are counted.
        registry: Where the metrics are registered.
    """

    def __init__(self, hub: Hub, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._count_deliveries(hub)
        self._count_losses(hub)
        self._count_spill(hub)
        self._watch_breakers(hub)

    def _count_deliveries(self, hub: Hub) -> None:
        events = self._counter("siem_forwarded_events", "Audit events that a sink took", "sink")
        size = self._counter("siem_forwarded_bytes", "Bytes of their JSON as queued", "sink")
        seconds = Histogram(
            "sark_siem_forward_seconds",
            "Sendings that a sink took, until its answer",
            ["sink"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        failures = self._counter(
            "siem_forward_failures", "Sendings that have to be repeated", "sink", "kind"
        )

        def forwarded(event: Forwarded) -> None:
            events.labels(event.sink).inc(event.events)
            size.labels(event.sink).inc(event.bytes)
            seconds.labels(event.sink).observe(event.seconds)

        hub.on(Forwarded, forwarded)
        hub.on(ForwardFailed, lambda event: failures.labels(event.sink, event.kind).inc())

    def _count_losses(self, hub: Hub) -> None:
        dead = self._counter("siem_dead_letters", "Events that became dead letters", "sink", "kind")
        expired = self._counter(
            "siem_lease_expired_events", "Events queued again after a worker was lost", "sink"
        )
        paused = self._gauge("siem_sink_paused", "Whether a sink is paused", "sink", "kind")
        hub.on(DeadLettered, lambda event: dead.labels(event.sink, event.kind).inc(event.events))
        hub.on(LeaseExpired, lambda event: expired.labels(event.sink).inc(event.events))
        hub.on(SinkPaused, lambda event: paused.labels(event.sink, event.kind).set(event.paused))

    def _count_spill(self, hub: Hub) -> None:
        spilled = self._counter(
            "siem_spilled_events", "Audit events written to the spill store", "sink", "reason"
        )
        replayed = self._counter(
            "siem_replayed_events", "Spilled audit events that reached their queue", "sink"
        )
        hub.on(
            AuditSpilled, lambda event: spilled.labels(event.sink, event.reason).inc(event.events)
        )
        hub.on(AuditReplayed, lambda event: replayed.labels(event.sink).inc(event.events))

    def _watch_breakers(self, hub: Hub) -> None:
        changes = self._counter("breaker_changes", "Changes of state", "breaker", "state")
        state = self._gauge("breaker_state", "1 for the state that it is in", "breaker", "state")
        alone = self._gauge(
            "breaker_alone", "Whether this process decides without the shared state", "breaker"
        )

        def changed(event: BreakerChanged) -> None:
            changes.labels(event.name, event.state).inc()
            for each in _STATES:
                state.labels(event.name, each).set(each == event.state)
            alone.labels(event.name).set(not event.shared)

        hub.on(BreakerChanged, changed)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"sark_{name}", help_text, labels, registry=self._registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"sark_{name}", help_text, labels, registry=self._registry)
