"""Prometheus metrics: an adapter on the events, and gauges read at each scrape.

Labels come from small fixed sets (roles, results, policy names); nothing that a caller chooses,
and no error text, ever becomes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
    EvaluatorQueued,
    GenerationChanged,
    GuardChanged,
    Hub,
    IssuerKeysFetched,
    IssuerUnavailable,
    LimitFallback,
    LimitRefused,
    LimitShadowed,
    LimitsReloaded,
    LimitsReloadFailed,
    Looked,
    NearCacheChanged,
    PoliciesReloaded,
    PoliciesRestored,
    PolicyReloadFailed,
    RefreshRepeated,
    RefreshReused,
    RoundTrip,
    ScriptLoaded,
    ServerClockRead,
    SessionCreated,
    SessionEnded,
    SessionRefused,
    SigningKeysChanged,
    SigningKeysRefused,
    TokenRefreshed,
    Warmed,
)
from sark.policy.evaluators.opa import OpaHttp
from sark.runtime import Runtime
from sark.store import Server

__all__ = ["Metrics"]

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_WAITS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts what happens, and renders it.

    Args:
        hub: Whose events are counted.
    """

    def __init__(self, hub: Hub) -> None:
        self.registry = CollectorRegistry()
        self._hub = hub
        self._count_requests(hub)
        self._count_sessions(hub)
        self._count_policies(hub)
        self._count_cache(hub)
        self._count_store(hub)
        self._count_audit(hub)
        self._count_keys(hub)
        self._gauges()

    async def render(self, runtime: Runtime) -> tuple[bytes, str]:
        """Read the gauges and render everything; the body and its content type."""
        self._read_pools(runtime.store.servers)
        self._verified.labels("warm").set(runtime.tokens.hits)
        self._verified.labels("cold").set(runtime.tokens.misses)
        evaluator = runtime.gateway.decisions.evaluations.evaluator
        self._in_line.set(evaluator.waiting if isinstance(evaluator, OpaHttp) else 0)
        await self._read_queue(runtime)
        self._handler_failures.set(self._hub.handler_failures)
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"sark_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"sark_{name}", help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, *labels: str, buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(f"sark_{name}", help_text, labels, buckets=buckets, registry=self.registry)

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
        self._count_limits(hub)

    def _count_limits(self, hub: Hub) -> None:
        shadow = self._counter(
            "ratelimit_shadow_refused", "Requests that a limit would refuse", "policy"
        )
        fallback = self._counter("ratelimit_fallback", "Checks decided without Valkey", "mode")
        reloads = self._counter("ratelimit_reloads", "Times that rules were changed", "result")
        hub.on(LimitShadowed, lambda event: shadow.labels(event.policy).inc())
        hub.on(LimitFallback, lambda event: fallback.labels(event.mode).inc())
        hub.on(LimitsReloaded, lambda _: reloads.labels("changed").inc())
        hub.on(LimitsReloadFailed, lambda _: reloads.labels("failed").inc())

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
        self._queued_bytes = self._gauge("audit_queue_bytes", "Bytes of the events in the queue")
        self._account = self._gauge("audit_account_events", "The queue's account", "entry")
        self._verified = self._gauge("token_verifications", "Tokens looked at", "state")
        self._handler_failures = self._gauge("observer_failures", "Event handlers that raised")

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
