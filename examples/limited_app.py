"""A FastAPI application with rate limits.

    uvicorn --no-proxy-headers examples.limited_app:app

starts it, with a Valkey of its own unless VALKEY_URL names one. uvicorn has to leave the client's
address alone, because `TrustedProxies` decides whom to believe about it. Then try

    for i in 1 2 3 4; do curl -si localhost:8000/reports | grep -i -E 'HTTP|ratelimit|retry'; done

and look at http://localhost:8000/docs, where the limited routes show their answer 429.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header

from sark.fastapi import (
    LimitExceededError,
    RateLimit,
    TrustedProxies,
    install,
    limited,
    load,
    open_limiter,
)

settings = load()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the limiter when the application starts."""
    async with open_limiter(settings) as app.state.sark:
        yield


app = FastAPI(title="Reports", lifespan=lifespan)
install(app, namespace="reports", proxies=TrustedProxies.of(settings))


def current_user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    """Stands for your authentication: it must return an id that has been verified."""
    return x_user


@app.get("/reports", dependencies=[Depends(RateLimit("3/minute"))])
async def reports() -> list[str]:
    """By the client's address."""
    return ["march", "april"]


@app.post(
    "/reports", dependencies=[Depends(RateLimit("2/second burst 5", "100/day", by=current_user))]
)
async def create_report() -> dict[str, str]:
    """By user, with two limits that are charged together; by address for who isn't logged in."""
    return {"status": "created"}


@app.get("/search", dependencies=[Depends(RateLimit("10/minute", name="reading"))])
async def search(q: str) -> list[str]:
    """Shares its counter with every route whose limit has the same name."""
    return [name for name in ("march", "april") if q in name]


@limited(lambda: app.state.sark, "2/minute", key=lambda address: ("user", address))
async def send_mail(address: str) -> None:
    """Anything can be limited; here by whom a mail goes to."""


@app.post("/reports/mail")
async def mail_report(to: str) -> dict[str, str]:
    """What the decorator raises is an ordinary exception."""
    try:
        await send_mail(to)
    except LimitExceededError as error:
        return {"status": "later", "in_seconds": str(error.retry_after)}
    return {"status": "sent"}
