"""Prometheus metrics: an adapter on the events, and gauges read at each scrape.

Labels come from small sets (roles, results, names of policies and limits); nothing that a caller
chooses, and no error text, ever becomes one.
"""

from __future__ import annotations

import asyncio

from sark.errors import StoreError
from sark.events import (
    AuditAppended,
    AuditDropped,
    AuditRefused,
    CacheWriteFailed,
    Decided,
    Enforced,
    EvaluationEnded,
    EvaluationFailed,
    EvaluatorBreakerChanged,
    EvaluatorQueued,
    FreshnessUnverifiable,
    GenerationChanged,
    Hub,
    IssuerKeysFetched,
    IssuerUnavailable,
    Looked,
    NearCacheChanged,
    PoliciesReloaded,
    PoliciesRestored,
    PolicyReloadFailed,
    RefreshRepeated,
    RefreshReused,
    ServerClockRead,
    SessionCreated,
    SessionEnded,
    SessionRefused,
    SigningKeysChanged,
    SigningKeysRefused,
    TokenRefreshed,
    Warmed,
)
from sark.ops.limiter_metrics import LimiterMetrics
from sark.ops.siem_metrics import ForwardingMetrics
from sark.ops.sinks import collect_sinks
from sark.ops.spill_metrics import SpillMetrics
from sark.policy.evaluators.opa import OpaHttp
from sark.runtime import Runtime
from sark.store import Server

__all__ = ["Metrics"]

