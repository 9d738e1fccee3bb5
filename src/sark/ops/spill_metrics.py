"""Metrics of the spill store: what waits there, and whether its disk works."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge

from sark.errors import AuditError
from sark.events import Hub, SpillChanged, SpillFileSetAside
from sark.siem.spill import Spill

__all__ = ["SpillMetrics"]

ENTRIES = ("spilled", "replayed", "dropped", "forgotten")


class SpillMetrics:
    """Counts trouble, and reads the account at each scrape.

    Args:
        hub: Whose events are counted.
        registry: Where the metrics are registered.
    """

    def __init__(self, hub: Hub, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._events = self._gauge("spill_events", "Audit events that wait on disk", "sink")
        self._bytes = self._gauge("spill_bytes", "Bytes of their JSON", "sink")
        self._oldest = self._gauge("spill_oldest_seconds", "Age of the oldest of them", "sink")
        self._account = self._gauge(
            "spill_account_events", "The account of the spill files at hand", "sink", "entry"
        )
        self._most = self._gauge("spill_max_bytes", "Bytes of events that may wait on disk")
        failing = self._gauge("spill_failing", "Whether the disk refused the last call")
        aside = Counter(
            "sark_spill_files_set_aside", "Spill files that could not be read", registry=registry
        )
        hub.on(SpillChanged, lambda event: failing.set(not event.working))
        hub.on(SpillFileSetAside, lambda _: aside.inc())

    async def read(self, spill: Spill | None) -> None:
        """Read the gauges; without a spill store, and of a disk that fails, there are none."""
        for gauge in (self._events, self._bytes, self._oldest, self._account):
            gauge.clear()
        if spill is None:
            return
        self._most.set(spill.max_bytes)
        try:
            status = await spill.status()
        except AuditError:
            # Better no figure than an old one: sark_spill_failing tells why it is missing.
            return
        for sink, each in status.items():
            self._events.labels(sink).set(each.waiting)
            self._bytes.labels(sink).set(each.waiting_bytes)
            age = 0.0 if each.oldest is None else max(0.0, time.time() - each.oldest)
            self._oldest.labels(sink).set(age)
            for entry in ENTRIES:
                self._account.labels(sink, entry).set(getattr(each, entry))

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"sark_{name}", help_text, labels, registry=self._registry)
