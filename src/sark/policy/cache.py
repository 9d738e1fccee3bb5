"""The policy decision cache in Valkey: look a decision up, judge it by its stamp, store a new one.

Looking up and judging are apart: the gateway brings what the server replied (from its own script,
shared with the rate limits), ``judge`` decides what it means without any I/O.
"""

from __future__ import annotations

import asyncio
import random
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from sark.errors import StoreError
from sark.events import CacheWriteFailed, Looked, LookupResult
from sark.policy.decision import Decision, decode_entry, encode_entry
from sark.policy.generations import LOOKUP_FRAGMENTS, Generations, fresh_nonce, stamp_of
from sark.policy.policy_file import PolicyFile
from sark.policy.question import Question
from sark.policy.sensitivity import TtlTiers
from sark.store import ScriptCall, Store, load_script

__all__ = ["CachedDecision", "Found", "PolicyCache", "judge"]

_LOOKUP = load_script("policy.lookup", *LOOKUP_FRAGMENTS, ("sark.policy", "lookup_main.lua"))
COMPACT_BYTES = 18  # of the digest: 144 bits, 24 characters without padding


class CachedDecision(msgspec.Struct, frozen=True, gc=False):
    """A valid decision from the cache.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why.
        ttl_ms: Milliseconds that the server keeps it.
    """

    allow: bool
    reason: str
    ttl_ms: int

    @property
    def ttl(self) -> int:
        """Seconds that the server keeps it, rounded up."""
        return -(-self.ttl_ms // 1000)


class Found(msgspec.Struct, frozen=True):
    """The outcome of a look-up.

    Attributes:
        tokens: The generation tokens of everything, the policy and the user.
        run_id: The run of the server that holds them.
        stamp: What a decision evaluated from now on is valid under.
        decision: The valid cached decision, if any.
        result: ``hit``, or why not.
    """

    tokens: Sequence[bytes]
    run_id: str
    stamp: str
    decision: CachedDecision | None
    result: LookupResult

    def stamp_under(self, revision: str) -> str:
        """Digest the tokens with another revision of the policies."""
        return stamp_of(self.tokens, self.run_id, revision)


def judge(reply: Sequence[Any], run_id: str, revision: str) -> Found:
    """Decide whether a cached decision is valid.

    Args:
        reply: Three generation tokens, the cached value or None, its TTL left in milliseconds.
        run_id: The run of the server that holds the tokens.
        revision: Of the policies in force.
    """
    tokens = reply[:3]
    stamp = stamp_of(tokens, run_id, revision)
    value: bytes | None = reply[3]
    if value is None:
        return Found(tokens, run_id, stamp, None, "absent")
    entry = decode_entry(value)
    if entry is None:
        return Found(tokens, run_id, stamp, None, "corrupt")
    if entry.stamp != stamp:
        return Found(tokens, run_id, stamp, None, "stale")
    decision = CachedDecision(entry.allow, entry.reason, reply[4])
    return Found(tokens, run_id, stamp, decision, "hit")


class PolicyCache:
    """Caches decisions in Valkey.

    Args:
        store: Where decisions (``cache`` role) and generations (``state`` role) live.
        generations: Revokes them.
        tiers: How long decisions are kept.
        rules: How sensitive actions are, and which policies' decisions may be kept.
        key_form: ``full``: the digest in hex, as the guide has it; ``compact``: 144 bits of it in
            base64url, 40 bytes shorter.
        jitter: Share of a TTL that is taken off at random, against mass expiry.
    """

    def __init__(
        self,
        store: Store,
        generations: Generations,
        tiers: TtlTiers,
        *,
        rules: PolicyFile | None = None,
        key_form: Literal["full", "compact"] = "full",
        jitter: float = 0.0,
    ) -> None:
        self.generations = generations
        self.tiers = tiers
        self.rules = rules or PolicyFile()
        self._store = store
        self._compact = key_form == "compact"
        self._jitter = jitter
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
        digest = question.digest
        if self._compact:
            text = urlsafe_b64encode(digest[:COMPACT_BYTES]).decode()
            return self._store.keys.policy_decision(text)
        return self._store.keys.policy_decision(digest.hex())

    async def get(
        self, question: Question, revision: str, *, deadline: float | None = None
    ) -> Found:
        """Look a decision up: one round trip for a hit, to both roles of server at the same time.

        A hit needs no script: the tokens, the decision and its TTL are read in one transaction, so
        that the TTL is this decision's and not that of one stored a moment before or after. Only
        when a token or the decision is missing is the script called, in a second round trip.

        Args:
            question: What is asked.
            revision: Of the policies in force.
            deadline: On the event loop's clock, in seconds.

        Raises:
            StoreError: The ``state`` server did not answer. A ``cache`` server that does not
                answer is a miss.
        """
        keys = self.generation_keys(question)
        if not self._store.shared:
            found = await self._get_split(question, keys, revision, deadline)
        else:
            found = await self._get_shared(question, keys, revision, deadline)
        self._store.hub.emit(Looked(question.policy, found.result))
        return found

    async def _get_shared(
        self, question: Question, keys: list[str], revision: str, deadline: float | None
    ) -> Found:
        key = self.decision_key(question)
        (values, ttl_ms), run_id = await self._store.state.transaction(
            [("MGET", *keys, key), ("PTTL", key)], deadline=deadline, idempotent=True
        )
        if None not in values and ttl_ms > 0:
            return judge([*values, ttl_ms], run_id, revision)
        keys.append(key)
        reply = await self._store.state.run(
            _LOOKUP, keys, self._lookup_arguments(), deadline=deadline, idempotent=True
        )
        return judge(reply.value, reply.run_id, revision)

    async def _get_split(
        self, question: Question, keys: list[str], revision: str, deadline: float | None
    ) -> Found:
        reply, cached = await asyncio.gather(
            self._store.state.run(
                _LOOKUP, keys, self._lookup_arguments(), deadline=deadline, idempotent=True
            ),
            self.read(question, deadline=deadline),
        )
        return self.judge_split(reply.value, cached, reply.run_id, revision)

    async def get_many(
        self, questions: Sequence[Question], revision: str, *, deadline: float | None = None
    ) -> list[Found]:
        """Look decisions up in one round trip, each by its own tokens; these are not counted.

        Args:
            questions: What is asked; about a hundred at a time.
            revision: Of the policies in force.
            deadline: On the event loop's clock, in seconds.

        Raises:
            StoreError: As in ``get``.
        """
        shared = self._store.shared
        calls = []
        for question in questions:
            keys = self.generation_keys(question)
            if shared:
                keys.append(self.decision_key(question))
            calls.append(ScriptCall(_LOOKUP, keys, self._lookup_arguments()))
        asking = self._store.state.exchange(calls, deadline=deadline, idempotent=True)
        if shared:
            replies, run_id = await asking
            return [judge(reply, run_id, revision) for reply in replies]
        (replies, run_id), read = await asyncio.gather(
            asking, self.read_many(questions, deadline=deadline)
        )
        found = []
        for number, reply in enumerate(replies):
            cached = None if read is None else [read[0][number], read[1][number]]
            found.append(self.judge_split(reply, cached, run_id, revision))
        return found

    def _lookup_arguments(self) -> tuple[str, int]:
        return fresh_nonce(), self.generations.user_token_ttl_ms

    async def read(self, question: Question, *, deadline: float | None = None) -> list[Any] | None:
        """Read a decision and its TTL from a ``cache`` server; None when that fails."""
        key = self.decision_key(question)
        try:
            replies, _ = await self._store.cache.transaction(
                [("GET", key), ("PTTL", key)], deadline=deadline, idempotent=True
            )
        except StoreError:
            # Reported as a round trip that failed; what the cache cannot tell is a miss.
            return None
        return replies

    async def read_many(
        self, questions: Sequence[Question], *, deadline: float | None = None
    ) -> tuple[list[Any], list[Any]] | None:
        """Read decisions and their TTLs from a ``cache`` server; None when that fails."""
        keys = [self.decision_key(question) for question in questions]
        commands: list[tuple[str, ...]] = [("MGET", *keys), *(("PTTL", key) for key in keys)]
        try:
            replies, _ = await self._store.cache.transaction(
                commands, deadline=deadline, idempotent=True
            )
        except StoreError:
            return None
        return replies[0], replies[1:]

    @staticmethod
    def judge_split(
        tokens: Sequence[Any], cached: list[Any] | None, run_id: str, revision: str
    ) -> Found:
        """Judge a decision that came from another server than the tokens."""
        if cached is None:
            stamp = stamp_of(tokens, run_id, revision)
            return Found(tokens[:3], run_id, stamp, None, "unavailable")
        return judge([*tokens[:3], *cached], run_id, revision)

    def ttl_of(self, question: Question, decision: Decision) -> int:
        """Decide how long a decision is kept, in whole seconds, before jitter; 0: not at all."""
        if not decision.cacheable or not self.rules.cacheable(question.policy):
            return 0
        ttl = self.rules.ttl(question.action, self.tiers)
        return ttl if decision.ttl is None else max(0, min(ttl, decision.ttl))

    async def put(
        self,
        question: Question,
        decision: Decision,
        stamp: str,
        *,
        deadline: float | None = None,
        replace: bool = True,
    ) -> int:
        """Store a decision.

        Args:
            question: What was asked.
            decision: What was decided.
            stamp: From the look-up that came before the evaluation.
            deadline: On the event loop's clock, in seconds.
            replace: Whether to replace what is stored by now.

        Returns:
            Seconds that it is kept; 0 when it is not cacheable, may not replace another, or could
            not be stored, which costs a later miss and is reported as an event.
        """
        ttl = self.ttl_of(question, decision)
        # Shortened, never lengthened: the tier and the policy's own ttl are upper bounds.
        ttl -= int(ttl * self._jitter * random.random())  # noqa: S311 - not cryptography
        if ttl < 1:
            return 0
        value = encode_entry(decision, stamp)
        key = self.decision_key(question)
        condition = () if replace else ("NX",)
        try:
            stored = await self._store.cache.execute(
                "SET", key, value, "EX", ttl, *condition, deadline=deadline, idempotent=True
            )
        except StoreError as error:
            self._store.hub.emit(CacheWriteFailed(question.policy, str(error)))
            return 0
        return ttl if stored else 0
