"""Errors as problem documents (RFC 9457), and which error becomes which status."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import get_args

import msgspec
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sark.errors import (
    AuditError,
    BreakerOpen,
    InvalidRequestError,
    IssuerUnavailableError,
    LimitDeniedError,
    LimitExceededError,
    QueueFullError,
    SarkError,
    SessionCapError,
    SessionError,
    StoreError,
    UserMismatchError,
)
from sark.http.ratelimit_fields import LIMIT_DENIED, QUOTA_EXCEEDED, LimitFields, refusing, told
from sark.ops.quiet import Quiet
from sark.policy.consistency import Consistency
from sark.ratelimit import LimitState

__all__ = [
    "HttpError",
    "Problem",
    "install",
    "invalid_body",
    "limit_response",
    "malformed_body",
    "problem_response",
]

_log = structlog.stdlib.get_logger("sark.http")
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
# Members of the request itself, or of a batch's questions: the only objects with declared members.
_MEMBER = re.compile(
    r"Object (?:missing required|contains unknown) field `(?P<name>.*?)`"
    r"(?: - at `\$\.(?P<of>questions\[\d+\])`)?",
    re.DOTALL,
)
_ANY_MEMBER = "[...]"
_ENUM = "Invalid enum value "
_CHOICES = {"consistency": get_args(Consistency)}


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document.

    Attributes:
        type: Identifies the kind of problem.
        title: The kind, for people.
        status: The HTTP status.
        detail: What happened this time.
        field: The offending field of the request.
        retry_after: Seconds after which asking again makes sense.
        limit: Which identity's limit refused: ``user``, ``ip`` or ``apikey``.
        policy: Name of the limit that refused; ``deny`` for the deny-list.
        quota: Most requests in its window.
        window: Length of its window in seconds.
        violated_policies: Names of all limits that refused.
        limits: Each limit's state; without those in shadow mode, which are nothing to clients.
        decision_id: Id of the audit event of a refusal.
        code: Why a session or token was not accepted, such as ``expired``.
        ended: Sessions that have ended, though that could not be recorded yet.
        freshness: Likewise: makes later requests at least as fresh.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    field: str = ""
    retry_after: int = 0
    limit: str = ""
    policy: str = ""
    quota: int = 0
    window: int = 0
    # The name that draft-ietf-httpapi-ratelimit-headers-11 gives it, section 5.1.
    violated_policies: tuple[str, ...] = msgspec.field(default=(), name="violated-policies")
    limits: tuple[LimitState, ...] = ()
    decision_id: str = ""
    code: str = ""
    ended: tuple[str, ...] = ()
    freshness: str = ""


class HttpError(Exception):
    """An error that only exists over HTTP, such as a missing credential.

    Attributes:
        problem: What to answer.
        headers: Headers to add.
    """

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = dict(headers or {})


_encode = msgspec.json.Encoder().encode


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Render a problem document."""
    sent = dict(headers or {})
    if problem.retry_after:
        sent["Retry-After"] = str(problem.retry_after)
    return Response(_encode(problem), problem.status, sent, media_type="application/problem+json")


def limit_response(error: LimitExceededError, fields: LimitFields) -> Response:
    """Render the refusal of a rate limit: 429, and when to ask again; 403 of the deny-list."""
    problem = _limited(error)
    response = Response(_encode(problem), problem.status, media_type="application/problem+json")
    response.raw_headers += fields.refused(problem.limits, error.policy, error.retry_after)
    return response


def problem_of(error: SarkError) -> Problem:
    """Describe an error of ours to an HTTP client. Addresses of servers stay in the logs."""
    match error:
        case InvalidRequestError():
            return Problem(
                "urn:sark:problem:invalid-request",
                "Invalid request",
                422,
                error.reason,
                error.field,
            )
        case LimitExceededError():
            return _limited(error)
        case SessionError():
            return _refused_session(error)
        case AuditError() | StoreError() | IssuerUnavailableError() | BreakerOpen():
            return _unavailable(error)
        case _:
            return Problem("urn:sark:problem:internal", "Internal error", 500)


