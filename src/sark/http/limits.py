"""Routes of the rate limits for operators: the rules, who is near a limit, show and reset."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from sark.errors import ConfigurationError
from sark.http.bodies import decode_body
from sark.http.problems import HttpError, Problem
from sark.http.service import Service, ServiceOf, require_admin
from sark.policy.question import check_text
from sark.ratelimit import Kind, LimitState
from sark.ratelimit.report import NearLimit, describe, nearest

__all__ = ["LimitSubject", "LimitsOfSubject", "NearLimits", "ResetLimits", "router"]

MOST_NEAR = 100

router = APIRouter(prefix="/v1/limits", tags=["limits"], dependencies=[Depends(require_admin)])
_encode = msgspec.json.Encoder().encode
_ADMIN: dict[str, Any] = {"security": [{"bearer": []}]}


class LimitSubject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose limits.

    Attributes:
        id: The user, the api key, or the ip address; an IPv6 address stands for its network.
        kind: ``user``, ``ip`` or ``apikey``.
    """

    id: str
    kind: Kind = "user"


class LimitsOfSubject(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every limit that may apply to one identity, in use or not.

    Attributes:
        limits: Their states.
        listed: ``deny`` when it is refused at once, ``allow`` when none of them applies to it.
    """

    limits: tuple[LimitState, ...]
    listed: Literal["", "allow", "deny"] = ""


class NearLimits(msgspec.Struct, frozen=True):
    """Who is nearest to a limit.

    Attributes:
        limits: The nearest first.
    """

    limits: list[NearLimit]


class ResetLimits(msgspec.Struct, frozen=True):
    """What was forgotten.

    Attributes:
        reset: How many of the identity's limits had been in use.
    """

    reset: int


_decode = msgspec.json.Decoder(LimitSubject).decode


@router.get("", openapi_extra=_ADMIN)
async def rules(service: ServiceOf) -> Response:
    """The rules in force."""
    return _json(describe(service.runtime.gateway.limiter.rules))


@router.get("/top", openapi_extra=_ADMIN)
async def top(service: ServiceOf, most: Annotated[int, Query(ge=1, le=MOST_NEAR)] = 20) -> Response:
    """Who is nearest to a limit: identities that have used more than half of one."""
    runtime = service.runtime
    found = await nearest(runtime.gateway.limiter, most=most, deadline=_deadline(service))
    return _json(NearLimits(found))


@router.post("/show", openapi_extra=_ADMIN)
async def show(request: Request, service: ServiceOf) -> Response:
    """The state of every limit that may apply to an identity; nothing is charged."""
    subject = await _subject(request)
    limiter = service.runtime.gateway.limiter
    identity = (subject.kind, subject.id)
    charge = await limiter.show(identity, deadline=_deadline(service))
    return _json(LimitsOfSubject(charge.states, limiter.listed(identity)))


@router.post("/reset", openapi_extra=_ADMIN)
async def reset(request: Request, service: ServiceOf) -> Response:
    """Forget what an identity has used."""
    subject = await _subject(request)
    limiter = service.runtime.gateway.limiter
    count = await limiter.reset((subject.kind, subject.id), deadline=_deadline(service))
    return _json(ResetLimits(count))


@router.post("/reload", openapi_extra=_ADMIN)
async def reload(service: ServiceOf) -> Response:
    """Read the limits file again; a broken one is refused and the running rules stay."""
    try:
        return _json(await service.runtime.reload_limits())
    except ConfigurationError as error:
        problem = Problem("urn:sark:problem:limits-refused", "Limits refused", 422, str(error))
        raise HttpError(problem) from None


async def _subject(request: Request) -> LimitSubject:
    subject = await decode_body(request, _decode)
    check_text("id", subject.id)
    return subject


def _deadline(service: Service) -> float:
    return asyncio.get_running_loop().time() + service.runtime.gateway.budget


def _json(document: object) -> Response:
    return Response(_encode(document), media_type="application/json")
