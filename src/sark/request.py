"""What is asked, and what is answered."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sark.policy.decisions import Consistency
from sark.ratelimit import LimitState
from sark.sessions.hidden import HidesTokens

__all__ = ["Answer", "Cached", "Request"]

Cached = Literal["valkey", "near", False]


class Request(HidesTokens, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a caller asks.

    Attributes:
        user_id: Who wants to act; 1 to 256 bytes. May be left out with an access token.
        action: What to do, such as ``server:read``.
        resource: What to do it to.
        access_token: The user's token; its session has to be alive. Never shown or recorded.
        user_agent: What the user's request names itself as, where sessions are bound to it.
        context: Further circumstances for the policy; JSON of at most 16 KiB.
        ip: Address of the acting user, for the rate limit and for what sessions are bound to.
        api_key_id: Id of the api key in use, for the rate limit.
        policy: Which policy decides; the first of ``SARK_POLICIES`` when left out.
        consistency: ``fast`` (any valid decision, the default), ``fresh`` (none from before the
            change that ``freshness`` names) or ``full`` (evaluated now).
        freshness: What an invalidation returned.
    """

    user_id: str | None = None
    action: str
    resource: str
    access_token: str | None = None
    user_agent: str | None = None
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    ip: str | None = None
    api_key_id: str | None = None
    policy: str | None = None
    consistency: Consistency | None = None
    freshness: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why.
        decision_id: Id of the audit event.
        policy: Which policy decided.
        cached: ``valkey`` or ``near`` when the decision came from a cache, else False.
        ttl: Seconds that the decision stays cached; 0 when it is not.
        limits: Each identity's window after this request.
    """

    allow: bool
    reason: str
    decision_id: str
    policy: str
    cached: Cached
    ttl: int
    limits: tuple[LimitState, ...]
