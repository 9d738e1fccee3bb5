"""What happens to decisions: caches, policy engines, policies."""

from __future__ import annotations

from typing import Literal

from sark.events.hub import Event

__all__ = [
    "CacheMiss",
    "CacheWriteFailed",
    "Decided",
    "Enforced",
    "EvaluationEnded",
    "EvaluationFailed",
    "EvaluatorBreakerChanged",
    "EvaluatorQueued",
    "FreshnessUnverifiable",
    "GenerationChanged",
    "Looked",
    "LookupResult",
    "NearCacheChanged",
    "PoliciesReloaded",
    "PoliciesRestored",
    "PolicyReloadFailed",
    "Warmed",
]

CacheMiss = Literal["absent", "stale", "corrupt", "unavailable"]


LookupResult = Literal["hit", "near", "bypassed"] | CacheMiss


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


class EvaluatorBreakerChanged(Event, frozen=True):
    """The policy engine was found dead, is probed, or answers again.

    Attributes:
        state: What the breaker has become.
        reason: The failure that opened it, without secrets.
    """

    state: Literal["closed", "open", "half_open"]
    reason: str


class EvaluatorQueued(Event, frozen=True):
    """An evaluation had to wait for its turn, because so many were under way.

    Attributes:
        seconds: How long it waited.
        served: Whether its turn came; otherwise it gave up, and the request is denied.
    """

    seconds: float
    served: bool
