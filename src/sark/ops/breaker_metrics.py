"""Prometheus metrics of circuit breakers: what each one knows, read at each scrape.

That they change, and to what, is counted where it happens; see ``BreakerChanged``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sark.breaker import Breaker

__all__ = ["BreakerCollector"]


class BreakerCollector(Collector):
    """Tells of the breakers of one process. Register it once in a registry.

    Args:
        breakers: Gives those that are running; they are named by code and settings, so their
            names are fit for labels.
    """

    def __init__(self, breakers: Callable[[], Iterable[Breaker]]) -> None:
        self._breakers = breakers

    def collect(self) -> Iterable[Metric]:
        """Read all of them; to be called on their event loop."""
        seconds = CounterMetricFamily(
            "sark_breaker_seconds",
            "Time in each state, of all processes together",
            labels=["breaker", "state"],
        )
        opened = CounterMetricFamily(
            "sark_breaker_opened", "Times that it opened, likewise", labels=["breaker"]
        )
        failures = GaugeMetricFamily(
            "sark_breaker_failures", "Consecutive failures", labels=["breaker"]
        )
        probes = GaugeMetricFamily("sark_breaker_probes", "Probes under way", labels=["breaker"])
        retry = GaugeMetricFamily(
            "sark_breaker_retry_seconds", "Until a call may be admitted", labels=["breaker"]
        )
        for breaker in self._breakers():
            seen = breaker.snapshot()
            for state, spent in seen.seconds.items():
                seconds.add_metric([seen.name, state], spent)
            opened.add_metric([seen.name], seen.opened)
            failures.add_metric([seen.name], seen.failures)
            probes.add_metric([seen.name], seen.probes)
            retry.add_metric([seen.name], seen.retry_after)
        return [seconds, opened, failures, probes, retry]
