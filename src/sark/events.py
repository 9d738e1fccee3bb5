"""Typed hooks through which the functions report what happens.

The functions build one of the events below and hand it to a ``Hub``. Metrics, logs and traces are
adapters that subscribe to event types; no function imports Prometheus or a logger. A type that
nobody subscribed to costs one dictionary look-up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

__all__ = [
    "AuditAppended",
    "AuditDropped",
    "AuditRefused",
    "AuditReplayed",
    "AuditSpilled",
    "BreakerChanged",
    "CacheWriteFailed",
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

CacheMiss = Literal["absent", "stale", "corrupt", "unavailable"]
LookupResult = Literal["hit", "near", "bypassed"] | CacheMiss
CallResult = Literal["ok", "error", "timeout", "lost", "unavailable"]


class Event(msgspec.Struct, frozen=True):
    """Base of all events."""


class RoundTrip(Event, frozen=True):
    """One exchange with a Valkey server ended.

    Attributes:
        role: Which role of server was asked.
        commands: How many commands the exchange carried.
        seconds: From asking for a connection to the last reply.
        result: How it ended.
    """

    role: str
    commands: int
    seconds: float
    result: CallResult


class ScriptLoaded(Event, frozen=True):
    """A server did not know a script (NOSCRIPT) and was given it."""

    role: str
    script: str


class GuardChanged(Event, frozen=True):
    """A server was found dead, or alive again, and callers stop or resume asking it."""

    role: str
    is_open: bool
    reason: str


class Looked(Event, frozen=True):
    """A decision was looked for in the cache.

    Attributes:
        policy: Who decides.
        result: Where it came from, or why none did. ``bypassed``: a valid one was there, and the
            request wanted a later one.
    """

    policy: str
    result: LookupResult


class FreshnessUnverifiable(Event, frozen=True):
    """A request carried a freshness token that was not signed with our key: it is evaluated."""


class CacheWriteFailed(Event, frozen=True):
    """A decision could not be stored. The request is not affected."""

    policy: str
    reason: str


class GenerationChanged(Event, frozen=True):
    """An invalidation was written: cached decisions of its scope are misses from now on."""

    scope: Literal["all", "policy", "user"]
    name: str


class EvaluationFailed(Event, frozen=True):
    """The policy engine gave no decision; the request was denied."""

    policy: str
    reason: str


class EvaluationEnded(Event, frozen=True):
    """The policy engine was asked, and the answer came or not.

    Attributes:
        result: ``undefined`` and ``failed`` are denials that are not kept.
        seconds: From asking to the answer, the wait for its turn included.
    """

    policy: str
    result: Literal["evaluated", "undefined", "failed"]
    seconds: float


class PoliciesReloaded(Event, frozen=True):
    """Other policies are in force: what was decided under the earlier ones is a miss."""

    revision: str


class PoliciesRestored(Event, frozen=True):
    """After others had been refused, the policies read are the running ones: nothing is pending."""

    revision: str


class PolicyReloadFailed(Event, frozen=True):
    """New policies were refused; the running ones stay."""

    reason: str


class Enforced(Event, frozen=True):
    """An invalidation took effect in this process: its near cache serves nothing older.

    Attributes:
        scope: What was revoked.
        seconds: Since the server wrote it, by the server's clock as estimated here.
    """

    scope: str
    seconds: float


class NearCacheChanged(Event, frozen=True):
    """The near cache began to serve, or stepped aside because its feed was lost.

    Attributes:
        serving: Whether it serves.
        reason: Why not.
    """

    serving: bool
    reason: str = ""


class Decided(Event, frozen=True):
    """An authorization was answered with allow or deny.

    Attributes:
        source: Where the decision came from.
        seconds: The whole of ``authorize()``.
    """

    policy: str
    allow: bool
    source: Literal["valkey", "near", "evaluated", "failed", "undefined"]
    seconds: float


class Warmed(Event, frozen=True):
    """A service has warmed its cache at the start, or has to try that again later.

    Attributes:
        cached: Questions that were cached already.
        evaluated: Questions that were decided.
        stored: Decisions of them that were stored.
        failed: Questions that got no decision.
        skipped: Questions that could not be asked.
        seconds: How long it took.
        reason: Why it ended early; empty when it did not.
    """

    cached: int
    evaluated: int
    stored: int
    failed: int
    skipped: int
    seconds: float
    reason: str = ""


class LimitRefused(Event, frozen=True):
    """A rate limit refused a request.

    Attributes:
        policy: The limit's name, which comes from the rules or the code, or ``deny``.
    """

    kind: str
    policy: str = ""


class LimitShadowed(Event, frozen=True):
    """A limit in shadow mode would have refused a request.

    Attributes:
        policy: Its name, which comes from the rules.
    """

    kind: str
    policy: str


class LimitFallback(Event, frozen=True):
    """Valkey did not answer, and a check was decided without it.

    Attributes:
        mode: Counted in this process, admitted, or failed.
    """

    mode: Literal["local", "open", "closed"]


class LimitsReloaded(Event, frozen=True):
    """Other rules of limits are in force."""

    revision: str


class LimitsReloadFailed(Event, frozen=True):
    """New rules of limits were refused; the running ones stay."""

    reason: str


class AuditAppended(Event, frozen=True):
    """A group of audit events was accepted by Valkey in one command."""

    events: int
    bytes: int
    seconds: float


class AuditRefused(Event, frozen=True):
    """Audit events were not accepted; their requests fail."""

    events: int
    reason: Literal["full", "unavailable"]


class AuditDropped(Event, frozen=True):
    """Audit events were given up: there was no room, and dropping is allowed or unavoidable."""

    events: int


class AuditSpilled(Event, frozen=True):
    """Audit events went to the spill store.

    Attributes:
        sink: Whose queue did not take them.
        events: How many.
        reason: Why; ``late``: their requests could not wait, so they may be in the queue as well,
            and likewise with ``replication``: too few replicas have them.
    """

    sink: str
    events: int
    reason: Literal["full", "unavailable", "late", "replication", "behind"]


class AuditReplayed(Event, frozen=True):
    """Spilled audit events reached their queue."""

    sink: str
    events: int


class SpillChanged(Event, frozen=True):
    """The spill store's disk refuses, or works again.

    Attributes:
        working: Whether it works.
        reason: What the disk said.
    """

    working: bool
    reason: str


class SpillFileSetAside(Event, frozen=True):
    """A file of spilled events cannot be read; it was renamed, and nothing of it was deleted.

    Attributes:
        path: Its new name.
        reason: What is wrong with it.
    """

    path: str
    reason: str


class Forwarded(Event, frozen=True):
    """A sink has accepted audit events.

    Attributes:
        sink: Which.
        events: How many.
        bytes: Size of their JSON as it was queued.
        seconds: From sending the batch to the answer.
    """

    sink: str
    events: int
    bytes: int
    seconds: float


class ForwardFailed(Event, frozen=True):
    """A sink did not accept a batch, which is sent again.

    Attributes:
        sink: Which.
        kind: Its receiver is unreachable or failing, asks to be sent less, or the breaker is open.
        reason: What came, without secrets.
        pause: Seconds until the next attempt.
    """

    sink: str
    kind: Literal["unavailable", "throttled", "breaker"]
    reason: str
    pause: float


class SinkPaused(Event, frozen=True):
    """A sink takes nothing until somebody mends it, or takes events again.

    Attributes:
        sink: Which.
        paused: Whether it is paused.
        kind: Its receiver refuses the credential, or the dead letters are full.
        reason: What came, without secrets.
    """

    sink: str
    paused: bool
    kind: Literal["unauthorized", "dead_letters_full"]
    reason: str


class DeadLettered(Event, frozen=True):
    """Audit events became dead letters.

    Attributes:
        sink: Whose.
        events: How many.
        kind: The receiver called them bad, or their leases expired too often.
        reason: What the receiver said of the first.
    """

    sink: str
    events: int
    kind: Literal["rejected", "expired"]
    reason: str


class LeaseExpired(Event, frozen=True):
    """Leased events returned to the queue, because their worker no longer renewed its lease."""

    sink: str
    events: int


class BreakerChanged(Event, frozen=True):
    """A shared circuit breaker changed its state, as this process has come to know.

    Attributes:
        name: Which.
        state: What it has become.
        reason: Why, without secrets.
        shared: Whether that is the state in Valkey; otherwise this process decides alone.
    """

    name: str
    state: Literal["closed", "open", "half_open", "forced_open", "forced_closed"]
    reason: str
    shared: bool = True


class SessionCreated(Event, frozen=True):
    """A user logged in."""


class SessionEnded(Event, frozen=True):
    """Sessions were ended before their time.

    Attributes:
        reason: ``revoked``, ``cap`` (a newer one took its place) or ``reuse`` (of a refresh token).
        sessions: How many.
    """

    reason: Literal["revoked", "cap", "reuse"]
    sessions: int


class SessionRefused(Event, frozen=True):
    """A token or session was not accepted; ``code`` is that of its ``SessionError``."""

    code: str


class ServerClockRead(Event, frozen=True):
    """The clock of the ``state`` server, which dates access tokens, was compared with ours.

    Attributes:
        offset: How far it is ahead, in seconds.
        leeway: How far it may be when the times in a token are checked.
        warn: Whether it is further off now, and was not at the last reading.
    """

    offset: float
    leeway: float
    warn: bool


class TokenRefreshed(Event, frozen=True):
    """A refresh token was traded for its successor."""


class RefreshRepeated(Event, frozen=True):
    """A refresh token that was just traded came again: it gave the tokens that are current."""


class RefreshReused(Event, frozen=True):
    """A refresh token that was traded before came again: somebody has a copy of it.

    Attributes:
        user_id: Whose session has ended.
        session_id: The session.
        failure: Why its end may not outlive a crash of the server; empty when it does.
    """

    user_id: str
    session_id: str
    failure: str


class EvaluatorBreakerChanged(Event, frozen=True):
    """The policy engine was found dead, is probed, or answers again.

    Attributes:
        state: What the breaker has become.
        reason: The failure that opened it, without secrets.
    """

    state: Literal["closed", "open", "half_open"]
    reason: str


class SigningKeysChanged(Event, frozen=True):
    """Other signing keys are in force in this process.

    Attributes:
        active: Kid of the one that signs.
        keys: How many there are.
    """

    active: str
    keys: int


class SigningKeysRefused(Event, frozen=True):
    """Changed signing keys could not be read; the known ones stay in force."""

    reason: str


class IssuerKeysFetched(Event, frozen=True):
    """An outside issuer gave its keys.

    Attributes:
        issuer: One of ``SARK_TRUSTED_ISSUERS``.
        keys: How many of them can be used.
        changed: Whether they differ from those known before.
    """

    issuer: str
    keys: int
    changed: bool


class IssuerUnavailable(Event, frozen=True):
    """An outside issuer did not give its keys.

    Attributes:
        issuer: One of ``SARK_TRUSTED_ISSUERS``.
        reason: Why, without addresses.
        usable: Whether the keys known before are still in use.
    """

    issuer: str
    reason: str
    usable: bool


class EvaluatorQueued(Event, frozen=True):
    """An evaluation had to wait for its turn, because so many were under way.

    Attributes:
        seconds: How long it waited.
        served: Whether its turn came; otherwise it gave up, and the request is denied.
    """

    seconds: float
    served: bool


E = TypeVar("E", bound=Event)
_log = logging.getLogger("sark.events")


class Hub:
    """Delivers events to the handlers that subscribed to their type.

    A handler that raises never breaks the request it observes: its exception is logged and
    counted in ``handler_failures``.
    """

    __slots__ = ("_handlers", "handler_failures")

    def __init__(self) -> None:
        # Keyed by exact type, so each handler only ever gets the type that it subscribed to.
        self._handlers: dict[type[Event], tuple[Callable[[Any], None], ...]] = {}
        self.handler_failures = 0

    def on(self, kind: type[E], handler: Callable[[E], None]) -> None:
        """Call ``handler`` for every later event of exactly this type."""
        known = self._handlers.get(kind, ())
        self._handlers[kind] = (*known, handler)

    def emit(self, event: Event) -> None:
        """Deliver ``event`` to its handlers, in the order of their subscription."""
        for handler in self._handlers.get(type(event), ()):
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - an observer must not break what it observes
                self.handler_failures += 1
                _log.exception("a handler of %s failed", type(event).__name__)
