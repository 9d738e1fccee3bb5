"""Routes that look into the decision cache, and change nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from sark.gateway import Request as Asked
from sark.http.bodies import decode_body
from sark.http.service import ServiceOf, require_admin
from sark.ops.cache_stats import collect_cache_report
from sark.policy.consistency import Consistency
from sark.policy.explain import explain

__all__ = ["ExplainRequest", "router"]

router = APIRouter(tags=["operations"], dependencies=[Depends(require_admin)])
_encode = msgspec.json.Encoder().encode
_ADMIN: dict[str, Any] = {"security": [{"bearer": []}]}


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A question as in ``POST /v1/authorize``, that is not asked but explained.

    Attributes:
        user_id: Who would act.
        action: What to do.
        resource: What to do it to.
        context: Further circumstances for the policy.
        ip: Address of the acting user; it matters where the policy sees it.
        api_key_id: Id of the api key in use; likewise.
        policy: Which policy decides; the first of ``SARK_POLICIES`` when left out.
        consistency: ``fast``, ``fresh`` or ``full``.
        freshness: What an invalidation returned; several joined by commas.
    """

    user_id: str
    action: str
    resource: str
    context: dict[str, Any] = {}
    ip: str | None = None
    api_key_id: str | None = None
    policy: str | None = None
    consistency: Consistency | None = None
    freshness: str | None = None


_decode = msgspec.json.Decoder(ExplainRequest).decode


@router.get("/v1/cache/stats", openapi_extra=_ADMIN)
async def cache_stats(service: ServiceOf) -> Response:
    """Look-ups, evaluations, invalidations and how soon they took effect; what Valkey holds."""
    report = await collect_cache_report(service.runtime, service.cache_counts)
    return Response(_encode(report), media_type="application/json")


@router.post("/v1/cache/explain", openapi_extra=_ADMIN)
async def explain_question(request: Request, service: ServiceOf) -> Response:
    """Tell where a question would be answered from and why; nothing is decided or changed."""
    asked = await decode_body(request, _decode)
    runtime = service.runtime
    question, _ = runtime.gateway.check(Asked(**msgspec.structs.asdict(asked)))
    explanation = await explain(
        runtime.store,
        runtime.gateway.decisions,
        question,
        runtime.gateway.decisions.plan(asked.consistency, asked.freshness),
        earlier_revisions=runtime.policies.earlier,
        deadline=asyncio.get_running_loop().time() + runtime.gateway.budget,
    )
    return Response(_encode(explanation), media_type="application/json")
