"""Circuit breakers, made from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sark.breaker import Breaker, BreakerConfig
from sark.breaker.control import BreakerControl
from sark.events import BreakerChanged
from sark.keyspace import MAIN_SINK
from sark.settings import Settings
from sark.store import Store

__all__ = ["breaker_control", "sink_breaker", "sink_breaker_config", "sink_breaker_name"]

LEASE_TO_TIMEOUT = 3
"""A probe's lease outlasts the longest wait for a receiver so many times."""


def sink_breaker_name(sink: str) -> str:
    """Name the breaker of a sink; ``main`` owns the guide's name."""
    return "siem" if sink == MAIN_SINK else f"siem.{sink}"


def sink_breaker_config(settings: Settings) -> BreakerConfig:
    """Tell the rules of the sinks' breakers."""
    return BreakerConfig(
        failures=settings.siem_breaker_failures,
        failure_rate=settings.siem_breaker_rate,
        minimum_calls=settings.siem_breaker_minimum,
        window_seconds=settings.siem_breaker_window,
        open_seconds=settings.siem_breaker_open,
        open_cap=settings.siem_breaker_open_cap,
        probes=settings.siem_breaker_probes,
        probe_lease=settings.siem_timeout * LEASE_TO_TIMEOUT,
    )


def sink_breaker(
    settings: Settings,
    store: Store,
    sink: str,
    *,
    on_change: Callable[[BreakerChanged], None] | None = None,
    longest: float = 0.0,
) -> Breaker:
    """Make the breaker of one sink; run it with ``running()``.

    Args:
        settings: Its rules.
        store: Where its state is.
        sink: Which sink.
        on_change: Told of its changes.
        longest: Longest that sending one batch may take, in seconds, where that is more than one
            exchange: the result of a probe that outlived its lease would count for nothing.
    """
    config = sink_breaker_config(settings)
    lease = max(config.probe_lease, longest + settings.siem_timeout)
    config = replace(config, probe_lease=lease)
    return Breaker(store, sink_breaker_name(sink), config, on_change=on_change)


def breaker_control(settings: Settings, store: Store) -> BreakerControl:
    """Make what operators see of the breakers: those of the sinks, and others in use."""
    config = sink_breaker_config(settings)
    sinks = [MAIN_SINK] if settings.siem_sinks is None else [s.name for s in settings.siem_sinks]
    return BreakerControl(
        store,
        {sink_breaker_name(sink): config for sink in sinks},
        budget=settings.request_budget_ms / 1000,
    )
