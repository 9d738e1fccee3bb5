"""Rate limits for other people's FastAPI and ASGI applications; see docs/limits-http.md.

::

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_limiter(load()) as app.state.sark:
            yield

    app = FastAPI(lifespan=lifespan)
    install(app)

    @app.get("/reports", dependencies=[Depends(RateLimit("20/minute", by="ip"))])
    async def reports() -> list[str]: ...
"""

from sark.errors import LimitDeniedError, LimitExceededError
from sark.events import Hub
from sark.http.client_address import TrustedProxies
from sark.http.ratelimit_dependency import RateLimit
from sark.http.ratelimit_fields import LimitFields
from sark.http.ratelimit_install import install
from sark.http.ratelimit_middleware import RateLimitMiddleware
from sark.limiter import open_limiter
from sark.ops.health import Check, limiter_health
from sark.ops.limiter_metrics import LimiterMetrics
from sark.ratelimit import Identity, Limit, RateLimiter
from sark.ratelimit.decorator import limited
from sark.settings import load

__all__ = [
    "Check",
    "Hub",
    "Identity",
    "Limit",
    "LimitDeniedError",
    "LimitExceededError",
    "LimitFields",
    "LimiterMetrics",
    "RateLimit",
    "RateLimitMiddleware",
    "RateLimiter",
    "TrustedProxies",
    "install",
    "limited",
    "limiter_health",
    "load",
    "open_limiter",
]
