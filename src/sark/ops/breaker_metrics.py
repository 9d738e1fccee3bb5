"""Prometheus metrics of circuit breakers: what each one knows, read at each scrape.

Their changes are counted by ``ForwardingMetrics``, from ``BreakerChanged``. The state is not taken
from there, because a breaker that has never changed would have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sark.breaker import Breaker
from sark.breaker.snapshot import Mode

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
        state = GaugeMetricFamily(
            "sark_breaker_state", "1 for the state that it is in", labels=["breaker", "state"]
        )
        alone = GaugeMetricFamily(
            "sark_breaker_alone",
            "Whether this process decides without the shared state",
            labels=["breaker"],
        )
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
            for mode in get_args(Mode):
                state.add_metric([seen.name, mode], mode == seen.state)
            alone.add_metric([seen.name], not seen.shared)
            for mode, spent in seen.seconds.items():
                seconds.add_metric([seen.name, mode], spent)
            opened.add_metric([seen.name], seen.opened)
            failures.add_metric([seen.name], seen.failures)
            probes.add_metric([seen.name], seen.probes)
            retry.add_metric([seen.name], seen.retry_after)
        return [state, alone, seconds, opened, failures, probes, retry]
