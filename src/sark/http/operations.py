"""Routes for operators: health, metrics, status."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Depends
from starlette.responses import Response

from sark.http.service import ServiceOf, require_admin
from sark.ops.health import readiness
from sark.ops.status import collect_status

__all__ = ["router"]

router = APIRouter()
_encode = msgspec.json.Encoder().encode


@router.get("/health/live", tags=["operations"])
async def live() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


@router.get(
    "/health/ready",
    tags=["operations"],
    responses={503: {"description": "A part that requests depend on is not available"}},
)
async def ready(service: ServiceOf) -> Response:
    """Whether requests can be answered now, and what each part says."""
    report = await readiness(service.runtime)
    status = 200 if report.ready else 503
    return Response(_encode(report), status, media_type="application/json")


@router.get("/metrics", tags=["operations"], response_class=Response)
async def metrics(service: ServiceOf) -> Response:
    """Everything counted, in Prometheus's text format."""
    body, content_type = await service.metrics.render(service.runtime)
    return Response(body, media_type=content_type)


@router.get(
    "/v1/status",
    tags=["operations"],
    dependencies=[Depends(require_admin)],
    openapi_extra={"security": [{"bearer": []}]},
    responses={
        401: {"description": "The admin token is missing or wrong"},
        403: {"description": "The service has no admin token"},
    },
)
async def status(service: ServiceOf) -> Response:
    """Everything an operator wants to know at one glance; needs the admin token."""
    report = await collect_status(service.runtime)
    return Response(_encode(report), media_type="application/json")
