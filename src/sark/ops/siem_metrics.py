"""Metrics of audit events between their queue and the SIEM, and of the circuit breakers.

Sinks and breakers are named by settings and code, so their labels are few.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sark.breaker import Breaker
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
from sark.ops.breaker_metrics import BreakerCollector
from sark.ops.sinks import Sinks
from sark.siem import SinkStatus
from sark.siem.rates import Rates

__all__ = ["ForwardingMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ACCOUNT = {
    "accepted": "accepted",
    "duplicates": "duplicates",
    "delivered": "delivered",
    "dead_lettered": "failed",
    "queued": "queued",
    "in_flight": "in_flight",
    "dropped": "dropped",
    "purged": "purged",
}


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
        self._count_breakers(hub)
        self._accounts = _Accounts(registry)
        self._breakers: Iterable[Breaker] = ()
        registry.register(BreakerCollector(lambda: self._breakers))

    def show(self, found: Sinks, breakers: Iterable[Breaker]) -> None:
        """Take over the accounts of all sinks.

        Args:
            found: The sinks.
            breakers: Their circuit breakers that run here, which each scrape reads.
        """
        self._accounts.show(found)
        self._breakers = breakers

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

    def _count_breakers(self, hub: Hub) -> None:
        changes = self._counter("breaker_changes", "Changes of state", "breaker", "state")
        hub.on(BreakerChanged, lambda event: changes.labels(event.name, event.state).inc())

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"sark_{name}", help_text, labels, registry=self._registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"sark_{name}", help_text, labels, registry=self._registry)


class _Accounts:
    """Gauges of what is where, read at each scrape; better none than an old one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(f"sark_siem_{name}", help_text, ["sink", *labels], registry=registry)

        self._events = gauge("account_events", "A queue's account in events", "entry")
        self._bytes = gauge("account_bytes", "A queue's account in bytes", "entry")
        self._oldest = gauge("oldest_seconds", "Age of the oldest event not yet delivered")
        self._leases = gauge("leases", "Workers that hold events")
        self._drain = gauge("drain_events_per_second", "Events delivered or dead-lettered")
        self._full = gauge("full_in_seconds", "Until the queue is full, if it goes on so")

    def show(self, found: Sinks) -> None:
        accounts = self._events, self._bytes, self._oldest, self._leases, self._drain, self._full
        for each in accounts:
            each.clear()
        for report in found.sinks:
            if report.account is not None:
                self._show_account(report.account)
            if report.rates is not None:
                self._show_rates(report.sink, report.rates)

    def _show_account(self, account: SinkStatus) -> None:
        for entry, line in _ACCOUNT.items():
            booked = getattr(account, line)
            self._events.labels(account.sink, entry).set(booked.events)
            self._bytes.labels(account.sink, entry).set(booked.bytes)
        self._oldest.labels(account.sink).set(account.oldest_seconds or 0)
        self._leases.labels(account.sink).set(account.leases)

    def _show_rates(self, sink: str, rates: Rates) -> None:
        self._drain.labels(sink).set(rates.drain)
        if rates.seconds_to_full is not None:
            self._full.labels(sink).set(rates.seconds_to_full)
