"""What the OpenAPI document says of the routes of sessions."""

from __future__ import annotations

from typing import Any

import msgspec

from sark.http.sessions import NewSession, RefreshRequest, Tokens
from sark.http.user_sessions import EXCEPT, SessionList
from sark.ops.session_stats import SessionReport
from sark.sessions import Revocation, Session
from sark.sessions.session import MAX_CLIENT_ID_BYTES, MAX_TIER_BYTES, MAX_USER_ID_BYTES

__all__ = ["SECURITY_SCHEMES", "complete"]

Schema = dict[str, Any]

SECURITY_SCHEMES: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "SARK_ADMIN_TOKEN"},
    "service": {"type": "http", "scheme": "bearer", "description": "SARK_SERVICE_TOKEN"},
    "user": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A user's access token (RFC 9068)",
    },
}

_UNAVAILABLE = "State or audit is unavailable, or what was done may not last; ask again"
_LIMITED = "The user does this too often, or the address is refused too often"
_NOT_ACCEPTED = "The access token is missing or not accepted; `code` says why"
_BODY = {
    "400": "The body is not JSON, or there are several Authorization header fields",
    "413": "The body is too large",
    "415": "The body is not application/json",
    "422": "A field is wrong or unknown",
}
_ISSUER = {
    "401": "The service or admin token is missing or wrong",
    "403": "The service has neither of them",
    "409": "The user has as many sessions as are allowed (SARK_SESSION_CAP_POLICY=refuse)",
    **_BODY,
}
_REFRESH = {"401": "The refresh token is not accepted; `code` says why", **_BODY}
_SEVERAL = {"400": "There are several Authorization header fields"}
_OWNER = {
    **_SEVERAL,
    "401": _NOT_ACCEPTED,
    "403": "The access token is another user's",
    "422": "An id is not usable",
}
_ENDING = {**_OWNER, "422": "An id or the query is not usable"}
_USER = {**_SEVERAL, "401": _NOT_ACCEPTED}
_ADMIN = {
    **_SEVERAL,
    "401": "The admin token is missing or wrong",
    "403": "The service has no admin token",
}
_ONE, _ALL = "/v1/users/{user_id}/sessions/{session_id}", "/v1/users/{user_id}/sessions"
_ENDED = "What has ended. The token makes later requests at least as fresh"
# Route, method, status, what that says, its type, errors.
_ROUTES: tuple[tuple[str, str, str, str, type, dict[str, str]], ...] = (
    ("/v1/sessions", "post", "201", "The session's first tokens", Tokens, _ISSUER),
    ("/v1/sessions/refresh", "post", "200", "The next tokens", Tokens, _REFRESH),
    ("/v1/sessions/current", "get", "200", "The session", Session, _USER),
    ("/v1/sessions/current", "delete", "200", _ENDED, Revocation, _USER),
    ("/v1/sessions/stats", "get", "200", "Figures of this process", SessionReport, _ADMIN),
    (_ALL, "get", "200", "Those that are alive, the newest first", SessionList, _OWNER),
    (_ALL, "delete", "200", _ENDED, Revocation, _ENDING),
    (_ONE, "get", "200", "The session", Session, {**_OWNER, "404": "It is not alive"}),
    (_ONE, "delete", "200", _ENDED, Revocation, _ENDING),
)
_OF_TRUSTED_CALLERS = {
    "access_token": "The user's token, from a trusted caller; users show theirs as bearer token.",
    "user_agent": "The user's, from a trusted caller; else that of the header counts.",
    "ip": "The user's address, from a trusted caller; else that of the connection counts.",
    "api_key_id": "The api key in use, from a trusted caller; nobody else may name one.",
}
_EXAMPLES: dict[str, Schema] = {
    "/v1/sessions": {"user_id": "user-0001", "client_id": "web", "ip": "192.0.2.10"},
    "/v1/sessions/refresh": {"refresh_token": "r1.dXNlci0wMDAx.01a2090a-b6ff-7702.0.bWFj"},
}


def complete(document: Schema) -> None:
    """Describe bodies, parameters and answers."""
    types = [route[4] for route in _ROUTES]
    (login, trade, *references), schemas = msgspec.json.schema_components(
        [NewSession, RefreshRequest, *types], ref_template="#/components/schemas/{name}"
    )
    _bound(schemas["NewSession"]["properties"])
    known = document["components"]["schemas"]
    known.update(schemas)
    for name, text in _OF_TRUSTED_CALLERS.items():
        for asked in ("Request", "BatchRequest"):
            known[asked]["properties"][name]["description"] = text
    paths = document["paths"]
    for (path, method, status, text, _, errors), schema in zip(_ROUTES, references, strict=True):
        operation = paths[path][method]
        said = {**errors, "429": _LIMITED, "503": _UNAVAILABLE}
        operation["responses"] = {
            status: {"description": text, "content": {"application/json": {"schema": schema}}},
            **{code: _problem(description) for code, description in sorted(said.items())},
        }
        # The routes read them from the path as it was sent, so the framework doesn't know of them.
        operation["parameters"] = [
            _id(name) for name in ("user_id", "session_id") if f"{{{name}}}" in path
        ]
    paths[_ALL]["delete"]["parameters"].append(
        {**_id(EXCEPT), "in": "query", "required": False, "description": "The session to keep"}
    )
    for (path, example), body in zip(_EXAMPLES.items(), (login, trade), strict=True):
        paths[path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body, "example": example}},
        }


def _bound(properties: dict[str, Schema]) -> None:
    """Add the bounds of texts; JSON Schema counts characters, of which bytes are no fewer."""
    properties["user_id"] |= {"minLength": 1, "maxLength": MAX_USER_ID_BYTES}
    properties["client_id"] |= {"maxLength": MAX_CLIENT_ID_BYTES}
    properties["tier"] |= {"maxLength": MAX_TIER_BYTES}


def _id(name: str) -> Schema:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_USER_ID_BYTES}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _problem(description: str) -> Schema:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": schema}},
    }
