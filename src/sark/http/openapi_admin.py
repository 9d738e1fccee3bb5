"""What the OpenAPI document says of the routes that need the admin token."""

from __future__ import annotations

from typing import Any

import msgspec

from sark.http.cache import ExplainRequest
from sark.http.invalidation import Invalidated
from sark.ops.cache_stats import CacheReport
from sark.policy.explain import Explanation
from sark.policy.reload import Reloaded

__all__ = ["complete"]

Schema = dict[str, Any]

_ERRORS = {
    "401": "The admin token is missing or wrong",
    "403": "The service has no admin token",
    "503": "Nothing was done, or it may not last: ask again; Retry-After says when",
}
_UNUSABLE = {"422": "What the path or the body names is not usable"}
_REFUSED = {"422": "The policies do not load, and the running ones stay"}
_BODY = {
    **_UNUSABLE,
    "400": "The body is not JSON",
    "413": "The body is too large",
    "415": "The body is not application/json",
}
_NEVER_OLDER = "Revoked. The token makes later requests at least as fresh"
# Route, method, what 200 says, its type, further errors.
_ROUTES: tuple[tuple[str, str, str, type, dict[str, str]], ...] = (
    ("/v1/policies/reload", "post", "What is in force now", Reloaded, _REFUSED),
    ("/v1/policies/{name}/invalidate", "post", _NEVER_OLDER, Invalidated, _UNUSABLE),
    ("/v1/users/{user_id}/invalidate", "post", _NEVER_OLDER, Invalidated, _UNUSABLE),
    ("/v1/cache/invalidate", "post", _NEVER_OLDER, Invalidated, {}),
    ("/v1/cache/stats", "get", "Figures of this process and its cache", CacheReport, {}),
    ("/v1/cache/explain", "post", "Where it would be answered from, and why", Explanation, _BODY),
)
_FRESHNESS = {
    "consistency": (
        "fast: any valid decision (default). fresh: none from before the changes that `freshness` "
        "names. full: evaluated now; it replaces what all processes hold."
    ),
    "freshness": "The token that an invalidation returned; up to eight, joined by commas.",
}
_USER_ID = {
    "name": "user_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
}


def complete(document: Schema) -> None:
    """Describe the answers of the admin routes, and what their tokens are for."""
    types = [route[3] for route in _ROUTES]
    (*references, asked), schemas = msgspec.json.schema_components(
        [*types, ExplainRequest], ref_template="#/components/schemas/{name}"
    )
    known = document["components"]["schemas"]
    known.update(schemas)
    for name, text in _FRESHNESS.items():
        known["Request"]["properties"][name]["description"] = text
    for (path, method, text, _, errors), schema in zip(_ROUTES, references, strict=True):
        document["paths"][path][method]["responses"] = {
            "200": {"description": text, "content": {"application/json": {"schema": schema}}},
            **{status: _problem(said) for status, said in sorted({**_ERRORS, **errors}.items())},
        }
    document["paths"]["/v1/cache/explain"]["post"]["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": asked}},
    }
    # The route reads it from the path as it was sent, so that the framework doesn't know of it.
    document["paths"]["/v1/users/{user_id}/invalidate"]["post"]["parameters"] = [_USER_ID]


def _problem(description: str) -> Schema:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": schema}},
    }
