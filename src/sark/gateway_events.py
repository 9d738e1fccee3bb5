"""What is recorded of a request, and the answer that is given with it."""

from __future__ import annotations

from typing import Literal

from sark.policy import Question
from sark.policy.decisions import Outcome
from sark.ratelimit import Charge
from sark.request import Answer, Cached, Request
from sark.siem import AuditEvent, new_event_id, now

__all__ = ["answer_of", "event_of", "refusal_of_request"]


def answer_of(
    question: Question, outcome: Outcome, event: AuditEvent, ttl: int, charge: Charge
) -> Answer:
    """Build the answer that an event records."""
    return Answer(
        allow=outcome.allow,
        reason=outcome.reason,
        decision_id=event.id,
        policy=question.policy,
        cached=_cached(outcome),
        ttl=ttl,
        limits=charge.states,
    )


def event_of(request: Request, question: Question, outcome: Outcome) -> AuditEvent:
    """Build the audit event of a decision."""
    return _event(
        request,
        question,
        question.user_id,
        allow=outcome.allow,
        reason=outcome.reason,
        cached=_cached(outcome),
        revision=outcome.revision,
        engine_decision_id=outcome.engine_decision_id,
    )


def refusal_of_request(
    request: Request, question: Question, user_id: str, reason: str
) -> AuditEvent:
    """Build the audit event of a request that is refused before it is decided.

    Args:
        request: What was asked.
        question: The same, checked.
        user_id: Whom it is recorded of; empty when nobody is known to have asked.
        reason: Why.
    """
    return _event(request, question, user_id, allow=False, reason=reason, kind="refusal")


def _cached(outcome: Outcome) -> Cached:
    return outcome.source if outcome.source in {"valkey", "near"} else False


def _event(
    request: Request,
    question: Question,
    user_id: str,
    *,
    allow: bool,
    reason: str,
    kind: Literal["decision", "refusal"] = "decision",
    cached: Cached = False,
    revision: str = "",
    engine_decision_id: str = "",
) -> AuditEvent:
    return AuditEvent(
        id=new_event_id(),
        time=now(),
        type=kind,
        policy=question.policy,
        user_id=user_id,
        action=request.action,
        resource=request.resource,
        context=request.context,
        allow=allow,
        reason=reason,
        cached=cached,
        revision=revision,
        engine_decision_id=engine_decision_id,
        ip=request.ip,
        api_key_id=request.api_key_id,
    )
