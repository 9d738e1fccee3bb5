"""The OpenAPI document: FastAPI's own, and the plain route that it does not know."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sark.gateway import Answer, Request
from sark.http.problems import Problem

__all__ = ["install"]

_EXAMPLE = {
    "user_id": "user-0001",
    "action": "server:read",
    "resource": "server/web-001",
    "context": {"environment": "production"},
    "ip": "192.0.2.10",
}
_ERRORS = {
    "400": "The body is not JSON",
    "401": "The service token is missing or wrong",
    "413": "The body is too large",
    "415": "The body is not application/json",
    "422": "A field is wrong or unknown, or the policy is not served",
    "429": "A rate limit refuses; Retry-After says when to ask again",
    "503": "State or audit is unavailable; Retry-After says when to ask again",
}


def install(app: FastAPI) -> None:
    """Complete the OpenAPI document of an application."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _add_authorize(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way FastAPI documents


def _add_authorize(document: dict[str, Any]) -> None:
    template = "#/components/schemas/{name}"
    (request, answer, problem), components = msgspec.json.schema_components(
        [Request, Answer, Problem], ref_template=template
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(components)
    schemes = document["components"].setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer"}
    errors = {
        status: {
            "description": text,
            "content": {"application/problem+json": {"schema": problem}},
        }
        for status, text in _ERRORS.items()
    }
    document.setdefault("paths", {})["/v1/authorize"] = {
        "post": {
            "tags": ["authorization"],
            "summary": "Decide one request",
            "description": "Charges the rate limits, decides by policy, records an audit event.",
            "operationId": "authorize",
            "security": [{"bearer": []}, {}],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request, "example": _EXAMPLE}},
            },
            "responses": {
                "200": {
                    "description": "The decision, allow or deny",
                    "content": {"application/json": {"schema": answer}},
                },
                **errors,
            },
        }
    }
