"""An application that several processes serve, limited by the middleware and on its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from sark.fastapi import RateLimit, RateLimitMiddleware, install, load, open_limiter

ROUTE_LIMIT = 30
ALL_LIMIT = 50


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with open_limiter(load()) as app.state.sark:
        yield


app = FastAPI(lifespan=lifespan)
install(app)
app.add_middleware(
    RateLimitMiddleware, limits=[f"{ALL_LIMIT}/hour"], exclude=["/limited", "/free*"]
)


@app.get("/limited", dependencies=[Depends(RateLimit(f"{ROUTE_LIMIT}/hour", "1000/day"))])
async def limited() -> str:
    return "limited"


@app.get("/{path:path}")
async def anything(path: str) -> str:
    return path
