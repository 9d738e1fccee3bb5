"""What the routes share: the open runtime, the credentials, and the checks made with them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from sark.admission import Actor
from sark.http.callers import Peer, R, ask_as_user
from sark.http.client_address import TrustedProxies
from sark.http.credentials import (
    Credential,
    bearer_in,
    forbidden_without_admin_token,
    forbidden_without_tokens,
    looks_like_access_token,
    unauthenticated,
)
from sark.http.problems import HttpError
from sark.http.ratelimit_fields import LimitFields
from sark.ops.cache_stats import CacheCounts
from sark.ops.metrics import Metrics
from sark.ops.session_stats import SessionCounts
from sark.runtime import Runtime
from sark.sessions import AccessClaims

__all__ = ["Service", "ServiceOf", "require_admin"]

_OWNER = "the admin or service token, or the user's access token"


@dataclass(frozen=True, slots=True)
class Service:
    """One HTTP service.

    Attributes:
        runtime: What it serves.
        metrics: What it measures.
        cache_counts: What it counts around the cache.
        session_counts: What it counts around sessions.
        admin: Opens the admin routes.
        caller: Required of trusted callers when it is set.
        proxies: Who is believed where a request came from.
        limit_fields: What answers tell of rate limits in header fields.
        warming: The warming under way, if any: there is one at a time.
    """

    runtime: Runtime
    metrics: Metrics
    cache_counts: CacheCounts
    session_counts: SessionCounts
    admin: Credential
    caller: Credential
    proxies: TrustedProxies
    limit_fields: LimitFields
    warming: set[asyncio.Task[str]] = field(default_factory=set)

    @property
    def deadline(self) -> float:
        """When the round trips of a request that begins now must have ended."""
        return asyncio.get_running_loop().time() + self.runtime.gateway.budget

    async def check_caller(self, request: Request) -> str | None:
        """Tell trusted callers from users, and refuse everybody else.

        Without a service token whoever shows no bearer token is trusted.

        Returns:
            The access token that a user has shown, not verified yet; None for a trusted caller.

        Raises:
            HttpError: 401; recorded.
            AuditError: The refusal could not be recorded.
        """
        token = bearer_in(request)
        if token is None:
            if not self.caller.is_set:
                return None
            raise await self._refusal(request, "the service token is missing or wrong")
        if self.caller.matches(token):
            return None
        if looks_like_access_token(token):
            return token
        expected = (
            "the service token or a user's access token"
            if self.caller.is_set
            else ("a user's access token")
        )
        raise await self._refusal(request, f"the bearer token is not {expected}")

    async def check_admin(self, request: Request) -> None:
        """Refuse whoever has no admin token; 403 when the service has none either."""
        if not self.admin.is_set:
            raise forbidden_without_admin_token()
        if not self.admin.matches(bearer_in(request)):
            raise await self._refusal(request, "the admin token is missing or wrong")

    async def check_issuer(self, request: Request) -> Actor:
        """Refuse who may not begin sessions; 403 when the service has no token that may.

        Returns:
            Who it is, for the audit event.
        """
        if not (self.caller.is_set or self.admin.is_set):
            raise forbidden_without_tokens()
        actor = self.trusted(request)
        if actor is None:
            raise await self._refusal(request, "the service or admin token is missing or wrong")
        return actor

    async def access_token(self, request: Request, expected: str = "a user's access token") -> str:
        """Take the bearer token, which is not verified yet.

        Args:
            request: The request.
            expected: What the route takes, for a message.

        Raises:
            HttpError: There is none that could be an access token; recorded.
        """
        token = bearer_in(request)
        if token is None:
            raise await self._refusal(request, f"{expected} is missing")
        if not looks_like_access_token(token) or self.trusted(request) is not None:
            raise await self._refusal(request, f"the bearer token is not {expected}")
        return token

    def peer(self, request: Request) -> Peer:
        """Tell where a request comes from, as its connection and trusted proxies say."""
        return Peer.of(request, self.proxies.client_address(request.scope))

    def as_user(self, request: Request, asked: R, access_token: str) -> R:
        """Put what is known of a user in the place of what the user says; see ``ask_as_user``."""
        allowed = self.runtime.settings.user_context
        return ask_as_user(asked, access_token, self.peer(request), may_name_context=allowed)

    async def check_user(
        self,
        request: Request,
        user_id: str | None = None,
        *,
        action: str = "",
        deadline: float | None = None,
    ) -> AccessClaims:
        """Refuse who shows no access token of a living session.

        Args:
            request: The request.
            user_id: Whose token it has to be; None accepts anybody's.
            action: As in ``Admission.authenticate``.
            deadline: Likewise.

        Raises:
            HttpError: There is none; recorded.
            SessionError: It isn't accepted, or is another user's; recorded.
        """
        peer = self.peer(request)
        return await self.runtime.admission.authenticate(
            await self.access_token(request),
            user_id=user_id,
            ip=peer.ip,
            user_agent=peer.user_agent,
            action=action,
            deadline=deadline,
        )

    async def check_owner(
        self, request: Request, user_id: str, *, action: str = "", deadline: float | None = None
    ) -> Actor:
        """Refuse who is neither trusted nor the user; as ``check_user``."""
        actor = self.trusted(request)
        if actor is None:
            await self.access_token(request, _OWNER)
            await self.check_user(request, user_id, action=action, deadline=deadline)
            actor = "user"
        return actor

    def trusted(self, request: Request) -> Actor | None:
        """Tell whose token a caller has shown; None when it is none that is trusted."""
        token = bearer_in(request)
        if self.caller.matches(token):
            return "service"
        return "admin" if self.admin.matches(token) else None

    async def _refusal(self, request: Request, detail: str) -> HttpError:
        """Record that a caller is refused; returns the 401 answer."""
        token_given = bearer_in(request) is not None
        peer = self.proxies.client_address(request.scope) or "unknown"
        event_id = await self.runtime.gateway.refuse_unauthenticated(
            peer, request.url.path, charged=self.proxies.identity(request.scope)
        )
        return unauthenticated(detail, token_given=token_given, decision_id=event_id)


def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]


async def require_admin(request: Request, service: ServiceOf) -> None:
    """Guard a route with the admin token; a FastAPI dependency."""
    await service.check_admin(request)
