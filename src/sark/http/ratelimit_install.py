"""``install()``: what an application with limited routes needs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sark.errors import InvalidRequestError, LimitExceededError, SarkError, StoreError
from sark.http.client_address import TrustedProxies
from sark.http.problems import limit_response, problem_of, problem_response
from sark.http.ratelimit_dependency import CHARGES, RateLimit
from sark.http.ratelimit_fields import Fields, LimitFields
from sark.http.ratelimit_middleware import refuse_websocket, with_fields
from sark.http.ratelimit_openapi import (
    DENIED_SCHEMA,
    PROBLEM_SCHEMA,
    admitted_headers,
    refused_headers,
)
from sark.http.ratelimit_state import LimitOptions
from sark.ratelimit import Charge, RateLimiter
from sark.ratelimit.named import check_name
from sark.runtime import Runtime

__all__ = ["install"]

_REFUSED = "A rate limit refuses; Retry-After says when to ask again"
_DENIED = "The deny-list of the rate limits names who asks"


def install(
    app: FastAPI,
    limiter: RateLimiter | Runtime | None = None,
    *,
    namespace: str = "",
    proxies: TrustedProxies | None = None,
    fields: LimitFields | None = None,
) -> None:
    """Prepare an application for routes with ``RateLimit``; call it before the application starts.

    Answers of such routes then carry the fields of rate limits, refusals are problem documents, and
    the OpenAPI document tells of both.

    Args:
        app: The application.
        limiter: Where to charge. One that is opened when the application starts is put into
            ``app.state.sark`` then.
        namespace: Keeps the routes' counters apart from those of other applications on the same
            Valkey.
        proxies: Who is believed about the client's address; by default nobody.
        fields: What answers tell of the limits.

    Raises:
        ValueError: The namespace is not usable.
    """
    told = fields or LimitFields()
    app.state.sark_limits = LimitOptions(
        check_name(namespace) if namespace else "", proxies or TrustedProxies(), told
    )
    if limiter is not None:
        app.state.sark = limiter
    app.add_middleware(_ToldLimits, fields=told)

    async def on_error(connection: Any, error: Exception) -> Response:
        match error:
            case LimitExceededError():
                response = limit_response(error, told)
            case SarkError():
                response = problem_response(problem_of(error))
            case _:
                raise error
        return response if connection.scope["type"] == "http" else _for_websocket(response)

    for kind in (LimitExceededError, StoreError, InvalidRequestError):
        app.add_exception_handler(kind, on_error)
    app.openapi = _described(app, told)  # type: ignore[method-assign] # the way FastAPI documents


class _ToldLimits:
    """Adds the fields of what routes charged, also to an answer that an exception became.

    All but the 500 of an exception that nobody handles: Starlette answers that outside of every
    middleware.
    """

    def __init__(self, app: ASGIApp, fields: LimitFields) -> None:
        self._app = app
        self._fields = fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and complete its answer."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        charges: list[Charge] = []
        scope[CHARGES] = charges
        await self._app(scope, receive, with_fields(send, lambda: self._told(charges)))

    def _told(self, charges: list[Charge]) -> Fields:
        # A refusal has told all there is to tell.
        if not charges or not all(charge.admitted for charge in charges):
            return []
        return self._fields.admitted([state for charge in charges for state in charge.states])


def _for_websocket(response: Response) -> Response:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_websocket(response, scope, receive, send)

    return cast("Response", refuse)  # it is only called, as any response would be


def _described(app: FastAPI, fields: LimitFields) -> Callable[[], dict[str, Any]]:
    """Let an application's document tell of its limits, whoever else completes it."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        for operation in _limited_operations(app, document):
            _describe(operation["responses"], fields)
        return document

    return openapi


def _limited_operations(app: FastAPI, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        if dependant is None or not any(_limits_in(dependant)):
            continue
        operations = document["paths"].get(route.path_format, {})
        for method in route.methods or ():
            if method.lower() in operations:
                yield operations[method.lower()]


def _limits_in(dependant: Dependant) -> Iterator[bool]:
    yield isinstance(dependant.call, RateLimit) and not dependant.call.shadow
    for dependency in dependant.dependencies:
        yield from _limits_in(dependency)


def _describe(responses: dict[str, Any], fields: LimitFields) -> None:
    """Describe the answers of a limited operation; what its author wrote stays."""
    for status, response in responses.items():
        if status.startswith("2"):
            response["headers"] = {**admitted_headers(fields), **response.get("headers", {})}
    refused = responses.setdefault("429", {"description": _REFUSED})
    refused["headers"] = {**refused_headers(fields), **refused.get("headers", {})}
    refused.setdefault("content", {"application/problem+json": {"schema": PROBLEM_SCHEMA}})
    denied = {"application/problem+json": {"schema": DENIED_SCHEMA}}
    responses.setdefault("403", {"description": _DENIED, "content": denied})