def invalid_body(error: msgspec.MsgspecError) -> HttpError:
    """Describe a body that is not the expected JSON, naming the field where there is one."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return malformed_body(text)
    member, path = _MEMBER.fullmatch(text), _PATH.search(text)
    if member:
        names = [name for name in (member["of"], member["name"]) if name is not None]
        field, detail = ".".join(names), _PATH.sub("", text) if member["of"] else text
    elif path:
        field, detail = path["path"].replace(_ANY_MEMBER, ""), _PATH.sub("", text)
    else:
        field, detail = "", text
    choices = _CHOICES.get(field)
    if choices and detail.startswith(_ENUM):
        detail = f"got {detail.removeprefix(_ENUM)}, expected one of: {', '.join(choices)}"
    return HttpError(
        Problem("urn:sark:problem:invalid-request", "Invalid request", 422, detail, field)
    )


def malformed_body(reason: str) -> HttpError:
    """Describe a body that is not JSON."""
    detail = f"the body is not JSON: {reason}"
    return HttpError(Problem("urn:sark:problem:malformed", "Malformed body", 400, detail))


def install(app: FastAPI, limit_fields: LimitFields | None = None) -> None:
    """Make every error of an application a problem document.

    Args:
        app: The application.
        limit_fields: What refusals of rate limits tell in header fields.
    """
    fields = limit_fields or LimitFields()
    failed = Quiet(_log.warning)

    @app.exception_handler(SarkError)
    async def on_sark_error(_: Request, error: SarkError) -> Response:
        problem = problem_of(error)
        if problem.status >= 500:  # noqa: PLR2004 - the boundary of server errors
            failed("request failed", problem=problem.type, reason=str(error))
        return problem_response(problem, challenge_of(problem))

    @app.exception_handler(LimitExceededError)
    async def on_limit(_: Request, error: LimitExceededError) -> Response:
        return limit_response(error, fields)

    @app.exception_handler(HttpError)
    async def on_http_error(_: Request, error: HttpError) -> Response:
        return problem_response(error.problem, error.headers)

    @app.exception_handler(HTTPException)
    async def on_framework_error(_: Request, error: HTTPException) -> Response:
        title = str(error.detail)
        return problem_response(Problem("about:blank", title, error.status_code), error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return problem_response(
            Problem("urn:sark:problem:invalid-request", "Invalid request", 422, first["msg"], field)
        )

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    @app.exception_handler(Exception)
    async def on_bug(_: Request, __: Exception) -> Response:
        # Starlette raises the error again for the server, which logs it with its traceback.
        return problem_response(Problem("urn:sark:problem:internal", "Internal error", 500))


def challenge_of(problem: Problem) -> dict[str, str]:
    """Tell a client whose token was not accepted what to bring (RFC 6750, section 3)."""
    if problem.status != 401:  # noqa: PLR2004 - Unauthorized
        return {}
    # The description is our own text about a kind of failure: printable ASCII without quotes.
    description = "".join(c for c in problem.detail if c.isascii() and c.isprintable())
    description = description.replace("\\", "").replace('"', "'")
    challenge = f'Bearer realm="sark", error="invalid_token", error_description="{description}"'
    return {"WWW-Authenticate": challenge}


def _refused_session(error: SessionError) -> Problem:
    match error:
        case UserMismatchError():
            kind, title, status = "other-user", "Another user's token", 403
        case SessionCapError():
            kind, title, status = "session-cap", "Too many sessions", 409
        case _:
            kind, title, status = "unauthenticated", "Unauthenticated", 401
    return Problem(
        f"urn:sark:problem:{kind}",
        title,
        status,
        error.reason,
        decision_id=error.decision_id,
        code=error.code,
    )


def _limited(error: LimitExceededError) -> Problem:
    if isinstance(error, LimitDeniedError):
        return Problem(
            LIMIT_DENIED,
            "Denied",
            403,
            str(error),
            limit=error.kind,
            policy=error.policy,
            decision_id=error.decision_id,
        )
    states = tuple(told([state for state in error.limits if isinstance(state, LimitState)]))
    refused = next((state for state in states if state.policy == error.policy), None)
    return Problem(
        QUOTA_EXCEEDED,
        "Too many requests",
        429,
        str(error),
        retry_after=error.retry_after,
        limit=error.kind,
        policy=error.policy,
        quota=refused.limit if refused else 0,
        window=refused.window if refused else 0,
        violated_policies=tuple(s.policy for s in refusing(states, error.policy))
        or (error.policy,),
        limits=states,
        decision_id=error.decision_id,
    )


def _unavailable(
    error: AuditError | StoreError | IssuerUnavailableError | BreakerOpen,
) -> Problem:
    match error:
        case QueueFullError():
            kind, title = "audit-queue-full", "The audit queue is full"
        case AuditError():
            kind, title = "audit-unavailable", "The answer could not be recorded"
        case IssuerUnavailableError():
            kind, title = "issuer-unavailable", "The keys of the token's issuer are unavailable"
        case BreakerOpen():
            kind, title = "breaker-open", "What the request needs is down"
        case _:
            kind, title = "store-unavailable", "State is unavailable"
    seconds = getattr(error, "retry_after", 1.0)
    problem = Problem(
        f"urn:sark:problem:{kind}", title, 503, retry_after=max(1, math.ceil(seconds))
    )
    if isinstance(error, AuditError) and error.freshness:
        problem.detail = "the sessions have ended, which is not recorded yet"
        problem.ended, problem.freshness = error.ended, error.freshness
    return problem
