"""What the OpenAPI document says of the routes that need the admin token."""

from __future__ import annotations

from typing import Any

import msgspec

from sark.http.invalidation import Invalidated
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
_NEVER_OLDER = "Revoked. The token makes later requests at least as fresh"
# Route, method, what 200 says, its type, further errors.
_ROUTES: tuple[tuple[str, str, str, type, dict[str, str]], ...] = (
    ("/v1/policies/reload", "post", "What is in force now", Reloaded, _REFUSED),
    ("/v1/policies/{name}/invalidate", "post", _NEVER_OLDER, Invalidated, _UNUSABLE),
    ("/v1/users/{user_id}/invalidate", "post", _NEVER_OLDER, Invalidated, _UNUSABLE),
    ("/v1/cache/invalidate", "post", _NEVER_OLDER, Invalidated, {}),
)
_FRESHNESS = {
    "consistency": (
        "fast: any valid decision (default). fresh: none from before the change that `freshness` "
        "names. full: evaluated now, then stored."
    ),
    "freshness": "The token that an invalidation returned.",
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
    references, schemas = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
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
    # The route reads it from the path as it was sent, so that the framework doesn't know of it.
    document["paths"]["/v1/users/{user_id}/invalidate"]["post"]["parameters"] = [_USER_ID]


def _problem(description: str) -> Schema:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": schema}},
    }
