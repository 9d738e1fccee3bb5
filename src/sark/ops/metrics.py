"""Prometheus metrics: an adapter on the events, and gauges read at each scrape.

Labels come from small fixed sets (roles, results, policy names); nothing that a caller chooses,
and no error text, ever becomes one.
"""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sark.errors import StoreError
from sark.events import (
    AuditAppended,
    AuditRefused,
    CacheWriteFailed,
    Decided,
    Enforced,
    EvaluationEnded,
    EvaluationFailed,
    EvaluatorBreakerChanged,
    FreshnessUnverifiable,
    GenerationChanged,
    GuardChanged,
    Hub,
    LimitRefused,
    Looked,
    NearCacheChanged,
    PoliciesReloaded,
    PolicyReloadFailed,
    RoundTrip,
    ScriptLoaded,
    Warmed,
)
from sark.runtime import Runtime
from sark.store import Server

__all__ = ["Metrics"]

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """Counts what happens, and renders it.

    Args:
        hub: Whose events are counted.
    """

    def __init__(self, hub: Hub) -> None:
        self.registry = CollectorRegistry()
        self._hub = hub
        self._count_requests(hub)
        self._count_policies(hub)
        self._count_cache(hub)
        self._count_store(hub)
        self._count_audit(hub)
        self._gauges()

    async def render(self, runtime: Runtime) -> tuple[bytes, str]:
        """Read the gauges and render everything; the body and its content type."""
        self._read_pools(runtime.store.servers)
        self._read_near(runtime)
        await self._read_queue(runtime)
        self._handler_failures.set(self._hub.handler_failures)
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"sark_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"sark_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, *labels: str) -> Histogram:
        return Histogram(
            f"sark_{name}", help_text, labels, buckets=_SECONDS, registry=self.registry
        )

    def _count_requests(self, hub: Hub) -> None:
        decisions = self._counter("decisions", "Answers given", "policy", "allow", "source")
        seconds = self._histogram("authorize_seconds", "Time of one authorize() call", "source")
        refused = self._counter("ratelimit_refused", "Requests refused by a limit", "kind")

        def decided(event: Decided) -> None:
            allow = "true" if event.allow else "false"
            decisions.labels(event.policy, allow, event.source).inc()
            seconds.labels(event.source).observe(event.seconds)

        hub.on(Decided, decided)
        hub.on(LimitRefused, lambda event: refused.labels(event.kind).inc())

    def _count_policies(self, hub: Hub) -> None:
        ended = self._histogram("evaluation_seconds", "Evaluations", "policy", "result")
        failed = self._counter("evaluation_failures", "Evaluations without decision", "policy")
        breaker = self._counter("evaluator_breaker_opened", "Times that the engine was found dead")
        reloads = self._counter("policy_reloads", "Times that policies were changed", "result")

        def evaluation_ended(event: EvaluationEnded) -> None:
            ended.labels(event.policy, event.result).observe(event.seconds)

        def breaker_changed(event: EvaluatorBreakerChanged) -> None:
            if event.state == "open":
                breaker.inc()

        hub.on(EvaluationEnded, evaluation_ended)
        hub.on(EvaluationFailed, lambda event: failed.labels(event.policy).inc())
        hub.on(EvaluatorBreakerChanged, breaker_changed)
        hub.on(PoliciesReloaded, lambda _: reloads.labels("changed").inc())
        hub.on(PolicyReloadFailed, lambda _: reloads.labels("failed").inc())

    def _count_cache(self, hub: Hub) -> None:
        lookups = self._counter("cache_lookups", "Look-ups of decisions", "policy", "result")
        writes = self._counter("cache_write_failures", "Decisions that could not be stored")
        invalidations = self._counter("cache_invalidations", "Invalidations written", "scope")
        hub.on(Looked, lambda event: lookups.labels(event.policy, event.result).inc())
        hub.on(CacheWriteFailed, lambda _: writes.inc())
        unverifiable = self._counter(
            "freshness_unverifiable", "Freshness tokens that were not signed with our key"
        )
        hub.on(FreshnessUnverifiable, lambda _: unverifiable.inc())
        enforced = self._histogram(
            "invalidation_enforced_seconds",
            "From an invalidation to its effect on the near cache of this process",
            "scope",
        )
        aside = self._counter("near_cache_interruptions", "Times that the near cache stepped aside")
        hub.on(Enforced, lambda event: enforced.labels(event.scope).observe(event.seconds))
        hub.on(NearCacheChanged, lambda event: None if event.serving else aside.inc())
        hub.on(GenerationChanged, lambda event: invalidations.labels(event.scope).inc())
        self._count_warming(hub)

    def _count_warming(self, hub: Hub) -> None:
        questions = self._counter("warmed_questions", "Questions of the warm-up", "result")
        seconds = self._counter("warming_seconds", "Time spent warming up")
        ended = self._counter("warm_ups", "Warm-ups that ended", "result")

        def warmed(event: Warmed) -> None:
            for result in ("cached", "evaluated", "stored", "failed", "skipped"):
                questions.labels(result).inc(getattr(event, result))
            seconds.inc(event.seconds)
            ended.labels("given_up" if event.reason else "completed").inc()

        hub.on(Warmed, warmed)

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

    def _count_audit(self, hub: Hub) -> None:
        events = self._counter("audit_events_accepted", "Audit events accepted by Valkey")
        size = self._counter("audit_bytes_accepted", "Bytes of audit events accepted")
        groups = self._counter("audit_groups", "Commands that carried audit events")
        refused = self._counter("audit_events_refused", "Audit events not accepted", "reason")

        def appended(event: AuditAppended) -> None:
            events.inc(event.events)
            size.inc(event.bytes)
            groups.inc()

        hub.on(AuditAppended, appended)
        hub.on(AuditRefused, lambda event: refused.labels(event.reason).inc(event.events))

    def _gauges(self) -> None:
        self._up = self._gauge("store_up", "Whether the server is believed alive", "role")
        self._pool = self._gauge("store_pool_connections", "Pool by state", "role", "state")
        self._waits = self._gauge("store_pool_waits", "Calls that waited for a connection", "role")
        self._wait_seconds = self._gauge("store_pool_wait_seconds", "Time spent waiting", "role")
        self._exhausted = self._gauge("store_pool_exhausted", "Calls that gave up waiting", "role")
        self._queued = self._gauge("audit_queue_events", "Events in the queue")
        self._queued_bytes = self._gauge("audit_queue_bytes", "Bytes of the events in the queue")
        self._account = self._gauge("audit_account_events", "The queue's account", "entry")
        self._handler_failures = self._gauge("observer_failures", "Event handlers that raised")
        self._near_alone = self._gauge(
            "near_cache_decides", "Decisions by the near cache alone, which are no look-ups"
        )
        self._near_serving = self._gauge("near_cache_serving", "Whether the near cache serves")
        self._near_reconnects = self._gauge(
            "near_cache_reconnects", "Times that the connection of the near cache's feed failed"
        )

    def _read_near(self, runtime: Runtime) -> None:
        near = runtime.gateway.decisions.near
        if near is not None:
            self._near_alone.set(near.served)
            self._near_serving.set(near.serving)
            self._near_reconnects.set(near.reconnects)

    def _read_pools(self, servers: tuple[Server, ...]) -> None:
        for server in servers:
            stats = server.pool_stats()
            self._up.labels(server.role).set(not server.guard.is_open)
            states = {
                "size": stats.size,
                "in_use": stats.in_use,
                "idle": stats.idle,
                "waiting": stats.waiters,
            }
            for state, count in states.items():
                self._pool.labels(server.role, state).set(count)
            self._waits.labels(server.role).set(stats.waits)
            self._wait_seconds.labels(server.role).set(stats.wait_seconds)
            self._exhausted.labels(server.role).set(stats.exhausted)

    async def _read_queue(self, runtime: Runtime) -> None:
        deadline = asyncio.get_running_loop().time() + runtime.settings.request_budget_ms / 1000
        try:
            status = await runtime.gateway.queue.status(deadline=deadline)
        except StoreError:
            # Better no figure than an old one: sark_store_up tells why it is missing.
            for gauge in (self._queued, self._queued_bytes):
                gauge.set(float("nan"))
            self._account.clear()
            return
        self._queued.set(status.queued)
        self._queued_bytes.set(status.queued_bytes)
        for entry in ("accepted", "purged"):
            self._account.labels(entry).set(getattr(status, entry))
