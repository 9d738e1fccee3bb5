"""The HTTP service."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp

import sark
from sark.http import (
    breakers,
    cache,
    invalidation,
    jwks,
    limits,
    openapi,
    operations,
    problems,
    sessions,
    siem,
    user_sessions,
    warming,
)
from sark.http.authorize import AUTHORIZE_PATH, authorize
from sark.http.batch import BATCH_PATH, authorize_batch
from sark.http.body_limit import BodyLimit
from sark.http.client_address import TrustedProxies
from sark.http.credentials import Credential
from sark.http.ratelimit_fields import LimitFields
from sark.http.service import Service
from sark.http.shortcut import Shortcut
from sark.ops.cache_stats import CacheCounts
from sark.ops.metrics import Metrics
from sark.ops.session_stats import SessionCounts
from sark.runtime import Runtime

__all__ = ["create_app"]


def create_app(runtime: Runtime, metrics: Metrics) -> ASGIApp:
    """Build the application that serves an open runtime.

    Args:
        runtime: What to serve; it must outlive the application.
        metrics: What to show under ``/metrics``.
    """
    settings = runtime.settings
    limit_fields = LimitFields.of(settings)
    app = FastAPI(
        title="SARK",
        version=sark.__version__,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(
                BodyLimit,
                max_bytes=settings.max_body_bytes,
                exceptions={
                    BATCH_PATH: settings.max_batch_body_bytes,
                    warming.WARM_PATH: settings.max_batch_body_bytes,
                },
            )
        ],
    )
    app.state.service = Service(
        runtime=runtime,
        metrics=metrics,
        cache_counts=CacheCounts(runtime.hub),
        session_counts=SessionCounts(runtime.hub),
        admin=Credential(settings.admin_token),
        caller=Credential(settings.service_token),
        proxies=TrustedProxies.of(settings),
        limit_fields=limit_fields,
    )
    problems.install(app, limit_fields)
    app.add_route(AUTHORIZE_PATH, authorize, methods=["POST"], include_in_schema=False)
    app.add_route(BATCH_PATH, authorize_batch, methods=["POST"], include_in_schema=False)
    app.include_router(operations.router)
    app.include_router(invalidation.router)
    app.include_router(cache.router)
    app.include_router(warming.router)
    app.include_router(limits.router)
    app.include_router(breakers.router)
    app.include_router(sessions.router)
    app.include_router(user_sessions.router)
    app.include_router(siem.router)
    app.include_router(jwks.router)
    openapi.install(app, limit_fields)
    return Shortcut(app, AUTHORIZE_PATH, authorize, max_bytes=settings.max_body_bytes)
