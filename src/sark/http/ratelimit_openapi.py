"""What OpenAPI documents say of rate limits: the header fields, and the answers 429 and 403."""

from __future__ import annotations

from typing import Any

from sark.http.ratelimit_fields import LIMIT_DENIED, QUOTA_EXCEEDED, LimitFields

__all__ = ["DENIED_SCHEMA", "PROBLEM_SCHEMA", "admitted_headers", "refused_headers"]

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_RETRY_AFTER: Schema = {
    "Retry-After": {
        "description": "Seconds after which asking again makes sense",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_FIELDS: Schema = {
    "RateLimit-Policy": {
        "description": "Quota (q) and window in seconds (w) of each limit",
        "schema": _TEXT,
        "example": '"user";q=1000;w=60',
    },
    "RateLimit": {
        "description": "What is left (r) of each limit for the next seconds (t)",
        "schema": _TEXT,
        "example": '"user";r=998;t=41',
    },
}
_LEGACY: Schema = {
    "X-RateLimit-Limit": {"description": "Quota of the tightest limit", "schema": _COUNT},
    "X-RateLimit-Remaining": {"description": "What is left of it", "schema": _COUNT},
}
PROBLEM_SCHEMA: Schema = {
    "type": "object",
    "required": ["type", "title", "status", "retry_after", "limit", "policy"],
    "properties": {
        "type": {"const": QUOTA_EXCEEDED},
        "title": _TEXT,
        "status": {"const": 429},
        "detail": _TEXT,
        "retry_after": {"type": "integer", "minimum": 1},
        "limit": {"enum": ["user", "ip", "apikey"]},
        "policy": _TEXT,
        "quota": _COUNT,
        "window": _COUNT,
        "violated-policies": {"type": "array", "items": _TEXT},
        "limits": {"type": "array", "items": {"type": "object"}},
    },
}
"""The problem document of a 429, for applications that know nothing else of ours."""

DENIED_SCHEMA: Schema = {
    "type": "object",
    "required": ["type", "title", "status", "limit", "policy"],
    "properties": {
        "type": {"const": LIMIT_DENIED},
        "title": _TEXT,
        "status": {"const": 403},
        "detail": _TEXT,
        "limit": {"enum": ["user", "ip", "apikey"]},
        "policy": {"const": "deny"},
    },
}
"""Likewise of the 403 to those that the deny-list names."""

_RESETS = {
    "seconds": "Seconds until it is there again",
    "epoch": "When it is there again, in Unix time",
}


def admitted_headers(fields: LimitFields) -> Schema:
    """Describe the fields of an answer whose request was charged."""
    return _described(fields) if fields.sent == "always" else {}


def refused_headers(fields: LimitFields) -> Schema:
    """Describe the fields of a 429."""
    return _RETRY_AFTER if fields.sent == "off" else {**_RETRY_AFTER, **_described(fields)}


def _described(fields: LimitFields) -> Schema:
    if fields.legacy == "off":
        return dict(_FIELDS)
    reset = {"description": _RESETS[fields.legacy], "schema": _COUNT}
    return {**_FIELDS, **_LEGACY, "X-RateLimit-Reset": reset}
