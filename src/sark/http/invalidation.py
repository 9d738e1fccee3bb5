"""Routes that end what is in force: invalidations, and other policies."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from sark.errors import ConfigurationError, EvaluationError
from sark.http.problems import HttpError, Problem
from sark.http.service import ServiceOf, require_admin
from sark.http.user_paths import user_of

__all__ = ["Invalidated", "router"]

router = APIRouter(
    tags=["revocation"],
    dependencies=[Depends(require_admin)],
)
_encode = msgspec.json.Encoder().encode
_ADMIN: dict[str, Any] = {"security": [{"bearer": []}]}
_INVALIDATE = b"/invalidate"


class Invalidated(msgspec.Struct, frozen=True):
    """An invalidation that has been written.

    Attributes:
        freshness: A token: a request that carries it is answered by later decisions only.
    """

    freshness: str


@router.post("/v1/policies/reload", openapi_extra=_ADMIN)
async def reload_policies(service: ServiceOf) -> Response:
    """Read the policies again; broken ones are refused and the running ones stay."""
    try:
        reloaded = await service.runtime.reload()
    except ConfigurationError as error:
        problem = Problem("urn:sark:problem:policies-refused", "Policies refused", 422, str(error))
        raise HttpError(problem) from None
    except EvaluationError as error:
        kind, title = "urn:sark:problem:engine-unavailable", "The policy engine is unavailable"
        raise HttpError(Problem(kind, title, 503, str(error), retry_after=1)) from None
    return _json(reloaded)


@router.post("/v1/policies/{name}/invalidate", openapi_extra=_ADMIN)
async def invalidate_policy(name: str, service: ServiceOf) -> Response:
    """Revoke every cached decision of one policy."""
    return _json(Invalidated(await service.runtime.invalidate_policy(name)))


@router.post("/v1/users/{user_id:path}/invalidate", openapi_extra=_ADMIN)  # noqa: FAST003 - below
async def invalidate_user(request: Request, service: ServiceOf) -> Response:
    """Revoke every cached decision about one user; the id is percent-encoded, but for `/`."""
    user_id = user_of(request.scope["raw_path"], _INVALIDATE)
    return _json(Invalidated(await service.runtime.invalidate_user(user_id)))


@router.post("/v1/cache/invalidate", openapi_extra=_ADMIN)
async def invalidate_all(service: ServiceOf) -> Response:
    """Revoke every cached decision."""
    return _json(Invalidated(await service.runtime.invalidate_all()))


def _json(document: object) -> Response:
    return Response(_encode(document), media_type="application/json")
