"""Consistency, chosen per request in the manner of SpiceDB: what an answer has to satisfy.

- ``fast`` (default): any valid decision, the near cache's included;
- ``fresh``: the request carries freshness tokens; nothing from before those changes is served;
- ``full``: evaluated now, then stored for others. It takes the place of every decision that began
  to be evaluated earlier, in Valkey and in the near caches of all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from sark.errors import InvalidRequestError
from sark.policy.freshness import MAX_TOKEN_BYTES, Freshness, FreshnessSigner
from sark.policy.question import Question

__all__ = ["FAST", "MAX_FRESHNESS_BYTES", "MAX_TOKENS", "Consistency", "Plan", "plan"]

Consistency = Literal["fast", "fresh", "full"]
# One change each: of everything, of a policy, of a user. A few more, for who collects them.
MAX_TOKENS = 8
MAX_FRESHNESS_BYTES = 4096


class Plan(msgspec.Struct, frozen=True):
    """What an answer has to satisfy.

    Attributes:
        consistency: As the request asks.
        freshness: The tokens that it carries, as they came.
        required: The changes that it must be no older than.
        unverifiable: One of the tokens was not signed by us.
    """

    consistency: Consistency = "fast"
    freshness: str = ""
    required: tuple[Freshness, ...] = ()
    unverifiable: bool = False

    def covered_by(self, tokens: Sequence[bytes | None], question: Question) -> bool:
        """Whether the server's generations are as fresh as the request demands.

        One that is newer than what the server holds was lost in a failover. What is decided now is
        right, but must not be kept: the server's tokens don't stand for it.

        Args:
            tokens: The generation tokens of everything, the policy and the user.
            question: What is asked.
        """
        if not self.freshness:
            return True
        if self.unverifiable:
            return False
        for required in self.required:
            if required.concerns(question.policy, question.user_id):
                token = tokens[("all", "policy", "user").index(required.scope)]
                if token is None or not required.is_covered_by(token):
                    return False
        return True


FAST = Plan()


def plan(signer: FreshnessSigner, consistency: str | None, freshness: str | None) -> Plan:
    """Work out what an answer has to satisfy.

    Args:
        signer: Verifies the tokens.
        consistency: ``fast``, ``fresh`` or ``full``.
        freshness: Freshness tokens, joined by commas.

    Raises:
        InvalidRequestError: The two do not go together, or one of them is unusable.
    """
    match consistency:
        case None | "fast" | "fresh" | "full":
            wanted: Consistency | None = consistency
        case _:
            choices = ", ".join(get_args(Consistency))
            reason = f"got {str(consistency)[:64]!r}, expected one of: {choices}"
            raise InvalidRequestError("consistency", reason)
    if freshness is None:
        if wanted is None or wanted == "fast":
            return FAST
        if wanted == "fresh":
            reason = "is missing; consistency 'fresh' needs a freshness token"
            raise InvalidRequestError("freshness", reason)
        return Plan(wanted)
    if wanted == "fast":
        reason = "got 'fast' with a freshness token, expected 'fresh' or 'full'"
        raise InvalidRequestError("consistency", reason)
    verified = [signer.verify(token) for token in _tokens(freshness)]
    required = tuple(each for each in verified if each is not None)
    return Plan(wanted or "fresh", freshness, required, unverifiable=len(required) < len(verified))


def _tokens(freshness: str) -> list[str]:
    if not freshness:
        reason = "got an empty string, expected what an invalidation returned"
        raise InvalidRequestError("freshness", reason)
    if len(freshness) > MAX_FRESHNESS_BYTES:
        reason = f"got {len(freshness)} characters, expected at most {MAX_FRESHNESS_BYTES}"
        raise InvalidRequestError("freshness", reason)
    tokens = freshness.split(",")
    if len(tokens) > MAX_TOKENS:
        reason = f"got {len(tokens)} tokens, expected at most {MAX_TOKENS}"
        raise InvalidRequestError("freshness", reason)
    longest = max(map(len, tokens))
    if longest > MAX_TOKEN_BYTES:
        reason = f"got a token of {longest} characters, expected at most {MAX_TOKEN_BYTES}"
        raise InvalidRequestError("freshness", reason)
    return tokens
