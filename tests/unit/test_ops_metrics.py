"""Metrics: each event moves its own figure, and labels stay few."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sark import events
from sark.events import (
    AuditAppended,
    AuditDropped,
    AuditRefused,
    AuditReplayed,
    AuditSpilled,
    BreakerChanged,
    CacheWriteFailed,
    DeadLettered,
    Decided,
    Enforced,
    EvaluationEnded,
    EvaluationFailed,
    EvaluatorBreakerChanged,
    EvaluatorQueued,
    Event,
    Forwarded,
    ForwardFailed,
    FreshnessUnverifiable,
    GenerationChanged,
    GuardChanged,
    Hub,
    IssuerKeysFetched,
    IssuerUnavailable,
    LeaseExpired,
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
    SinkPaused,
    SpillChanged,
    SpillFileSetAside,
    TokenRefreshed,
    Warmed,
)
from sark.ops.limiter_metrics import MAX_POLICIES
from sark.ops.metrics import Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> Samples:
    """Render and read again; creation times are left out."""
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


def moved(event: Event, *more: Event) -> dict[str, float]:
    """Emit events on a fresh hub; tells which figures are not zero."""
    hub = Hub()
    metrics = Metrics(hub)
    for each in (event, *more):
        hub.emit(each)
    assert hub.handler_failures == 0
    return {
        name + "".join(f" {label}={value}" for label, value in labels): amount
        for (name, labels), amount in scrape(metrics).items()
        if amount
    }


EXPECTED: list[tuple[Event, dict[str, float]]] = [
    (
        Decided("authz", allow=True, source="valkey", seconds=0.5),
        {
            "sark_decisions_total allow=true policy=authz source=valkey": 1,
            "sark_authorize_seconds_count source=valkey": 1,
            "sark_authorize_seconds_sum source=valkey": 0.5,
        },
    ),
    (LimitRefused("ip", "r"), {"sark_ratelimit_refused_total kind=ip policy=r": 1}),
    (SessionCreated(), {"sark_sessions_created_total": 1}),
    (SessionEnded("cap", 2), {"sark_sessions_ended_total reason=cap": 2}),
    (SessionRefused("ended"), {"sark_sessions_refused_total code=ended": 1}),
    (TokenRefreshed(), {"sark_tokens_refreshed_total": 1}),
    (RefreshRepeated(), {"sark_refresh_tokens_repeated_total": 1}),
    (RefreshReused("ann", "s-1", ""), {"sark_refresh_tokens_reused_total": 1}),
    (LimitShadowed("user", "free"), {"sark_ratelimit_shadow_refused_total policy=free": 1}),
    (LimitFallback("local"), {"sark_ratelimit_fallback_total mode=local": 1}),
    (LimitsReloaded("r2"), {"sark_ratelimit_reloads_total result=changed": 1}),
    (LimitsReloadFailed("x"), {"sark_ratelimit_reloads_total result=failed": 1}),
    (EvaluationFailed("authz", "x"), {"sark_evaluation_failures_total policy=authz": 1}),
    (
        EvaluationEnded("authz", "undefined", 0.5),
        {
            "sark_evaluation_seconds_count policy=authz result=undefined": 1,
            "sark_evaluation_seconds_sum policy=authz result=undefined": 0.5,
        },
    ),
    (PoliciesReloaded("r2"), {"sark_policy_reloads_total result=changed": 1}),
    (PoliciesRestored("r1"), {"sark_policy_reloads_total result=restored": 1}),
    (PolicyReloadFailed("x"), {"sark_policy_reloads_total result=failed": 1}),
    (Looked("authz", "stale"), {"sark_cache_lookups_total policy=authz result=stale": 1}),
    (CacheWriteFailed("authz", "x"), {"sark_cache_write_failures_total": 1}),
    (FreshnessUnverifiable(), {"sark_freshness_unverifiable_total": 1}),
    (GenerationChanged("user", "ann"), {"sark_cache_invalidations_total scope=user": 1}),
    (
        RoundTrip("state", 3, 0.25, "timeout"),
        {
            "sark_store_call_seconds_count result=timeout role=state": 1,
            "sark_store_call_seconds_sum result=timeout role=state": 0.25,
            "sark_store_commands_total role=state": 3,
        },
    ),
    (ScriptLoaded("state", "x"), {"sark_store_scripts_loaded_total role=state": 1}),
    (
        GuardChanged("state", is_open=True, reason="x"),
        {"sark_store_guard_opened_total role=state": 1},
    ),
    (
        Enforced("user", 0.002),
        {
            "sark_invalidation_enforced_seconds_count scope=user": 1,
            "sark_invalidation_enforced_seconds_sum scope=user": 0.002,
        },
    ),
    (NearCacheChanged(serving=False), {"sark_near_cache_interruptions_total": 1}),
    (NearCacheChanged(serving=True), {}),
    (EvaluatorBreakerChanged("open", "x"), {"sark_evaluator_breaker_opened_total": 1}),
    (
        EvaluatorQueued(0.5, served=False),
        {
            "sark_evaluator_queue_seconds_count result=busy": 1,
            "sark_evaluator_queue_seconds_sum result=busy": 0.5,
        },
    ),
    (
        AuditAppended(4, 1000, 0.1),
        {
            "sark_audit_events_accepted_total": 4,
            "sark_audit_bytes_accepted_total": 1000,
            "sark_audit_groups_total": 1,
        },
    ),
    (
        Warmed(cached=1, evaluated=5, stored=4, failed=2, skipped=3, seconds=1.5),
        {
            "sark_warmed_questions_total result=cached": 1,
            "sark_warmed_questions_total result=evaluated": 5,
            "sark_warmed_questions_total result=stored": 4,
            "sark_warmed_questions_total result=failed": 2,
            "sark_warmed_questions_total result=skipped": 3,
            "sark_warming_seconds_total": 1.5,
            "sark_warm_ups_total result=failed": 1,
        },
    ),
    (
        Warmed(cached=1, evaluated=0, stored=0, failed=0, skipped=0, seconds=0.5),
        {
            "sark_warmed_questions_total result=cached": 1,
            "sark_warming_seconds_total": 0.5,
            "sark_warm_ups_total result=completed": 1,
        },
    ),
    (SigningKeysChanged("kid", 3), {"sark_signing_key_changes_total result=changed": 1}),
    (ServerClockRead(-31.5, 30, warn=True), {"sark_state_clock_offset_seconds": -31.5}),
    (SigningKeysRefused("x"), {"sark_signing_key_changes_total result=refused": 1}),
    (
        IssuerKeysFetched("idp", 2, changed=True),
        {"sark_issuer_key_fetches_total issuer=idp result=ok": 1},
    ),
    (
        IssuerUnavailable("idp", "x", usable=True),
        {"sark_issuer_key_fetches_total issuer=idp result=failed": 1},
    ),
    (
        Warmed(cached=0, evaluated=0, stored=0, failed=3, skipped=0, seconds=0.5, reason="away"),
        {
            "sark_warmed_questions_total result=failed": 3,
            "sark_warming_seconds_total": 0.5,
            "sark_warm_ups_total result=put_off": 1,
        },
    ),
    (AuditDropped(2), {"sark_audit_events_dropped_total": 2}),
    (
        AuditSpilled("main", 3, "late"),
        {"sark_siem_spilled_events_total reason=late sink=main": 3},
    ),
    (SpillChanged(working=False, reason="x"), {"sark_spill_failing": 1}),
    (SpillFileSetAside("x", "y"), {"sark_spill_files_set_aside_total": 1}),
    (AuditReplayed("main", 3), {"sark_siem_replayed_events_total sink=main": 3}),
    (SpillChanged(working=False, reason="the disk is full"), {"sark_spill_failing": 1}),
    (SpillFileSetAside("/x.corrupt", "malformed"), {"sark_spill_files_set_aside_total": 1}),
    (
        Forwarded("splunk", 10, 5000, 0.5),
        {
            "sark_siem_forwarded_events_total sink=splunk": 10,
            "sark_siem_forwarded_bytes_total sink=splunk": 5000,
            "sark_siem_forward_seconds_count sink=splunk": 1,
            "sark_siem_forward_seconds_sum sink=splunk": 0.5,
        },
    ),
    (
        ForwardFailed("main", "throttled", "x", 1.0),
        {"sark_siem_forward_failures_total kind=throttled sink=main": 1},
    ),
    (
        SinkPaused("main", paused=True, kind="unauthorized", reason="x"),
        {"sark_siem_sink_paused kind=unauthorized sink=main": 1},
    ),
    (
        DeadLettered("main", 2, "rejected", "x"),
        {"sark_siem_dead_letters_total kind=rejected sink=main": 2},
    ),
    (LeaseExpired("main", 7), {"sark_siem_lease_expired_events_total sink=main": 7}),
    (
        BreakerChanged("siem", "open", "x", shared=False),
        {"sark_breaker_changes_total breaker=siem state=open": 1},
    ),
    (AuditRefused(2, "full"), {"sark_audit_events_refused_total reason=full": 2}),
]


@pytest.mark.parametrize(
    ("event", "expected"), EXPECTED, ids=lambda v: type(v).__name__ if isinstance(v, Event) else ""
)
def test_each_event_moves_its_figures_and_no_other(
    event: Event, expected: dict[str, float]
) -> None:
    assert moved(event) == expected


def test_every_event_is_counted() -> None:
    known = {
        kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)
    }
    assert {type(event) for event, _ in EXPECTED} == known - {Event}


@pytest.mark.parametrize(
    "event",
    [
        GuardChanged("state", is_open=False, reason=""),
        EvaluatorBreakerChanged("closed", ""),
        EvaluatorBreakerChanged("half_open", "x"),
        SpillChanged(working=True, reason=""),
        SinkPaused("main", paused=False, kind="unauthorized", reason=""),
    ],
    ids=str,
)
def test_what_comes_back_is_not_counted_as_lost(event: Event) -> None:
    assert moved(event) == {}


def test_counts_add_up() -> None:
    found = moved(*[AuditAppended(4, 1000, 0.1)] * 3)
    assert found["sark_audit_events_accepted_total"] == 12
    assert found["sark_audit_groups_total"] == 3


@pytest.mark.parametrize(
    "event",
    [
        EvaluationFailed("authz", "marked"),
        CacheWriteFailed("authz", "marked"),
        GenerationChanged("user", "marked"),
        GuardChanged("state", is_open=True, reason="marked"),
        ScriptLoaded("state", "marked"),
        SigningKeysChanged("marked", 1),
        SigningKeysRefused("marked"),
        SpillChanged(working=False, reason="marked"),
        SpillFileSetAside("marked", "marked"),
        IssuerUnavailable("idp", "marked", usable=False),
        Warmed(0, 0, 0, 0, 0, seconds=0.5, reason="marked"),
        ForwardFailed("main", "unavailable", "marked", 1.0),
        SinkPaused("main", paused=True, kind="unauthorized", reason="marked"),
        DeadLettered("main", 1, "rejected", "marked"),
        BreakerChanged("siem", "open", "marked"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_texts_never_become_labels(event: Event) -> None:
    assert "marked" not in str(moved(event))


def test_names_follow_the_conventions() -> None:
    metrics = Metrics(Hub())
    families = list(metrics.registry.collect())
    assert all(family.name.startswith("sark_") for family in families)
    assert all(family.documentation for family in families)
    names = [family.name for family in families]
    assert len(names) == len(set(names))


def test_two_services_in_one_process_count_apart() -> None:
    hubs: list[Any] = [Hub(), Hub()]
    first, second = (Metrics(hub) for hub in hubs)
    hubs[0].emit(LimitRefused("ip", "r"))
    key = ("sark_ratelimit_refused_total", (("kind", "ip"), ("policy", "r")))
    assert scrape(first)[key] == 1
    assert key not in scrape(second)


def test_names_of_limits_are_told_apart_up_to_a_bound() -> None:
    hub = Hub()
    metrics = Metrics(hub)
    for number in range(MAX_POLICIES + 50):
        hub.emit(LimitRefused("ip", f"r{number}"))
    names = {
        sample.labels["policy"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "sark_ratelimit_refused_total"
    }
    assert len(names) == MAX_POLICIES + 1
    assert "other" in names
