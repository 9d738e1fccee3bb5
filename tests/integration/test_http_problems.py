"""Which error becomes which problem document, without a service."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from sark import errors
from sark.errors import (
    AuditError,
    ConfigurationError,
    EvaluationError,
    InvalidRequestError,
    LeaseError,
    LimitDeniedError,
    LimitExceededError,
    QueueFullError,
    SarkError,
    SessionCapError,
    SessionEndedError,
    SinkError,
    StoreCommandError,
    StoreTimeoutError,
    StoreUnavailableError,
    TokenError,
    UnknownPolicyError,
    UnreadableEventError,
    UserMismatchError,
)
from sark.http import problems
from sark.ratelimit import LimitState

SECRET_PLACE = "10.1.2.3:6379"


def app_that_raises(error: Exception) -> FastAPI:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    return app


async def get(app: FastAPI, path: str = "/") -> tuple[int, dict[str, str], dict[str, Any]]:
    """Ask an application without a server; what it raises again is the server's to log."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    try:
        await app(scope, receive, send)
    except ZeroDivisionError:
        logging.getLogger("test").info("raised again")
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequestError("context.a", "why"), 422, "invalid-request"),
        (TokenError("expired", "it has expired"), 401, "unauthenticated"),
        (SessionEndedError("revoked", "it was revoked"), 401, "unauthenticated"),
        (UserMismatchError("user", "another user's"), 403, "other-user"),
        (LimitDeniedError("ip", decision_id="id-1"), 403, "limit-denied"),
        (SessionCapError("cap", "5 sessions, expected fewer"), 409, "session-cap"),
        (UnknownPolicyError("policy", "why"), 422, "invalid-request"),
        (StoreUnavailableError(f"{SECRET_PLACE} is down"), 503, "store-unavailable"),
        (StoreTimeoutError(f"{SECRET_PLACE}: no answer"), 503, "store-unavailable"),
        (StoreCommandError(f"{SECRET_PLACE}: OOM"), 503, "store-unavailable"),
        (AuditError(f"not accepted: {SECRET_PLACE}"), 503, "audit-unavailable"),
        (QueueFullError("full", retry_after=4.2), 503, "audit-queue-full"),
        (EvaluationError(SECRET_PLACE), 500, "internal"),
        (ConfigurationError(SECRET_PLACE), 500, "internal"),
        (ZeroDivisionError(SECRET_PLACE), 500, "internal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_errors_become_problems(error: Exception, status: int, kind: str) -> None:
    found, headers, problem = await get(app_that_raises(error))
    assert (found, problem["status"]) == (status, status)
    assert problem["type"] == f"urn:sark:problem:{kind}"
    assert headers["content-type"] == "application/problem+json"
    assert SECRET_PLACE not in str(problem)
    assert ("retry-after" in headers) is (status == 503)


async def test_the_field_and_the_reason_are_told() -> None:
    _, _, problem = await get(app_that_raises(InvalidRequestError("context.a", "why")))
    assert (problem["field"], problem["detail"]) == ("context.a", "why")


async def test_retry_after_is_rounded_up() -> None:
    _, headers, problem = await get(app_that_raises(QueueFullError("full", retry_after=4.2)))
    assert (headers["retry-after"], problem["retry_after"]) == ("5", 5)
    _, headers, _ = await get(app_that_raises(AuditError("away", retry_after=0.0)))
    assert headers["retry-after"] == "1"


async def test_a_refused_limit_carries_the_windows() -> None:
    state = LimitState("ip", 5, 0, 42, 60, "ip")
    error = LimitExceededError("ip", retry_after=42, limits=(state,), decision_id="id-1")
    status, headers, problem = await get(app_that_raises(error))
    assert (status, headers["retry-after"]) == (429, "42")
    assert (problem["limit"], problem["decision_id"]) == ("ip", "id-1")
    assert (problem["policy"], problem["quota"], problem["window"]) == ("ip", 5, 60)
    assert problem["violated-policies"] == ["ip"]
    assert problem["limits"] == [
        {"kind": "ip", "limit": 5, "remaining": 0, "reset": 42, "window": 60, "policy": "ip"}
    ]


async def test_a_refused_token_is_answered_with_a_challenge() -> None:
    error = TokenError("issuer", 'got "x"\n\\ü, expected another')
    status, headers, problem = await get(app_that_raises(error))
    assert (status, problem["code"]) == (401, "issuer")
    assert headers["www-authenticate"] == (
        'Bearer realm="sark", error="invalid_token", '
        "error_description=\"got 'x', expected another\""
    )


def test_every_error_of_ours_was_thought_of() -> None:
    """A new error must not become a 500 unnoticed."""
    named = [getattr(errors, name) for name in errors.__all__]
    ours: set[type[SarkError]] = {each for each in named if isinstance(each, type)}
    # Caught where they arise: by the decisions, the forwarders and what tries a sink.
    inner = ConfigurationError | EvaluationError | LeaseError | SinkError | UnreadableEventError
    bugs = {e for e in ours if issubclass(e, inner)} | {SarkError}
    for error in ours - bugs:
        made = error.__new__(error)
        made.__dict__.update(
            field="",
            reason="",
            retry_after=1,
            limits=(),
            kind="user",
            policy="user",
            decision_id="",
            code="",
            ended=(),
            freshness="",
        )
        assert problems.problem_of(made).status != 500, error
    for error in bugs:
        assert problems.problem_of(error.__new__(error)).status == 500
