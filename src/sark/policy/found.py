"""What a look-up found: the server's reply, judged by the stamp; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sark.events import LookupResult
from sark.policy.decision import began_at, decode_entry, is_withdrawal
from sark.policy.generations import stamp_of

__all__ = ["UNKNOWN", "USER_TOKEN_TOUCHED", "CachedDecision", "Found", "judge"]

# In place of the TTL left: no decision, and the user's token was created or renewed by the look-up.
USER_TOKEN_TOUCHED = -3


class CachedDecision(msgspec.Struct, frozen=True, gc=False):
    """A valid decision from the cache.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why.
        ttl_ms: Milliseconds that the server keeps it.
        began: When its evaluation began, in microseconds of the state server's clock.
        life: Seconds that the policy lets it live; None leaves it to the tier.
    """

    allow: bool
    reason: str
    ttl_ms: int
    began: int
    life: int | None

    @property
    def ttl(self) -> int:
        """Seconds that the server keeps it, rounded up."""
        return -(-self.ttl_ms // 1000)


class Found(msgspec.Struct, frozen=True):
    """The outcome of a look-up.

    Attributes:
        tokens: The generation tokens of everything, the policy and the user.
        run_id: The run of the server that holds them; empty when no server answered.
        stamp: What a decision evaluated from now on is valid under.
        decision: The valid cached decision, if any.
        result: ``hit``, or why not.
        seen: When the evaluation of what stands under the key began; 0 when there is nothing.
        at: When the look-up was, in microseconds of the state server's clock; 0 when not asked.
        user_token_touched: Whether the look-up created or renewed the user's token.
    """

    tokens: Sequence[bytes]
    run_id: str
    stamp: str
    decision: CachedDecision | None
    result: LookupResult
    seen: int = 0
    at: int = 0
    user_token_touched: bool = False

    @property
    def is_known(self) -> bool:
        """Whether a server answered. Else what is decided stands for no generation."""
        return self.run_id != ""

    @property
    def began(self) -> int:
        """When an evaluation that follows began: later than what was seen, whatever the clock did.

        Without the look-up's time it is later than what was seen and no more: it gives way to every
        evaluation that began since.
        """
        return max(self.at, self.seen + 1)

    def stamp_under(self, revision: str) -> str:
        """Digest the tokens with another revision of the policies."""
        return stamp_of(self.tokens, self.run_id, revision)


UNKNOWN = Found((b"", b"", b""), "", "", None, "unavailable")
"""What is found while the server that holds the tokens does not answer."""


def judge(reply: Sequence[Any], run_id: str, revision: str) -> Found:
    """Decide whether a cached decision is valid.

    Args:
        reply: As of ``policy_lookup``: three generation tokens, the cached value or None, its TTL
            left in milliseconds, and the time of the look-up, unless it was not asked for.
        run_id: The run of the server that holds the tokens.
        revision: Of the policies in force.
    """
    tokens = reply[:3]
    stamp = stamp_of(tokens, run_id, revision)
    value: bytes | None = reply[3]
    at: int = reply[5] if len(reply) > 5 else 0  # noqa: PLR2004 - the form above
    if value is None:
        touched = reply[4] == USER_TOKEN_TOUCHED
        return Found(tokens, run_id, stamp, None, "absent", at=at, user_token_touched=touched)
    entry = decode_entry(value)
    if entry is None:
        result: LookupResult = "absent" if is_withdrawal(value) else "corrupt"
        return Found(tokens, run_id, stamp, None, result, began_at(value), at)
    found, began, life = entry.parts
    if found != stamp:
        return Found(tokens, run_id, stamp, None, "stale", began, at)
    decision = CachedDecision(entry.allow, entry.reason, reply[4], began, life)
    return Found(tokens, run_id, stamp, decision, "hit", began, at)
