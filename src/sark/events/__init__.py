"""Typed hooks through which the functions report what happens.

The functions build one of the events below and hand it to a ``Hub``. Metrics, logs and traces are
adapters that subscribe to event types; no function imports Prometheus or a logger. A type that
nobody subscribed to costs one dictionary look-up.
"""

from __future__ import annotations

from sark.events.audit import (
    AuditAppended,
    AuditDropped,
    AuditRefused,
    AuditReplayed,
    AuditSpilled,
    DeadLettered,
    Forwarded,
    ForwardFailed,
    LeaseExpired,
    SinkPaused,
    SpillChanged,
    SpillFileSetAside,
)
from sark.events.breaker import BreakerChanged
from sark.events.hub import Event, Hub
from sark.events.limits import (
    LimitFallback,
    LimitRefused,
    LimitShadowed,
    LimitsReloaded,
    LimitsReloadFailed,
)
from sark.events.policy import (
    CacheMiss,
    CacheWriteFailed,
    Decided,
    Enforced,
    EvaluationEnded,
    EvaluationFailed,
    EvaluatorBreakerChanged,
    EvaluatorQueued,
    FreshnessUnverifiable,
    GenerationChanged,
    Looked,
    LookupResult,
    NearCacheChanged,
    PoliciesReloaded,
    PoliciesRestored,
    PolicyReloadFailed,
    Warmed,
)
from sark.events.sessions import (
    IssuerKeysFetched,
    IssuerUnavailable,
    RefreshRepeated,
    RefreshReused,
    SessionCreated,
    SessionEnded,
    SessionRefused,
    SigningKeysChanged,
    SigningKeysRefused,
    TokenRefreshed,
)
from sark.events.store import CallResult, GuardChanged, RoundTrip, ScriptLoaded, ServerClockRead

__all__ = [
    "AuditAppended",
    "AuditDropped",
    "AuditRefused",
    "AuditReplayed",
    "AuditSpilled",
    "BreakerChanged",
    "CacheMiss",
    "CacheWriteFailed",
    "CallResult",
    "DeadLettered",
    "Decided",
    "Enforced",
    "EvaluationEnded",
    "EvaluationFailed",
    "EvaluatorBreakerChanged",
    "EvaluatorQueued",
    "Event",
    "ForwardFailed",
    "Forwarded",
    "FreshnessUnverifiable",
    "GenerationChanged",
    "GuardChanged",
    "Hub",
    "IssuerKeysFetched",
    "IssuerUnavailable",
    "LeaseExpired",
    "LimitFallback",
    "LimitRefused",
    "LimitShadowed",
    "LimitsReloadFailed",
    "LimitsReloaded",
    "Looked",
    "LookupResult",
    "NearCacheChanged",
    "PoliciesReloaded",
    "PoliciesRestored",
    "PolicyReloadFailed",
    "RefreshRepeated",
    "RefreshReused",
    "RoundTrip",
    "ScriptLoaded",
    "ServerClockRead",
    "SessionCreated",
    "SessionEnded",
    "SessionRefused",
    "SigningKeysChanged",
    "SigningKeysRefused",
    "SinkPaused",
    "SpillChanged",
    "SpillFileSetAside",
    "TokenRefreshed",
    "Warmed",
]
