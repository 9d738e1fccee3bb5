"""The OpenAPI document: FastAPI's own, and the plain route that it does not know."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sark.batch import BatchRequest
from sark.gateway import Answer, Request
from sark.http import openapi_admin, openapi_sessions
from sark.http.authorize import AUTHORIZE_PATH
from sark.http.batch import BATCH_PATH, BatchAnswer
from sark.http.problems import Problem
from sark.http.ratelimit_fields import LimitFields
from sark.http.ratelimit_openapi import admitted_headers, refused_headers
from sark.ops.health import Readiness
from sark.ops.status import Status
from sark.policy.question import MAX_ID_BYTES

__all__ = ["install"]

_EXAMPLE = {
    "user_id": "user-0001",
    "action": "server:read",
    "resource": "server/web-001",
    "context": {"environment": "development"},
    "ip": "192.0.2.10",
}
_BATCH_EXAMPLE = {
    "user_id": "user-0001",
    "questions": [
        {"action": "server:read", "resource": "server/web-001"},
        {"action": "server:write", "resource": "server/web-001"},
    ],
}
_ERRORS = {
    "400": "The body is not JSON, or there are several Authorization header fields",
    "401": "The service token is missing or wrong, or the user's token is not accepted (`code`)",
    "403": "The access token is another user's, or the deny-list names who asks",
    "413": "The body is too large",
    "415": "The body is not application/json",
    "422": "A field is wrong or unknown, or the policy is not served",
    "429": "A rate limit refuses; Retry-After says when to ask again",
    "503": "State or audit is unavailable; Retry-After says when to ask again",
}
_CODE = "Why a session or token was not accepted; `cap`: no session may begin for an outside token"
_ADMIN_ERRORS = {
    "400": "There are several Authorization header fields",
    "401": "The admin token is missing or wrong",
    "403": "The service has no admin token",
    "429": "The address is refused too often; Retry-After says when to ask again",
    "503": "The refusal could not be recorded; Retry-After says when to ask again",
}
_IDS = ("user_id", "action", "resource", "api_key_id")

Schema = dict[str, Any]


def install(app: FastAPI, limit_fields: LimitFields) -> None:
    """Complete the OpenAPI document of an application.

    Args:
        app: The application.
        limit_fields: What the answers that were charged tell in header fields.
    """

    def openapi() -> Schema:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _complete(document)
            for path in (AUTHORIZE_PATH, BATCH_PATH):
                responses = document["paths"][path]["post"]["responses"]
                responses["200"]["headers"] = admitted_headers(limit_fields)
                responses["429"]["headers"] = refused_headers(limit_fields)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way FastAPI documents


def _complete(document: Schema) -> None:
    (request, answer, problem, ready, status, batch, answers), schemas = (
        msgspec.json.schema_components(
            [Request, Answer, Problem, Readiness, Status, BatchRequest, BatchAnswer],
            ref_template="#/components/schemas/{name}",
        )
    )
    _bound_ids(schemas["Request"]["properties"])
    schemas["Problem"]["properties"]["code"]["description"] = _CODE
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas)
    components["securitySchemes"] = openapi_sessions.SECURITY_SCHEMES
    paths = document["paths"]
    paths["/health/ready"]["get"]["responses"] = {
        "200": _response("Requests can be answered", ready),
        "503": _response("A part that requests depend on is not available", ready),
    }
    paths["/v1/status"]["get"]["responses"] = {
        "200": _response("The state of this process", status),
        **_problems(_ADMIN_ERRORS, problem),
    }
    openapi_admin.complete(document)
    openapi_sessions.complete(document)
    paths["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {}}
    paths[AUTHORIZE_PATH] = {
        "post": {
            "summary": "Decide one request",
            "description": "Charges the rate limits, decides by policy, records an audit event.",
            "operationId": "authorize",
            **_deciding(request, _EXAMPLE, answer, problem),
        }
    }
    paths[BATCH_PATH] = {
        "post": {
            "summary": "Decide up to a thousand requests of one user",
            "description": "One charge of their number, all or nothing; an audit event for each.",
            "operationId": "authorize_batch",
            **_deciding(batch, _BATCH_EXAMPLE, answers, problem),
        }
    }


def _deciding(request: Schema, example: Schema, answer: Schema, problem: Schema) -> Schema:
    return {
        "tags": ["authorization"],
        "security": [{"service": []}, {"user": []}, {}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, "example": example}},
        },
        "responses": {
            "200": _response("The decision, allow or deny", answer),
            **_problems(_ERRORS, problem),
        },
    }


def _bound_ids(properties: dict[str, Schema]) -> None:
    """Add the bounds of ids; JSON Schema counts characters, of which bytes are no fewer."""
    for name in _IDS:
        schema = properties[name]
        text = next((s for s in schema.get("anyOf", ()) if s["type"] == "string"), schema)
        text |= {"minLength": 1, "maxLength": MAX_ID_BYTES}


def _response(description: str, schema: Schema, media_type: str = "application/json") -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _problems(descriptions: dict[str, str], problem: Schema) -> dict[str, Schema]:
    return {
        status: _response(text, problem, "application/problem+json")
        for status, text in descriptions.items()
    }
