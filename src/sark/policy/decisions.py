"""Decisions: near cache, Valkey, evaluation, in this order, under one rule for freshness.

``decide`` answers a question by itself. The gateway, whose look-up travels with the rate limits,
uses the same steps one by one: ``plan`` and ``glance`` before its round trip, ``settle`` after it.
"""

from __future__ import annotations

import asyncio

import msgspec
from cachebox import LRUCache

from sark.events import FreshnessUnverifiable, Looked
from sark.policy.cache import PolicyCache
from sark.policy.consistency import FAST, Consistency, Plan, plan
from sark.policy.evaluation import Evaluated, Evaluations, Flight
from sark.policy.found import CachedDecision, Found
from sark.policy.freshness import FreshnessSigner
from sark.policy.hot import HotRequests
from sark.policy.near import NO_EPOCHS, Epochs, NearEntry
from sark.policy.near_feed import NearFeed
from sark.policy.outcome import Glance, Outcome, looked
from sark.policy.question import Question
from sark.policy.sensitivity import Sensitivity

__all__ = ["Consistency", "Decisions", "Glance", "Outcome", "Plan", "looked"]


# A hot decision is evaluated again when less than this share of its life is left.
REFRESH_SHARE = 0.1
HOT_KEYS = 4096


FAST_ENOUGH = (None, "fast")


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
        self._followed = ("", cache.rules, "")
        self._revisions = ("", cache.rules, "")
        self._cooling: LRUCache[bytes, bool] = LRUCache(HOT_KEYS)

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
            InvalidRequestError: The two do not go together, or one of them is unusable.
        """
        return plan(self._signer, consistency, freshness)

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
            freshness: Freshness tokens, joined by commas.
            deadline: For the look-up, on the event loop's clock, in seconds; when left out, the
                budget of a request.

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
            # Compared by identity, which costs no call: they are the same objects until a reload.
            policies, rules, revision = self._followed
            if policies is not self.evaluations.evaluator.revision or rules is not self.cache.rules:
                revision = self._follow_revision(near)
            entry = near.get_coherent(question.key, now)
            if entry is not None:
                hot = self.hot
                if hot is not None:
                    hot.note(question, self.cache.rules)
                left = int(entry.ends - now) or 1
                return Outcome(entry.allow, entry.reason, "near", left, revision)
        wanted = self.plan(consistency, freshness)
        glance = self.glance(question, use_entry=False)
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._store_timeout
        full = wanted.consistency == "full"
        found = await self.cache.get(question, self.revision, evaluating=full, deadline=deadline)
        outcome = await self.settle(question, wanted, glance, found)
        if full and outcome.flight is not None:
            # Whoever asks next must not be answered by an earlier one.
            await outcome.flight.ttl()
        self.cache.hub.emit(Looked(question.policy, looked(outcome, glance, found)))
        return outcome

    def _follow_revision(self, near: NearFeed) -> str:
        """Empty the near cache when other policies decide: its feed tells of generations only.

        Returns:
            The revision that decides now.
        """
        policies, rules, revision = (
            self.evaluations.evaluator.revision,
            self.cache.rules,
            self.revision,
        )
        self._followed = (policies, rules, revision)
        if revision != self._near_revision:
            self._near_revision = revision
            near.cache.empty()
        return revision

    def glance(self, question: Question, *, use_entry: bool) -> Glance:
        """Look at what this process knows, before the server is asked; no I/O.

        Args:
            question: What is asked.
            use_entry: Whether a decision of the near cache may be used.
        """
        near = self.near
        if near is None:
            return Glance(None, NO_EPOCHS, asyncio.get_running_loop().time())
        now = near.now()
        # Here too, so that every entry was made under the revision that was followed last.
        self._follow_revision(near)
        entry = near.get(question.key, now) if use_entry else None
        _, policy_key, user_key = self.cache.generation_keys(question)
        return Glance(entry, near.cache.epochs(policy_key, user_key), now)

    async def settle(self, question: Question, plan: Plan, glance: Glance, found: Found) -> Outcome:
        """Decide from what the server answered; evaluates when nothing valid is at hand.

        What is evaluated while no server answers (``UNKNOWN``) is not kept.
        """
        outcome = self.settle_cached(question, plan, glance, found)
        if outcome is not None:
            return outcome
        if plan.unverifiable:
            self.cache.hub.emit(FreshnessUnverifiable())
        covered = found.is_known and plan.covered_by(found.tokens, question)
        flight = self._start(question, plan, glance, found, may_store=covered)
        evaluated = await flight.decision()
        decision = evaluated.decision
        if decision is not None and self.cache.ttl_of(question, decision):
            self._note(question)
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
        if plan.consistency == "full" or not found.is_known:
            return None
        if not plan.covered_by(found.tokens, question):
            return None
        entry = glance.entry
        if entry is not None and entry.stamp == found.stamp:
            # It leaves the near cache before it has to be evaluated ahead of its end.
            self._note(question)
            return self._near_outcome(entry, glance.at)
        cached = found.decision
        if cached is None:
            return None
        self._keep_near(question, glance, found.stamp, cached, glance.epochs)
        self._note(question)
        self._refresh_ahead(question, glance, found, cached)
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
        full = plan.consistency == "full"

        async def keep(evaluated: Evaluated) -> int:
            if not may_store or evaluated.source == "failed":
                return 0
            replacing = replace and (full or found.decision is not None)
            return await self._keep(
                question, evaluated, glance, found, replacing=replacing, replace=replace
            )

        if full or not found.is_known:
            # Of the latter nobody knows which changes they have seen.
            return self.evaluations.start(question, keep)
        # Who has seen a withdrawal doesn't join an evaluation that began before it; who demands a
        # change joins those who demanded the same one.
        return self.evaluations.join(
            question, (found.stamp, found.seen, "" if may_store else plan.freshness), keep
        )

    async def _keep(
        self,
        question: Question,
        evaluated: Evaluated,
        glance: Glance,
        found: Found,
        *,
        replacing: bool,
        replace: bool,
    ) -> int:
        """Store a decision in Valkey, then in the near cache; seconds that it is kept."""
        near = self.near
        revision = self._revision_with(evaluated.revision)
        stamp, began = found.stamp_under(revision), found.began
        # From here on others may replace it, and this process may hear of it at any moment.
        step = 0 if near is None else near.cache.step
        ttl = await self.cache.put(
            question,
            evaluated.decision,
            stamp,
            began=began,
            replacing=replacing,
            replace=replace,
            deadline=asyncio.get_running_loop().time() + self._store_timeout,
        )
        if replacing and near is not None:
            # Whatever became of it in Valkey: this process has answered with a later one.
            near.cache.replaced(question.key, began)
        decision = evaluated.decision
        # One of several engines may lag behind: its decision is nobody's near decision.
        if ttl and decision is not None and revision == self._near_revision:
            life = None if decision.ttl is None else self.cache.ttl_of(question, decision)
            kept = CachedDecision(decision.allow, decision.reason, ttl * 1000, began, life)
            epochs = self._epochs_now(question, glance, found, step)
            self._keep_near(question, glance, stamp, kept, epochs)
        return ttl

    def _epochs_now(self, question: Question, glance: Glance, found: Found, step: int) -> Epochs:
        """Tell the epochs that a decision was made in.

        A look-up that created or renewed the user's token hears of its own doing afterwards. That
        is no change to what it read, unless the user was revoked meanwhile.
        """
        noted, near = msgspec.structs.replace(glance.epochs, step=step), self.near
        if near is None or not found.user_token_touched:
            return noted
        _, policy_key, user_key = self.cache.generation_keys(question)
        now = near.cache.epochs(policy_key, user_key)
        if now.user is not noted.user or now.user_revocations != noted.user_revocations:
            return noted
        return msgspec.structs.replace(noted, user_changes=now.user_changes)

    def _keep_near(
        self,
        question: Question,
        glance: Glance,
        stamp: str,
        decision: CachedDecision,
        epochs: Epochs,
    ) -> None:
        near = self.near
        if near is None or self.cache.rules.sensitivity(question.action) is Sensitivity.HIGH:
            return
        # Counted from before the server was asked: never longer than the server's copy.
        ends = glance.at + decision.ttl_ms / 1000
        # Near the end it is asked for in Valkey again, where a hot one is noticed and evaluated.
        expires = ends - self._life(question, decision) * REFRESH_SHARE
        if expires <= near.now():
            return
        entry = NearEntry(
            allow=decision.allow,
            reason=decision.reason,
            stamp=stamp,
            began=decision.began,
            expires=expires,
            ends=ends,
            everything=epochs.everything,
            policy=epochs.policy,
            policy_changes=epochs.policy_changes,
            user=epochs.user,
            user_changes=epochs.user_changes,
        )
        near.cache.put(question.key, entry, step=epochs.step)

    def _note(self, question: Question) -> None:
        """Count a question that was answered with a decision that may be kept."""
        if self.hot is not None:
            self.hot.note(question, self.cache.rules)

    def _refresh_ahead(
        self, question: Question, glance: Glance, found: Found, decision: CachedDecision
    ) -> None:
        """Evaluate a decision again that is asked for repeatedly and about to expire."""
        if decision.ttl_ms / 1000 > self._life(question, decision) * REFRESH_SHARE:
            return
        if self._cooling.get(question.key, False):
            self._cooling.pop(question.key, None)
            self._start(question, FAST, glance, found, may_store=True)
        else:
            self._cooling.insert(question.key, True)

    def _life(self, question: Question, decision: CachedDecision) -> int:
        """How long the decision is kept as a rule, in seconds."""
        if decision.life is not None:
            return decision.life
        return self.cache.rules.ttl(question.action, self.cache.tiers)

    def _near_outcome(self, entry: NearEntry, now: float) -> Outcome:
        ttl = max(1, int(entry.ends - now))
        return Outcome(entry.allow, entry.reason, "near", ttl, self.revision)
