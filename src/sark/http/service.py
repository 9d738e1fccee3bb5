"""What the routes share: the open runtime, the credentials, and the checks made with them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from sark.http.credentials import (
    Credential,
    bearer_of,
    forbidden_without_admin_token,
    unauthenticated,
)
from sark.ops.cache_stats import CacheCounts
from sark.ops.metrics import Metrics
from sark.runtime import Runtime

__all__ = ["Service", "ServiceOf", "require_admin"]


@dataclass(frozen=True, slots=True)
class Service:
    """One HTTP service.

    Attributes:
        runtime: What it serves.
        metrics: What it measures.
        cache_counts: What it counts around the cache.
        admin: Opens the admin routes.
        caller: Required of callers when it is set.
        warming: The warming under way, if any: there is one at a time.
    """

    runtime: Runtime
    metrics: Metrics
    cache_counts: CacheCounts
    admin: Credential
    caller: Credential
    warming: set[asyncio.Task[str]] = field(default_factory=set)

    async def check_caller(self, request: Request) -> None:
        """Refuse a caller without the service token, when there is one.

        Raises:
            HttpError: 401; recorded.
            AuditError: The refusal could not be recorded.
        """
        if self.caller.is_set:
            await self._check(request, self.caller, "the service token is missing or wrong")

    async def check_admin(self, request: Request) -> None:
        """Refuse whoever has no admin token; 403 when the service has none either."""
        if not self.admin.is_set:
            raise forbidden_without_admin_token()
        await self._check(request, self.admin, "the admin token is missing or wrong")

    async def _check(self, request: Request, credential: Credential, detail: str) -> None:
        token = bearer_of(request.headers.get("authorization"))
        if credential.matches(token):
            return
        peer = request.client.host if request.client else "unknown"
        event_id = await self.runtime.gateway.refuse_unauthenticated(peer, request.url.path)
        raise unauthenticated(detail, token_given=token is not None, decision_id=event_id)


def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]


async def require_admin(request: Request, service: ServiceOf) -> None:
    """Guard a route with the admin token; a FastAPI dependency."""
    await service.check_admin(request)