_WAITS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics(LimiterMetrics):
    """Counts what happens, and renders it.

    Args:
        hub: Whose events are counted.
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._hub = hub
        self._count_requests(hub)
        self._count_sessions(hub)
        self._count_policies(hub)
        self._count_cache(hub)
        self._count_audit(hub)
        self._count_keys(hub)
        self._forwarding = ForwardingMetrics(hub, self.registry)
        self._spill = SpillMetrics(hub, self.registry)
        self._gauges()

    async def render(self, runtime: Runtime) -> tuple[bytes, str]:
        """Read the gauges and render everything; the body and its content type."""
        self._read_pools(runtime.store.servers)
        self._verified.labels("warm").set(runtime.tokens.hits)
        self._verified.labels("cold").set(runtime.tokens.misses)
        evaluator = runtime.gateway.decisions.evaluations.evaluator
        self._in_line.set(evaluator.waiting if isinstance(evaluator, OpaHttp) else 0)
        self._read_near(runtime)
        self._late.set(len(runtime.gateway.late))
        await self._spill.read(runtime.spill)
        await self._read_queue(runtime)
        sinks = await collect_sinks(
            runtime.forwarding, runtime.spill, budget=runtime.gateway.budget
        )
        self._forwarding.show(sinks, runtime.forwarding.breakers.values())
        self._handler_failures.set(self._hub.handler_failures)
        return self.expose()

    def _count_requests(self, hub: Hub) -> None:
        decisions = self._counter("decisions", "Answers given", "policy", "allow", "source")
        seconds = self._histogram("authorize_seconds", "Time of one authorize() call", "source")

        def decided(event: Decided) -> None:
            allow = "true" if event.allow else "false"
            decisions.labels(event.policy, allow, event.source).inc()
            seconds.labels(event.source).observe(event.seconds)

        hub.on(Decided, decided)

    def _count_sessions(self, hub: Hub) -> None:
        created = self._counter("sessions_created", "Sessions begun")
        ended = self._counter("sessions_ended", "Sessions ended before their time", "reason")
        refreshed = self._counter("tokens_refreshed", "Refresh tokens traded")
        repeated = self._counter("refresh_tokens_repeated", "Trades that were asked for again")
        refused = self._counter("sessions_refused", "Tokens and sessions not accepted", "code")
        reused = self._counter("refresh_tokens_reused", "Copied refresh tokens that were used")
        hub.on(SessionCreated, lambda _: created.inc())
        hub.on(SessionEnded, lambda event: ended.labels(event.reason).inc(event.sessions))
        hub.on(TokenRefreshed, lambda _: refreshed.inc())
        hub.on(RefreshRepeated, lambda _: repeated.inc())
        hub.on(SessionRefused, lambda event: refused.labels(event.code).inc())
        hub.on(RefreshReused, lambda _: reused.inc())
        offset = self._gauge("state_clock_offset_seconds", "The state server's clock ahead of ours")
        hub.on(ServerClockRead, lambda event: offset.set(event.offset))

    def _count_policies(self, hub: Hub) -> None:
        ended = self._histogram("evaluation_seconds", "Evaluations", "policy", "result")
        failed = self._counter("evaluation_failures", "Evaluations without decision", "policy")
        breaker = self._counter("evaluator_breaker_opened", "Times that the engine was found dead")
        queued = self._histogram(
            "evaluator_queue_seconds", "Waits before evaluations", "result", buckets=_WAITS
        )
        reloads = self._counter("policy_reloads", "Times that policies were changed", "result")

        def evaluation_ended(event: EvaluationEnded) -> None:
            ended.labels(event.policy, event.result).observe(event.seconds)

        def breaker_changed(event: EvaluatorBreakerChanged) -> None:
            if event.state == "open":
                breaker.inc()

        def evaluator_queued(event: EvaluatorQueued) -> None:
            queued.labels("served" if event.served else "busy").observe(event.seconds)

        hub.on(EvaluatorQueued, evaluator_queued)
        hub.on(EvaluationEnded, evaluation_ended)
        hub.on(EvaluationFailed, lambda event: failed.labels(event.policy).inc())
        hub.on(EvaluatorBreakerChanged, breaker_changed)
        hub.on(PoliciesReloaded, lambda _: reloads.labels("changed").inc())
        hub.on(PoliciesRestored, lambda _: reloads.labels("restored").inc())
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
            result = "failed" if event.failed else "completed"
            ended.labels("put_off" if event.reason else result).inc()

        hub.on(Warmed, warmed)

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
        dropped = self._counter("audit_events_dropped", "Audit events given up")
        hub.on(AuditDropped, lambda event: dropped.inc(event.events))

    def _count_keys(self, hub: Hub) -> None:
        changes = self._counter("signing_key_changes", "Changes of the signing keys", "result")
        # Issuers are a setting, so their number is small.
        asked = self._counter("issuer_key_fetches", "Questions for keys", "issuer", "result")
        hub.on(SigningKeysChanged, lambda _: changes.labels("changed").inc())
        hub.on(SigningKeysRefused, lambda _: changes.labels("refused").inc())
        hub.on(IssuerKeysFetched, lambda event: asked.labels(event.issuer, "ok").inc())
        hub.on(IssuerUnavailable, lambda event: asked.labels(event.issuer, "failed").inc())

    def _gauges(self) -> None:
        self._in_line = self._gauge("evaluator_queue_waiting", "Evaluations that wait their turn")
        self._up = self._gauge("store_up", "Whether the server is believed alive", "role")
        self._pool = self._gauge("store_pool_connections", "Pool by state", "role", "state")
        self._in_flight = self._gauge("store_calls_in_flight", "Calls under way", "role")
        self._waits = self._gauge("store_pool_waits", "Calls that waited for a connection", "role")
        self._wait_seconds = self._gauge("store_pool_wait_seconds", "Time spent waiting", "role")
        self._exhausted = self._gauge("store_pool_exhausted", "Calls that gave up waiting", "role")
        self._queued = self._gauge("audit_queue_events", "Events in the queue")
        self._late = self._gauge(
            "audit_events_waiting", "Events of ends that could not be recorded"
        )
        self._queued_bytes = self._gauge("audit_queue_bytes", "Bytes of the events in the queue")
        self._account = self._gauge("audit_account_events", "The queue's account", "entry")
        self._verified = self._gauge("token_verifications", "Tokens looked at", "state")
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
            self._in_flight.labels(server.role).set(stats.in_flight)
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
