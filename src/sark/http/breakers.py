"""Routes of the circuit breakers for operators: see them, hold them open or closed, reset them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from sark.breaker import Snapshot
from sark.breaker.control import BreakerControl
from sark.http.service import Service, ServiceOf, require_admin
from sark.parts.breakers import breaker_control

__all__ = ["Breakers", "router"]

LONGEST_HOLD_SECONDS = 30 * 86_400

router = APIRouter(prefix="/v1/breakers", tags=["breakers"], dependencies=[Depends(require_admin)])
_encode = msgspec.json.Encoder().encode
_ADMIN: dict[str, Any] = {"security": [{"bearer": []}]}

Seconds = Annotated[float, Query(ge=0, le=LONGEST_HOLD_SECONDS, allow_inf_nan=False)]


class Breakers(msgspec.Struct, frozen=True):
    """All circuit breakers.

    Attributes:
        breakers: By name.
    """

    breakers: list[Snapshot]


@router.get("", openapi_extra=_ADMIN)
async def breakers(service: ServiceOf) -> Response:
    """Every circuit breaker that is known or has been in use."""
    return _json(Breakers(await _control(service).list()))


@router.get("/{name}", openapi_extra=_ADMIN)
async def show(name: str, service: ServiceOf) -> Response:
    """One circuit breaker."""
    return _json(await _control(service).show(name))


@router.post("/{name}/force-open", openapi_extra=_ADMIN)
async def force_open(name: str, service: ServiceOf, seconds: Seconds = 0) -> Response:
    """Refuse all its calls, for so many seconds or (0) until it is changed by hand."""
    return _json(await _control(service).force(name, "open", seconds))


@router.post("/{name}/force-closed", openapi_extra=_ADMIN)
async def force_closed(name: str, service: ServiceOf, seconds: Seconds = 0) -> Response:
    """Admit all its calls, whatever becomes of them; as above."""
    return _json(await _control(service).force(name, "closed", seconds))


@router.post("/{name}/reset", openapi_extra=_ADMIN)
async def reset(name: str, service: ServiceOf) -> Response:
    """Close it as if nothing had happened."""
    return _json(await _control(service).force(name, "reset"))


def _control(service: Service) -> BreakerControl:
    return breaker_control(service.runtime.settings, service.runtime.store)


def _json(document: object) -> Response:
    return Response(_encode(document), media_type="application/json")
