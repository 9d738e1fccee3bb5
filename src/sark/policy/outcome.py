"""What a question is decided from, and what came of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from sark.events import LookupResult
from sark.policy.evaluation import Flight
from sark.policy.found import Found
from sark.policy.near import Epochs, NearEntry

__all__ = ["Glance", "Outcome", "looked"]

Source = Literal["near", "valkey", "evaluated", "undefined", "failed"]


class Glance(msgspec.Struct, frozen=True):
    """What this process knew before it asked the server.

    Attributes:
        entry: The near cache's decision, if any.
        epochs: Of the question's generations.
        at: When, on the event loop's clock, in seconds.
    """

    entry: NearEntry | None
    epochs: Epochs
    at: float


class Outcome(msgspec.Struct, frozen=True):
    """A decision, and where it came from.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why.
        source: ``near``, ``valkey``, ``evaluated``, or why there is none.
        ttl: Seconds that it stays cached, as far as is known yet.
        revision: The policies that it was made under.
        flight: The evaluation that it came from; tells when it has been stored.
        engine_decision_id: The engine's own id of that evaluation; empty without one, and for what
            comes from a cache, which the engine has no entry of.
    """

    allow: bool
    reason: str
    source: Source
    ttl: int
    revision: str
    flight: Flight | None = None
    engine_decision_id: str = ""


def looked(outcome: Outcome, glance: Glance, found: Found) -> LookupResult:
    """Name how a look-up ended, counting both caches as one."""
    if not found.is_known:
        return "unavailable"
    if outcome.source == "near":
        return "near"
    if outcome.source == "valkey":
        return "hit"
    if glance.entry is not None:
        return "stale"
    return "bypassed" if found.result == "hit" else found.result
