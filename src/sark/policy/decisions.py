"""Decisions: near cache, Valkey, evaluation, in this order, under one rule for freshness.

``decide`` answers a question by itself. The gateway, whose look-up travels with the rate limits,
uses the same steps one by one: ``plan`` and ``glance`` before its round trip, ``settle`` after it.

Consistency is chosen per request, in the manner of SpiceDB:

- ``fast`` (default): any valid decision, the near cache's included;
- ``fresh``: the request carries a freshness token; nothing from before that change is served;
- ``full``: evaluated now, then stored.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from cachebox import LRUCache

from sark.errors import InvalidRequestError
from sark.policy.cache import CachedDecision, Found, PolicyCache
from sark.policy.decision import Decision
from sark.policy.evaluation import Evaluated, Evaluations, Flight
from sark.policy.freshness import MAX_TOKEN_BYTES, Freshness, FreshnessSigner
from sark.policy.hot import HotRequests
from sark.policy.near import Epochs, NearEntry
from sark.policy.near_feed import NearFeed
from sark.policy.question import Question
from sark.policy.sensitivity import Sensitivity

__all__ = ["Consistency", "Decisions", "Glance", "Outcome", "Plan"]

Consistency = Literal["fast", "fresh", "full"]
Source = Literal["near", "valkey", "evaluated", "undefined", "failed"]

# A hot decision is evaluated again when less than this share of its life is left.
REFRESH_SHARE = 0.1
HOT_KEYS = 4096


class Plan(msgspec.Struct, frozen=True):
    """What an answer has to satisfy.

    Attributes:
        consistency: As the request asks.
        required: The change that it must be no older than.
        unverifiable: A freshness token came that we did not sign.
    """

    consistency: Consistency = "fast"
    required: Freshness | None = None
    unverifiable: bool = False


FAST = Plan()
FAST_ENOUGH = (None, "fast")


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


class Decisions:
    """See the module's description.

    Args:
        cache: The decisions in Valkey.
        near: The decisions in this process, with what keeps them coherent; None without.
        evaluations: Decides what no cache knows.
        signer: Verifies freshness tokens.
        store_timeout: Seconds for storing a new decision; who asked waits for it.
        hot: Hears of what is asked, to warm caches from; None without.
    """

    def __init__(
        self,
        cache: PolicyCache,
        near: NearFeed | None,
        evaluations: Evaluations,
        signer: FreshnessSigner,
        *,
        store_timeout: float,
        hot: HotRequests | None = None,
    ) -> None:
        self.cache = cache
        self.near = near
        self.evaluations = evaluations
        self.hot = hot
        self._signer = signer
        self._store_timeout = store_timeout
        self._near_revision = ""
        self._revisions = ("", cache.rules, "")
        self._cooling: LRUCache[bytes, bool] = LRUCache(HOT_KEYS)
        self._lives: LRUCache[bytes, int] = LRUCache(HOT_KEYS)

    @property
    def revision(self) -> str:
        """Of everything that decides: the policies and the policy file."""
        return self._revision_with(self.evaluations.evaluator.revision)

    def _revision_with(self, policies: str) -> str:
        rules = self.cache.rules
        if rules.path is None:
            return policies
        # The same text each time, so that who compares it need not read it.
        known = self._revisions
        if known[0] != policies or known[1] is not rules:
            self._revisions = known = (policies, rules, f"{policies}+{rules.revision}")
        return known[2]

    def plan(self, consistency: Consistency | None, freshness: str | None) -> Plan:
        """Work out what an answer has to satisfy; no I/O.

        Raises:
            InvalidRequestError: The two do not go together, or the token is too long.
        """
        if freshness is None:
            if consistency is None or consistency == "fast":
                return FAST
            if consistency == "fresh":
                reason = "is missing; consistency 'fresh' needs a freshness token"
                raise InvalidRequestError("freshness", reason)
            return Plan(consistency)
        if consistency == "fast":
            reason = "got 'fast' with a freshness token, expected 'fresh' or 'full'"
            raise InvalidRequestError("consistency", reason)
        if len(freshness) > MAX_TOKEN_BYTES:
            reason = f"got {len(freshness)} characters, expected at most {MAX_TOKEN_BYTES}"
            raise InvalidRequestError("freshness", reason)
        required = self._signer.verify(freshness)
        return Plan(consistency or "fresh", required, unverifiable=required is None)

    async def decide(
        self,
        question: Question,
        *,
        consistency: Consistency | None = None,
        freshness: str | None = None,
        deadline: float | None = None,
    ) -> Outcome:
        """Decide a question without rate limits and audit.

        Args:
            question: What is asked.
            consistency: ``fast``, ``fresh`` or ``full``.
            freshness: A freshness token.
            deadline: For the look-up, on the event loop's clock, in seconds.

        Returns:
            The decision. From the near cache it costs no round trip and may be as old as the
            near cache's bound; otherwise one round trip on a hit.

        Raises:
            InvalidRequestError: ``consistency`` and ``freshness`` do not go together.
            StoreError: The ``state`` server did not answer.
        """
        near = self.near
        if near is not None and freshness is None and consistency in FAST_ENOUGH:
            now = near.now()
            revision = self.revision
            if revision is not self._near_revision:
                self._follow_revision(near)
            entry = near.get_coherent(question.key, now)
            if entry is not None:
                hot = self.hot
                if hot is not None:
                    hot.note(question, self.cache.rules)
                left = int(entry.ends - now) or 1
                return Outcome(entry.allow, entry.reason, "near", left, revision)
        plan = self.plan(consistency, freshness)
        glance = self.glance(question, use_entry=False)
        found = await self.cache.get(question, self.revision, deadline=deadline)
        return await self.settle(question, plan, glance, found)

    def _follow_revision(self, near: NearFeed) -> None:
        """Empty the near cache when other policies decide: its feed tells of generations only."""
        revision = self.revision
        if revision != self._near_revision:
            self._near_revision = revision
            near.cache.empty()

    def glance(self, question: Question, *, use_entry: bool) -> Glance:
        """Look at what this process knows, before the server is asked; no I/O.

        Args:
            question: What is asked.
            use_entry: Whether a decision of the near cache may be used.
        """
        near = self.near
        if near is None:
            return Glance(None, (0, 0, 0), asyncio.get_running_loop().time())
        now = near.now()
        # Here too, so that every entry was made under the revision that was followed last.
        self._follow_revision(near)
        entry = near.get(question.key, now) if use_entry else None
        _, policy_key, user_key = self.cache.generation_keys(question)
        return Glance(entry, near.cache.epochs(policy_key, user_key), now)

    async def settle(self, question: Question, plan: Plan, glance: Glance, found: Found) -> Outcome:
        """Decide from what the server answered; evaluates when nothing valid is at hand."""
        outcome = self.settle_cached(question, plan, glance, found)
        if outcome is not None:
            return outcome
        covered = self._covers(question, plan, found)
        flight = self._start(question, plan, glance, found, may_store=covered)
        evaluated = await flight.decision()
        decision = evaluated.decision
        if self.hot is not None and decision and self.cache.ttl_of(question, decision):
            self.hot.note(question, self.cache.rules)
        return Outcome(
            evaluated.allow,
            evaluated.reason,
            evaluated.source,
            0,
            self._revision_with(evaluated.revision),
            flight,
            evaluated.engine_decision_id,
        )

    def settle_cached(
        self, question: Question, plan: Plan, glance: Glance, found: Found
    ) -> Outcome | None:
        """Decide from a cache, if a decision there is valid and fresh enough; no I/O."""
        if plan.consistency == "full" or not self._covers(question, plan, found):
            return None
        entry = glance.entry
        if entry is not None and entry.stamp == found.stamp:
            self._refresh_ahead(question, glance, found, entry.ends - glance.at)
            return self._near_outcome(entry, glance.at)
        cached = found.decision
        if cached is None:
            return None
        self._keep_near(question, glance, found.stamp, cached)
        self._refresh_ahead(question, glance, found, cached.ttl_ms / 1000)
        return Outcome(cached.allow, cached.reason, "valkey", cached.ttl, self.revision)

    def fill(
        self, question: Question, glance: Glance, found: Found, *, replace: bool = True
    ) -> Flight:
        """Start to evaluate and store what nobody asked for now, such as to warm the cache.

        Args:
            question: What to evaluate.
            glance: From before the look-up.
            found: The look-up, from before this call: its stamp bounds the decision's validity.
            replace: Whether the decision may replace one that was stored meanwhile.
        """
        return self._start(question, FAST, glance, found, may_store=True, replace=replace)

    def _covers(self, question: Question, plan: Plan, found: Found) -> bool:
        """Whether the server's generations are as fresh as the request demands.

        One that is newer than what the server holds was lost in a failover. What is decided now is
        right, but must not be kept: the server's tokens don't stand for it.
        """
        if plan.unverifiable:
            return False
        required = plan.required
        if required is None or not required.concerns(question.policy, question.user_id):
            return True
        index = ("all", "policy", "user").index(required.scope)
        return required.is_covered_by(found.tokens[index])

    def _start(
        self,
        question: Question,
        plan: Plan,
        glance: Glance,
        found: Found,
        *,
        may_store: bool,
        replace: bool = True,
    ) -> Flight:
        async def keep(evaluated: Evaluated) -> int:
            if not may_store or evaluated.decision is None:
                return 0
            revision = self._revision_with(evaluated.revision)
            stamp = found.stamp_under(revision)
            deadline = asyncio.get_running_loop().time() + self._store_timeout
            ttl = await self.cache.put(
                question, evaluated.decision, stamp, deadline=deadline, replace=replace
            )
            self._note_life(question, evaluated.decision)
            # One of several engines may lag behind: its decision is nobody's near decision.
            if ttl and revision == self._near_revision:
                kept = CachedDecision(evaluated.allow, evaluated.reason, ttl * 1000)
                self._keep_near(question, glance, stamp, kept)
            return ttl

        if plan.consistency == "full" or not may_store:
            return self.evaluations.start(question, keep)
        return self.evaluations.join(question, found.stamp, keep)

    def _keep_near(
        self,
        question: Question,
        glance: Glance,
        stamp: str,
        decision: CachedDecision,
    ) -> None:
        near = self.near
        if near is None or self.cache.rules.sensitivity(question.action) is Sensitivity.HIGH:
            return
        # Counted from before the server was asked: never longer than the server's copy.
        ends = glance.at + decision.ttl_ms / 1000
        # Near the end it is asked for in Valkey again, where a hot one is noticed and evaluated.
        expires = ends - self._life(question) * REFRESH_SHARE
        if expires <= near.now():
            return
        _, policy_key, user_key = self.cache.generation_keys(question)
        entry = NearEntry(
            allow=decision.allow,
            reason=decision.reason,
            stamp=stamp,
            expires=expires,
            ends=ends,
            all_epoch=glance.epochs[0],
            policy_epoch=glance.epochs[1],
            user_epoch=glance.epochs[2],
            policy_key=policy_key,
            user_key=user_key,
        )
        near.cache.put(question.key, entry)

    def _refresh_ahead(
        self, question: Question, glance: Glance, found: Found, seconds_left: float
    ) -> None:
        """Evaluate a decision again that is asked for repeatedly and about to expire.

        Every answer from a cache comes by here, so it is noted here, too.
        """
        if self.hot is not None:
            self.hot.note(question, self.cache.rules)
        if seconds_left > self._life(question) * REFRESH_SHARE:
            return
        if self._cooling.get(question.key, False):
            self._cooling.pop(question.key, None)
            self._start(question, FAST, glance, found, may_store=True)
        else:
            self._cooling.insert(question.key, True)

    def _life(self, question: Question) -> int:
        """How long the decision is kept as a rule, in seconds."""
        life = self.cache.rules.ttl(question.action, self.cache.tiers)
        return self._lives.get(question.key, life)

    def _note_life(self, question: Question, decision: Decision) -> None:
        """Remember a life that the policy chose, or it would always seem to be about to end."""
        if decision.ttl is None:
            self._lives.pop(question.key, None)
        else:
            self._lives.insert(question.key, self.cache.ttl_of(question, decision))

    def _near_outcome(self, entry: NearEntry, now: float) -> Outcome:
        ttl = max(1, int(entry.ends - now))
        return Outcome(entry.allow, entry.reason, "near", ttl, self.revision)
