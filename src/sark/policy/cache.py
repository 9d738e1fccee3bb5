"""The policy decision cache: look a decision up, judge it by its stamp, store a new one.

Looking up and judging are apart: the gateway brings what the server replied (from its own script,
shared with the rate limits), ``judge`` decides what it means without any I/O. ``PolicyCache.get``
does both for callers who want a decision only.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from sark.errors import StoreError
from sark.events import CacheWriteFailed, Looked, LookupResult
from sark.policy.decision import Decision, decode_entry, encode_entry
from sark.policy.generations import Generations, fresh_nonce, lookup_script, stamp_of
from sark.policy.question import Question
from sark.policy.sensitivity import TtlTiers
from sark.store import Store

__all__ = ["CachedDecision", "Found", "PolicyCache", "judge"]

_LOOKUP = lookup_script()


class CachedDecision(msgspec.Struct, frozen=True, gc=False):
    """A valid decision from the cache.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why.
        ttl: Seconds that the decision stays cached, rounded up.
    """

    allow: bool
    reason: str
    ttl: int


class Found(msgspec.Struct, frozen=True):
    """The outcome of a look-up.

    Attributes:
        stamp: What a decision evaluated from now on is to be stamped with.
        decision: The valid cached decision, if any.
        result: ``hit``, or why not.
    """

    stamp: str
    decision: CachedDecision | None
    result: LookupResult


def judge(reply: list[Any], run_id: str, revision: str) -> Found:
    """Decide whether a cached decision is valid.

    Args:
        reply: Three generation tokens, the cached value or None, its TTL left in milliseconds.
        run_id: The run of the server that holds the tokens.
        revision: The evaluator's revision.
    """
    stamp = stamp_of(reply, run_id, revision)
    value: bytes | None = reply[3]
    if value is None:
        return Found(stamp, None, "absent")
    entry = decode_entry(value)
    if entry is None:
        return Found(stamp, None, "corrupt")
    if entry.stamp != stamp:
        return Found(stamp, None, "stale")
    ttl_ms: int = reply[4]
    return Found(stamp, CachedDecision(entry.allow, entry.reason, -(-ttl_ms // 1000)), "hit")


class PolicyCache:
    """Caches decisions in Valkey.

    Args:
        store: Where decisions (``cache`` role) and generations (``state`` role) live.
        tiers: How long decisions are kept.
    """

    def __init__(self, store: Store, tiers: TtlTiers | None = None) -> None:
        self.tiers = tiers or TtlTiers()
        self.generations = Generations(store, user_token_ttl=2 * self.tiers.longest)
        self._store = store
        self._version_keys: dict[str, str] = {}

    def generation_keys(self, question: Question) -> list[str]:
        """Name the three generation keys of a question, in the order of ``policy_lookup``."""
        keys = self._store.keys
        policy = question.policy
        version = self._version_keys.get(policy)
        if version is None:
            version = self._version_keys[policy] = keys.policy_version(policy)
        return [keys.policy_generation, version, keys.policy_user_version(question.user_id)]

    def decision_key(self, question: Question) -> str:
        """Name the key of a question's decision."""
        return self._store.keys.policy_decision(question.digest)

    async def get(
        self, question: Question, revision: str, *, deadline: float | None = None
    ) -> Found:
        """Look a decision up: one round trip (one to each role of server, at the same time).

        Args:
            question: What is asked.
            revision: The evaluator's revision.
            deadline: On the event loop's clock, in seconds.

        Raises:
            StoreError: The ``state`` server did not answer. A ``cache`` server that does not
                answer is a miss.
        """
        keys = self.generation_keys(question)
        args = (fresh_nonce(), self.generations.user_token_ttl_ms)
        state = self._store.state
        if self._store.shared:
            keys.append(self.decision_key(question))
            reply = await state.run(_LOOKUP, keys, args, deadline=deadline, idempotent=True)
            found = judge(reply.value, reply.run_id, revision)
        else:
            reply, cached = await asyncio.gather(
                state.run(_LOOKUP, keys, args, deadline=deadline, idempotent=True),
                self.read(question, deadline=deadline),
            )
            found = self.judge_split(reply.value, cached, reply.run_id, revision)
        self._store.hub.emit(Looked(question.policy, found.result))
        return found

    async def read(self, question: Question, *, deadline: float | None = None) -> list[Any] | None:
        """Read a decision and its TTL from a ``cache`` server; None when that fails."""
        key = self.decision_key(question)
        try:
            return await self._store.cache.pipeline(
                [("GET", key), ("PTTL", key)], deadline=deadline, idempotent=True
            )
        except StoreError:
            # Reported as a round trip that failed; what the cache cannot tell is a miss.
            return None

    @staticmethod
    def judge_split(
        tokens: list[Any], cached: list[Any] | None, run_id: str, revision: str
    ) -> Found:
        """Judge a decision that came from another server than the tokens."""
        if cached is None or any(isinstance(reply, StoreError) for reply in cached):
            return Found(stamp_of(tokens, run_id, revision), None, "unavailable")
        return judge([*tokens[:3], *cached], run_id, revision)

    async def put(
        self,
        question: Question,
        decision: Decision,
        stamp: str,
        *,
        deadline: float | None = None,
    ) -> int:
        """Store a decision.

        Args:
            question: What was asked.
            decision: What was decided.
            stamp: From the look-up that came before the evaluation.
            deadline: On the event loop's clock, in seconds.

        Returns:
            Seconds that it is kept; 0 when it is not cacheable or could not be stored, which
            costs a later miss and is reported as an event.
        """
        ttl = self.tiers.for_action(question.action)
        if decision.ttl is not None:
            ttl = min(ttl, decision.ttl)
        if not decision.cacheable or ttl < 1:
            return 0
        value = encode_entry(decision, stamp)
        key = self.decision_key(question)
        try:
            await self._store.cache.execute(
                "SET", key, value, "EX", ttl, deadline=deadline, idempotent=True
            )
        except StoreError as error:
            self._store.hub.emit(CacheWriteFailed(question.policy, str(error)))
            return 0
        return ttl
