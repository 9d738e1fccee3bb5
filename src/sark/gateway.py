"""``authorize()``: the request path, composed of the functions.

::

    no I/O         verify the access token, if there is one, and check the fields
    round trip 1   check the session, charge the rate limits and look the decision up, in one
                   script call (a split deployment asks the cache server at the same time)
    on a miss      evaluate; store the decision while the audit event is appended
    round trip 2   append the audit event, shared with concurrent requests

All round trips of a request share one budget. The time that an evaluation takes is not part of
it: the evaluator has a deadline of its own. No answer leaves before its audit event was accepted.

While Valkey does not answer, limits are what the limiter makes of it, the decision is evaluated and
not kept, and the audit event goes to the spill store. Where a session has to be checked there is no
answer then, nor where there is no spill store.

A decision of the near cache leaves out only its own read: round trip 1 still brings the current
generations, and the near decision is used only if they are the ones that it was made under.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from msgspec.structs import replace

from sark.admission import AUTHENTICATE, UNVERIFIED, Admission
from sark.errors import (
    STORE_AWAY,
    InvalidRequestError,
    LimitExceededError,
    SessionError,
    StoreError,
    UnknownPolicyError,
)
from sark.events import Decided, LimitRefused, Looked
from sark.gateway_events import answer_of, event_of, refusal_of_request
from sark.policy import UNKNOWN, Found, JsonValue, Question
from sark.policy.decisions import Decisions, Glance, Outcome, looked
from sark.policy.generations import LOOKUP_FRAGMENTS, fresh_nonce
from sark.policy.question import MAX_ID_BYTES, check_context, check_size, check_text
from sark.ratelimit import Charge, ChargePlan, Identity, RateLimiter, canonical_ip
from sark.ratelimit.limits import CHARGE_FRAGMENTS, PLAIN_FRAGMENTS
from sark.ratelimit.named import refusal_of
from sark.ratelimit.plan import denial
from sark.request import Answer, Request
from sark.sessions import AccessClaims, Sessions
from sark.sessions.checks import SessionCheck
from sark.sessions.scripts import CHECK_FRAGMENTS
from sark.siem import AuditEvent, EventQueue, LateEvents, Refusals, new_event_id, now
from sark.store import Argument, Deadline, Store, load_script

__all__ = [
    "Answer",
    "Gateway",
    "Request",
    "ttl_of",
]

# The clock and the tokens come first: fragments may use what stands before them.
_AUTHORIZE, _AUTHORIZE_PLAIN = (
    load_script(name, *LOOKUP_FRAGMENTS, *fragments, *CHECK_FRAGMENTS, ("sark", "authorize.lua"))
    for name, fragments in (
        ("gateway.authorize", CHARGE_FRAGMENTS),
        ("gateway.authorize_plain", PLAIN_FRAGMENTS),
    )
)

# What the script returns of a request that is not refused: session, charge, look-up.
_ADMITTED_PARTS = 3

REASON_UNAUTHENTICATED = "unauthenticated"
UNAUTHENTICATED_WINDOW_SECONDS = 60


class Gateway:
    """Answers requests. Safe to share between tasks of one event loop.

    Args:
        store: The servers.
        policies: Names of the policies that are served, the default first.
        decisions: Decides by policy.
        limiter: The rate limits.
        queue: Takes the audit events.
        budget: Seconds for all round trips of one request.
        sessions: Checks access tokens; without it requests can't carry one.
    """

    def __init__(
        self,
        store: Store,
        *,
        policies: Sequence[str],
        decisions: Decisions,
        limiter: RateLimiter,
        queue: EventQueue,
        budget: float,
        sessions: Sessions | None = None,
    ) -> None:
        self.store = store
        self.policies = tuple(policies)
        self.decisions = decisions
        self.queue = queue
        self.refusals = Refusals(
            store,
            queue.sinks,
            queue.bounds,
            replicas=queue.replicas,
            spill=queue.spill,
            encode=queue.encode,
        )
        self.limiter = limiter
        self.budget = budget
        self.late = LateEvents(queue, store.hub)
        self.admission = Admission(
            sessions,
            refusals=self.refusals,
            queue=queue,
            late=self.late,
            limiter=limiter,
            hub=store.hub,
            budget=budget,
        )

    async def authorize(self, request: Request, *, tier: str = "") -> Answer:
        """Decide a request, and record the answer before returning it.

        Args:
            request: What is asked.
            tier: The caller's plan, by a verified claim; rules of limits may look at it.

        Returns:
            The answer, allow or deny.

        Raises:
            InvalidRequestError: A field is unusable; nothing was charged or recorded.
            SessionError: The access token isn't accepted; recorded, charged to the address.
            LimitExceededError: A rate limit refused, or the deny-list (``LimitDeniedError``);
                recorded.
            StoreError: Valkey did not answer in time, and nothing can be decided without it.
            AuditError: The answer could not be recorded, so it may not be given.
        """
        started = perf_counter()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.budget
        claims = None
        if request.access_token is not None:
            request, claims = await self._identify(request, deadline)
        question, identities = self.check(request)
        plan = self.decisions.plan(request.consistency, request.freshness)
        glance = self.decisions.glance(question, use_entry=plan.consistency == "fast")
        tier = tier if claims is None else claims.tier
        charged = self.limiter.plan(identities, action=request.action, tier=tier)
        if charged.denied is not None:
            raise await self.refuse(request, question, denial(charged.denied), deadline)
        try:
            session = self.admission.prepare(claims, request.ip, request.user_agent)
            charge, found = await self._round_trip(question, charged, glance, session, deadline)
        except STORE_AWAY as error:
            charge, found = self.charge_alone(charged, claims, error), UNKNOWN
        except SessionError as error:
            await self.refuse_session(request, question, error, deadline)
            raise
        if not charge.admitted:
            raise await self.refuse(request, question, charge, deadline)
        before = loop.time()
        outcome = await self.decisions.settle(question, plan, glance, found)
        self.store.hub.emit(Looked(question.policy, looked(outcome, glance, found)))
        deadline += loop.time() - before
        event = event_of(request, question, outcome)
        await self.queue.append(event, deadline=deadline)
        ttl = await ttl_of(outcome, deadline)
        seconds = perf_counter() - started
        self.store.hub.emit(Decided(question.policy, outcome.allow, outcome.source, seconds))
        return answer_of(question, outcome, event, ttl, charge)

    async def _identify(self, request: Request, deadline: float) -> tuple[Request, AccessClaims]:
        """Verify a request's token, and take its user from there."""
        try:
            claims = await self.admission.identify(
                request.access_token,
                user_id=request.user_id,
                ip=request.ip,
                user_agent=request.user_agent,
                deadline=deadline,
            )
        except SessionError as error:
            # What is malformed too is not recorded.
            user_id = UNVERIFIED if request.user_id is None else request.user_id
            question, _ = self.check(replace(request, user_id=user_id))
            await self.refuse_session(request, question, error, deadline)
            raise
        return replace(request, user_id=claims.user_id), claims

    async def refuse_session(
        self, request: Request, question: Question, error: SessionError, deadline: float
    ) -> None:
        """Record that a token or session was refused, and note the event's id in the error.

        Raises:
            AuditError: The refusal could not be recorded.
        """
        reason = f"session:{error.code}"
        event = refusal_of_request(request, question, error.user_id, reason)
        await self.admission.record(error, event, deadline)

    async def refuse_unauthenticated(
        self, peer: str, path: str, *, charged: Identity | None = None
    ) -> str:
        """Record that a caller without valid credential was refused, and charge it.

        Args:
            peer: The caller's address; its refusals are recorded together for a minute.
            path: What it asked for.
            charged: Whose rate limit counts it; left out, nobody's.

        Returns:
            The id of the audit event.

        Raises:
            LimitExceededError: It is refused too often; recorded.
            AuditError: The refusal could not be recorded.
            StoreError: The server did not answer, and limits are to be closed then.
        """
        deadline = asyncio.get_running_loop().time() + self.budget
        if charged is not None:
            await self.admission.charge([charged], action=AUTHENTICATE, ip=peer, deadline=deadline)
        event = AuditEvent(
            id=new_event_id(),
            time=now(),
            type="refusal",
            policy="",
            user_id="",
            action=path[:MAX_ID_BYTES],
            resource="",
            context={},
            allow=False,
            reason=REASON_UNAUTHENTICATED,
            ip=peer,
        )
        return await self.refusals.record(
            f"unauthenticated:{peer}",
            event,
            identity=f"ip:{peer}",
            seconds_left=UNAUTHENTICATED_WINDOW_SECONDS,
            deadline=deadline,
        )

    def check_policy(self, policy: str) -> None:
        """Refuse a policy that is not served."""
        if policy not in self.policies:
            known = ", ".join(self.policies)
            raise UnknownPolicyError("policy", f"got {policy[:64]!r}, expected one of: {known}")

    def check(self, request: Request) -> tuple[Question, tuple[Identity, ...]]:
        """Refuse unusable input before any I/O."""
        policy = self.policies[0] if request.policy is None else request.policy
        self.check_policy(policy)
        ip = None if request.ip is None else canonical_ip(request.ip)
        if request.api_key_id is not None:
            check_text("api_key_id", request.api_key_id)
        context: dict[str, JsonValue] = request.context
        rules = self.decisions.cache.rules
        seen = rules.project(policy, context, ip, request.api_key_id)
        if seen is not context:
            # What the policy does not see is recorded all the same, so it is checked as well.
            check_context(context)
            check_size(context)
        user_id = request.user_id
        if user_id is None:
            raise InvalidRequestError("user_id", "is missing, and there is no access_token")
        question = Question.ask(policy, user_id, request.action, request.resource, seen)
        identities = self.limiter.identities(user_id, ip, request.api_key_id)
        return question, identities

    async def _round_trip(
        self,
        question: Question,
        charged: ChargePlan,
        glance: Glance,
        session: SessionCheck,
        deadline: float,
    ) -> tuple[Charge, Found]:
        """Check, charge and look up; nothing is looked up when a limit refused."""
        cache = self.decisions.cache
        revision = self.decisions.revision
        arguments: list[Argument] = [
            *session.arguments,
            len(charged.keys),
            fresh_nonce(),
            cache.generations.user_token_ttl_ms,
            *charged.arguments,
        ]
        keys = [*session.keys, *charged.keys, *cache.generation_keys(question)]
        script = _AUTHORIZE_PLAIN if charged.selection.plain else _AUTHORIZE
        state = self.store.state
        if glance.entry is not None:
            # The tokens judge what is at hand; there is nothing to read.
            reply = await state.run(script, keys, arguments, deadline=deadline)
            cached: list[Any] | None = [None, -2]
        elif self.store.shared:
            keys.append(cache.decision_key(question))
            reply = await state.run(script, keys, arguments, deadline=deadline)
            cached = reply.value[2][3:5] if len(reply.value) == _ADMITTED_PARTS else None
        else:
            reply, cached = await asyncio.gather(
                state.run(script, keys, arguments, deadline=deadline),
                # A cache that hangs must leave time to record what is then evaluated.
                cache.read(question, deadline=deadline - self.budget / 2),
            )
        self.admission.judge(question.user_id, reply.value[0])
        charge = self.limiter.read(charged, reply.value[1])
        if not charge.admitted:
            return charge, UNKNOWN
        return charge, cache.judge_split(reply.value[2], cached, reply.run_id, revision)

    def charge_alone(
        self, charged: ChargePlan, claims: AccessClaims | None, error: StoreError
    ) -> Charge:
        """Charge a request while Valkey does not answer; no I/O.

        Raises:
            StoreError: That of Valkey: the request has a session, which nobody can check, its event
                could not be recorded, or the limits are to be closed.
        """
        if claims is not None or self.queue.spill is None:
            raise error
        return self.limiter.without_store(charged, error)

    async def refuse(
        self, request: Request, question: Question, charge: Charge, deadline: float
    ) -> LimitExceededError:
        """Record a refusal and build the error that tells it."""
        assert charge.refused is not None  # noqa: S101 - a refused charge names who refused
        kind, identity = charge.refused
        reason = f"rate_limit:{kind}"
        event = refusal_of_request(request, question, question.user_id, reason)
        recorded_as = await self.refusals.record(
            charge.name,
            event,
            identity=f"{kind}:{identity}",
            seconds_left=charge.refused_for,
            deadline=deadline,
        )
        self.store.hub.emit(LimitRefused(kind, charge.policy))
        return refusal_of(charge, recorded_as)


async def ttl_of(outcome: Outcome, deadline: float) -> int:
    """Tell how long a decision is kept, in seconds; waits until a new one has been stored.

    One that is not stored by the deadline counts as not kept: the answer does not wait for it.
    """
    flight = outcome.flight
    if flight is None:
        return outcome.ttl
    if not flight.stored.done():
        try:
            with Deadline(deadline):
                return await flight.ttl()
        except TimeoutError:
            return 0
    return flight.stored.result()
