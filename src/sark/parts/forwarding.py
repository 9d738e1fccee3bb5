"""The forwarders of audit events, opened from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sark.breaker import Breaker
from sark.errors import SinkError
from sark.events import BreakerChanged
from sark.parts.breakers import sink_breaker
from sark.settings import Settings
from sark.siem import QueueBounds, SinkQueue
from sark.siem.formats import format_of
from sark.siem.forwarder import Batching, Forwarder, encoder_of
from sark.siem.readings import Readings
from sark.siem.sinks.base import Sink
from sark.siem.sinks.kind import SinkPlan
from sark.siem.sinks.registry import make_sink
from sark.store import Store

__all__ = ["Forwarding", "open_forwarding", "sink_queues"]


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The sinks of one process.

    Attributes:
        plans: Every sink as it is configured, by name.
        queues: Its events.
        breakers: Its circuit breaker, where this process forwards.
        forwarders: What forwards its events, where this process does.
        readings: The last reading of each account.
    """

    plans: Mapping[str, SinkPlan]
    queues: Mapping[str, SinkQueue]
    breakers: Mapping[str, Breaker]
    forwarders: Mapping[str, Forwarder]
    readings: Readings


def sink_queues(settings: Settings, store: Store) -> dict[str, SinkQueue]:
    """Make the workers' view of every sink's queue."""
    bounds = _bounds(settings)
    return {
        sink.name: SinkQueue(
            store,
            sink.name,
            bounds,
            lease=settings.siem_lease,
            most_expiries=settings.siem_lease_expiries,
        )
        for sink in settings.sinks
    }


@contextlib.asynccontextmanager
async def open_forwarding(
    settings: Settings, store: Store, plans: Sequence[SinkPlan], *, forward: bool
) -> AsyncIterator[Forwarding]:
    """Open the queues and, where this process forwards, a forwarder for each sink.

    Args:
        settings: How to forward.
        store: Where the queues are.
        plans: The sinks, from ``plan_sinks``.
        forward: Whether to forward. Forwarders finish or give back what is under way at the end.

    Raises:
        ConfigurationError: A sink's options contradict each other.
        SinkError: A sink cannot work, for instance a file that cannot be written.
    """
    queues = sink_queues(settings, store)
    breakers: dict[str, Breaker] = {}
    forwarders: dict[str, Forwarder] = {}
    async with contextlib.AsyncExitStack() as stack:
        for plan in plans if forward else ():
            name = plan.address.name
            sink = make_sink(plan)
            breaker = breakers[name] = sink_breaker(
                settings,
                store,
                name,
                on_change=partial(_try_again, forwarders, name),
                longest=sink.limits.seconds,
            )
            stack.push_async_callback(sink.close)
            await _open(sink, name)
            await stack.enter_async_context(breaker.running())
            forwarders[name] = Forwarder(
                name,
                queues[name],
                sink=sink,
                encode=encoder_of(format_of(plan.format)),
                guard=breaker,
                hub=store.hub,
                batching=_batching(settings),
            )
        async with _all_running([*forwarders.values()]):
            named = {plan.address.name: plan for plan in plans}
            readings = Readings(_bounds(settings))
            yield Forwarding(named, queues, breakers, forwarders, readings)


def _try_again(forwarders: Mapping[str, Forwarder], name: str, event: BreakerChanged) -> None:
    """Don't wait any longer when a breaker admits calls again, by a probe or by hand."""
    if event.state in {"closed", "forced_closed"} and name in forwarders:
        forwarders[name].retry()


async def _open(sink: Sink, name: str) -> None:
    try:
        await sink.open()
    except SinkError as error:
        raise SinkError(f"SARK_SIEM_SINKS: the sink {name}: {error}") from None


@contextlib.asynccontextmanager
async def _all_running(forwarders: Sequence[Forwarder]) -> AsyncIterator[None]:
    """Run all; at the end they stop together, so that the slowest one sets the time."""
    async with contextlib.AsyncExitStack() as stack:
        for forwarder in forwarders:
            await stack.enter_async_context(forwarder.running())
        try:
            yield
        finally:
            for forwarder in forwarders:
                forwarder.stop()


def _bounds(settings: Settings) -> QueueBounds:
    return QueueBounds(settings.siem_max_events, settings.siem_max_bytes)


def _batching(settings: Settings) -> Batching:
    return Batching(
        events=settings.siem_batch_events,
        bytes=settings.siem_batch_bytes,
        age=settings.siem_batch_age_ms / 1000,
        concurrency=settings.siem_concurrency,
        retry_cap=settings.siem_retry_cap,
        lease=settings.siem_lease,
    )
