"""``authorize_many()``: up to a thousand questions of one user at once.

The same path as ``authorize()`` with everything shared: one script call charges all questions (all
or nothing) and reads all decisions, the misses are evaluated concurrently, and all audit events
travel together. Every question has an event and an answer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import msgspec
from msgspec.structs import replace

from sark.admission import UNVERIFIED
from sark.errors import STORE_AWAY, InvalidRequestError, SessionError
from sark.events import Decided, Looked
from sark.gateway import Gateway, ttl_of
from sark.gateway_events import answer_of, event_of
from sark.policy import UNKNOWN, Found, Question
from sark.policy.decisions import Consistency, Decisions, Glance, Outcome, Plan, looked
from sark.policy.generations import TOKEN_FRAGMENTS, fresh_nonce
from sark.ratelimit import Charge, ChargePlan, Identity
from sark.ratelimit.limits import CHARGE_FRAGMENTS, PLAIN_FRAGMENTS
from sark.ratelimit.plan import denial
from sark.request import Answer, Request
from sark.sessions import AccessClaims
from sark.sessions.checks import SessionCheck
from sark.sessions.hidden import HidesTokens
from sark.sessions.scripts import CHECK_FRAGMENTS
from sark.store import Argument, load_script

__all__ = ["MAX_QUESTIONS", "BatchQuestion", "BatchRequest", "authorize_many"]

MAX_QUESTIONS = 1000

_AUTHORIZE_MANY, _AUTHORIZE_MANY_PLAIN = (
    load_script(
        name,
        *TOKEN_FRAGMENTS,
        ("sark.policy", "lookup_many.lua"),
        *fragments,
        *CHECK_FRAGMENTS,
        ("sark", "authorize_many.lua"),
    )
    for name, fragments in (
        ("gateway.authorize_many", CHARGE_FRAGMENTS),
        ("gateway.authorize_many_plain", PLAIN_FRAGMENTS),
    )
)


class BatchQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One question of a batch.

    Attributes:
        action: What to do; 1 to 256 bytes.
        resource: What to do it to; 1 to 256 bytes.
        context: Further circumstances for the policy.
        policy: Which policy decides; the batch's when left out.
    """

    action: str
    resource: str
    context: dict[str, Any] = {}
    policy: str | None = None


