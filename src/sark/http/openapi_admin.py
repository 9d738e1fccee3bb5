"""What the OpenAPI document says of the routes that need the admin token."""

from __future__ import annotations

from typing import Any

import msgspec

from sark.breaker import Snapshot
from sark.http.breakers import Breakers
from sark.http.cache import ExplainRequest
from sark.http.invalidation import Invalidated
from sark.http.limits import LimitsOfSubject, LimitSubject, NearLimits, ResetLimits
from sark.http.siem import Moved, PurgeRequest, ReplayRequest, SinkEvents
from sark.http.warming import WARM_PATH, WarmProgress, WarmRequest
from sark.ops.cache_stats import CacheReport
from sark.ops.sink_probe import SinkTest
from sark.ops.sinks import Sinks
from sark.policy.explain import Explanation
from sark.policy.reload import Reloaded
from sark.ratelimit.reload import ReloadedLimits
from sark.ratelimit.report import LimitsReport

__all__ = ["complete"]

Schema = dict[str, Any]

_ERRORS = {
    "400": "There are several Authorization header fields",
    "401": "The admin token is missing or wrong",
    "403": "The service has no admin token",
    "429": "The address is refused too often; Retry-After says when to ask again",
    "503": "Nothing was done, or it may not last: ask again; Retry-After says when",
}
_UNUSABLE = {"422": "What the path or the body names is not usable"}
_NO_BREAKER = {"422": "There is no such breaker, or the time is not usable"}
_NO_SINK = {"422": "There is no such sink, or the count is not usable"}
_REFUSED = {"422": "The policies do not load, and the running ones stay"}
_BODY = {
    **_UNUSABLE,
    "400": "The body is not JSON, or there are several Authorization header fields",
    "413": "The body is too large",
    "415": "The body is not application/json",
}
_WARMING = {**_BODY, "409": "The cache is being warmed by somebody else"}
_NEVER_OLDER = "Revoked. The token makes later requests at least as fresh"
# Route, method, what 200 says, its type, further errors.
_ROUTES: tuple[tuple[str, str, str, type, dict[str, str]], ...] = (
    ("/v1/policies/reload", "post", "What is in force now", Reloaded, _REFUSED),
    ("/v1/policies/{name}/invalidate", "post", _NEVER_OLDER, Invalidated, _UNUSABLE),
    ("/v1/users/{user_id}/invalidate", "post", _NEVER_OLDER, Invalidated, _UNUSABLE),
    ("/v1/cache/invalidate", "post", _NEVER_OLDER, Invalidated, {}),
    ("/v1/cache/stats", "get", "Figures of this process and its cache", CacheReport, {}),
    ("/v1/limits", "get", "The rules in force", LimitsReport, {}),
    ("/v1/limits/top", "get", "The limits most used, the nearest first", NearLimits, _UNUSABLE),
    ("/v1/limits/show", "post", "Every limit that may apply", LimitsOfSubject, _BODY),
    ("/v1/limits/reset", "post", "How many limits begin again", ResetLimits, _BODY),
    ("/v1/limits/reload", "post", "What is in force now", ReloadedLimits, _REFUSED),
    ("/v1/breakers", "get", "All circuit breakers", Breakers, {}),
    ("/v1/breakers/{name}", "get", "The circuit breaker", Snapshot, _NO_BREAKER),
    ("/v1/breakers/{name}/force-open", "post", "What it is now", Snapshot, _NO_BREAKER),
    ("/v1/breakers/{name}/force-closed", "post", "What it is now", Snapshot, _NO_BREAKER),
    ("/v1/breakers/{name}/reset", "post", "What it is now", Snapshot, _NO_BREAKER),
    ("/v1/siem", "get", "Every sink and its account", Sinks, {}),
    ("/v1/siem/{sink}/events", "get", "Events that wait", SinkEvents, _NO_SINK),
    ("/v1/siem/{sink}/failed", "get", "Dead letters, with their reasons", SinkEvents, _NO_SINK),
    ("/v1/siem/{sink}/replay", "post", "How many are queued again", Moved, _BODY),
    ("/v1/siem/{sink}/purge", "post", "How many are gone", Moved, _BODY),
    ("/v1/siem/{sink}/test", "post", "What came of the test event", SinkTest, _NO_SINK),
    ("/v1/cache/explain", "post", "Where it would be answered from, and why", Explanation, _BODY),
    (WARM_PATH, "post", "How far it is, a line each quarter second", WarmProgress, _WARMING),
)
_BODIES = {
    "/v1/cache/explain": ExplainRequest,
    WARM_PATH: WarmRequest,
    "/v1/limits/show": LimitSubject,
    "/v1/limits/reset": LimitSubject,
    "/v1/siem/{sink}/replay": ReplayRequest,
    "/v1/siem/{sink}/purge": PurgeRequest,
}
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
    references, schemas = msgspec.json.schema_components(
        [*types, *_BODIES.values()], ref_template="#/components/schemas/{name}"
    )
    asked = references[len(types) :]
    known = document["components"]["schemas"]
    known.update(schemas)
    for name, text in _FRESHNESS.items():
        known["Request"]["properties"][name]["description"] = text
    for (path, method, text, _, errors), schema in zip(_ROUTES, references, strict=False):
        media = "application/x-ndjson" if path == WARM_PATH else "application/json"
        document["paths"][path][method]["responses"] = {
            "200": {"description": text, "content": {media: {"schema": schema}}},
            **{status: _problem(said) for status, said in sorted({**_ERRORS, **errors}.items())},
        }
    for path, schema in zip(_BODIES, asked, strict=True):
        content = {"application/json": {"schema": schema}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    # The route reads it from the path as it was sent, so that the framework doesn't know of it.
    document["paths"]["/v1/users/{user_id}/invalidate"]["post"]["parameters"] = [_USER_ID]


def _problem(description: str) -> Schema:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": schema}},
    }