class BatchRequest(HidesTokens, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Questions about one user.

    Attributes:
        user_id: Who wants to act. May be left out with an access token.
        questions: What is asked; 1 to 1,000.
        access_token: The user's token; its session has to be alive. Never shown or recorded.
        user_agent: As in a single request.
        ip: Address of the acting user, for the rate limit.
        api_key_id: Id of the api key in use, for the rate limit.
        policy: Which policy decides questions that name none.
        consistency: As in a single request, for all questions.
        freshness: As in a single request, for all questions.
    """

    user_id: str | None = None
    questions: list[BatchQuestion]
    access_token: str | None = None
    user_agent: str | None = None
    ip: str | None = None
    api_key_id: str | None = None
    policy: str | None = None
    consistency: Consistency | None = None
    freshness: str | None = None


async def authorize_many(gateway: Gateway, batch: BatchRequest, *, tier: str = "") -> list[Answer]:
    """Decide all questions of a batch, and record every answer before returning any.

    Args:
        gateway: Decides.
        batch: The questions.
        tier: As in ``Gateway.authorize``.

    Returns:
        One answer per question, in their order.

    Raises:
        InvalidRequestError: A field is unusable, or there are more questions than a window
            admits; nothing was charged or recorded.
        SessionError: The access token isn't accepted; recorded once, nothing was charged.
        LimitExceededError: A limit or the deny-list refused the batch as a whole; recorded once.
        StoreError: Valkey did not answer in time, and nothing can be decided without it.
        AuditError: Not every answer could be recorded, so none may be given.
    """
    started = perf_counter()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + gateway.budget
    batch, claims = await _identify(gateway, batch, deadline)
    requests, questions, identities = _check(gateway, batch)
    actions = [question.action for question in questions]
    tier = tier if claims is None else claims.tier
    charged = gateway.limiter.plan_many(identities, actions, tier=tier)
    decisions = gateway.decisions
    plan = decisions.plan(batch.consistency, batch.freshness)
    fast = plan.consistency == "fast"
    glances = [decisions.glance(question, use_entry=fast) for question in questions]
    if charged.denied is not None:
        raise await gateway.refuse(requests[0], questions[0], denial(charged.denied), deadline)
    try:
        session = gateway.admission.prepare(claims, batch.ip, batch.user_agent)
        charge, found = await _round_trip(gateway, questions, charged, session, deadline)
    except STORE_AWAY as error:
        charge = gateway.charge_alone(charged, claims, error)
        found = [UNKNOWN] * len(questions)
    except SessionError as error:
        await gateway.refuse_session(requests[0], questions[0], error, deadline)
        raise
    if not charge.admitted:
        raise await gateway.refuse(requests[0], questions[0], charge, deadline)
    before = loop.time()
    outcomes = await _settle(decisions, plan, list(zip(questions, glances, found, strict=True)))
    deadline += loop.time() - before
    events = [
        event_of(request, question, outcome)
        for request, question, outcome in zip(requests, questions, outcomes, strict=True)
    ]
    await gateway.queue.append_many(events, deadline=deadline)
    ttls = [await ttl_of(outcome, deadline) for outcome in outcomes]
    seconds = (perf_counter() - started) / len(questions)
    hub = gateway.store.hub
    for question, glance, each, outcome in zip(questions, glances, found, outcomes, strict=True):
        hub.emit(Looked(question.policy, looked(outcome, glance, each)))
        hub.emit(Decided(question.policy, outcome.allow, outcome.source, seconds))
    return [
        answer_of(question, outcome, event, ttl, charge)
        for question, outcome, event, ttl in zip(questions, outcomes, events, ttls, strict=True)
    ]


async def _identify(
    gateway: Gateway, batch: BatchRequest, deadline: float
) -> tuple[BatchRequest, AccessClaims | None]:
    """Verify the batch's token, if it has one, and take its user from there."""
    if batch.access_token is None:
        return batch, None
    try:
        claims = await gateway.admission.identify(
            batch.access_token,
            user_id=batch.user_id,
            ip=batch.ip,
            user_agent=batch.user_agent,
            deadline=deadline,
        )
    except SessionError as error:
        user_id = UNVERIFIED if batch.user_id is None else batch.user_id
        named = replace(batch, user_id=user_id)
        requests, questions, _ = _check(gateway, named)  # what is malformed too is not recorded
        await gateway.refuse_session(requests[0], questions[0], error, deadline)
        raise
    return replace(batch, user_id=claims.user_id), claims


async def _settle(
    decisions: Decisions, plan: Plan, asked: Sequence[tuple[Question, Glance, Found]]
) -> list[Outcome]:
    """Take what the caches have, and evaluate the rest concurrently.

    No more at a time than the engine works on: who asks for one decision meanwhile waits behind
    those, not behind the whole batch.
    """
    outcomes = [decisions.settle_cached(one, plan, glance, found) for one, glance, found in asked]
    # A question that is asked twice is evaluated once.
    missing = {
        one[0].key: one for one, outcome in zip(asked, outcomes, strict=True) if outcome is None
    }
    evaluated: dict[bytes, Outcome] = {}
    left = iter(missing.items())

    async def evaluate() -> None:
        for key, (question, glance, found) in left:
            evaluated[key] = await decisions.settle(question, plan, glance, found)

    workers = min(len(missing), decisions.evaluations.most_at_once)
    await asyncio.gather(*(evaluate() for _ in range(workers)))
    return [
        outcome or evaluated[question.key]
        for outcome, (question, _, _) in zip(outcomes, asked, strict=True)
    ]


def _check(
    gateway: Gateway, batch: BatchRequest
) -> tuple[list[Request], list[Question], tuple[Identity, ...]]:
    """Refuse unusable input before any I/O; the field says which question."""
    count = len(batch.questions)
    if not 1 <= count <= MAX_QUESTIONS:
        raise InvalidRequestError("questions", f"got {count}, expected 1 to {MAX_QUESTIONS}")
    requests, questions = [], []
    identities: tuple[Identity, ...] = ()
    for number, asked in enumerate(batch.questions):
        request = Request(
            user_id=batch.user_id,
            action=asked.action,
            resource=asked.resource,
            context=asked.context,
            ip=batch.ip,
            api_key_id=batch.api_key_id,
            policy=asked.policy if asked.policy is not None else batch.policy,
        )
        try:
            question, identities = gateway.check(request)
        except InvalidRequestError as error:
            error.field = _field(asked, number, error.field)
            raise
        requests.append(request)
        questions.append(question)
    return requests, questions, identities


def _field(asked: BatchQuestion, number: int, field: str) -> str:
    root = field.partition(".")[0].partition("[")[0]
    own = root in {"action", "resource", "context"} or (root == "policy" and asked.policy)
    return f"questions[{number}].{field}" if own else field


async def _round_trip(
    gateway: Gateway,
    questions: Sequence[Question],
    charged: ChargePlan,
    session: SessionCheck,
    deadline: float,
) -> tuple[Charge, list[Found]]:
    """Check, charge and look up; nothing is looked up when a limit refused."""
    cache = gateway.decisions.cache
    policies = list(dict.fromkeys(question.policy for question in questions))
    arguments: list[Argument] = [
        *session.arguments,
        len(charged.keys),
        fresh_nonce(),
        cache.generations.user_token_ttl_ms,
        len(policies),
        *charged.arguments,
    ]
    names = gateway.store.keys
    keys = [*session.keys, *charged.keys]
    keys += [names.policy_generation, names.policy_user_version(questions[0].user_id)]
    keys += [names.policy_version(policy) for policy in policies]
    script = _AUTHORIZE_MANY_PLAIN if charged.selection.plain else _AUTHORIZE_MANY
    state = gateway.store.state
    if gateway.store.shared:
        keys += [cache.decision_key(question) for question in questions]
        reply = await state.run(script, keys, arguments, deadline=deadline)
        read = None
    else:
        reply, read = await asyncio.gather(
            state.run(script, keys, arguments, deadline=deadline),
            cache.read_many(questions, deadline=deadline - gateway.budget / 2),
        )
    gateway.admission.judge(questions[0].user_id, reply.value[0])
    charge = gateway.limiter.read(charged, reply.value[1])
    if not charge.admitted:
        return charge, []
    (everything, user, *versions), values, ttls, at = reply.value[2]
    if not gateway.store.shared:
        values, ttls = read or (None, None)
    tokens = {
        policy: (everything, version, user)
        for policy, version in zip(policies, versions, strict=True)
    }
    revision = gateway.decisions.revision
    found = [
        cache.judge_split(
            (*tokens[question.policy], None, -2, at),
            None if values is None else [values[number], ttls[number]],
            reply.run_id,
            revision,
        )
        for number, question in enumerate(questions)
    ]
    return charge, found
