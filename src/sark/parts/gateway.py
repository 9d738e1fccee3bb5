"""The request path, opened from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

from sark.gateway import Gateway
from sark.parts.background import background
from sark.parts.limits import limiter_of
from sark.parts.spill import open_queue
from sark.policy.decisions import Decisions
from sark.ratelimit import Rules
from sark.sessions import Sessions
from sark.settings import Settings
from sark.siem.lasting import lasting
from sark.siem.spill import Spill
from sark.store import Store

__all__ = ["open_gateway"]

REFUSALS_INTERVAL_SECONDS = 1.0
LATE_INTERVAL_SECONDS = 1.0


@contextlib.asynccontextmanager
async def open_gateway(
    settings: Settings,
    store: Store,
    decisions: Decisions,
    limits: Rules,
    sessions: Sessions,
    *,
    spill: Spill | None,
) -> AsyncIterator[Gateway]:
    """Open the request path with what runs beside it; at the end its events are flushed."""
    async with contextlib.AsyncExitStack() as stack:
        gateway = Gateway(
            store,
            policies=settings.policies,
            decisions=decisions,
            limiter=limiter_of(settings, store, limits),
            queue=await stack.enter_async_context(open_queue(settings, store, spill)),
            budget=settings.request_budget_ms / 1000,
            sessions=sessions,
        )
        keep_late = partial(gateway.late.append_forever, interval=LATE_INTERVAL_SECONDS)
        close_due = partial(gateway.refusals.close_due_forever, interval=REFUSALS_INTERVAL_SECONDS)
        beside = {
            "sark-near-limits": gateway.limiter.near.flush_forever(),
            "sark-late-audit": lasting(keep_late, "the appending of late events"),
            "sark-refusals": lasting(close_due, "the closing of refusals"),
        }
        stack.push_async_callback(gateway.late.close)
        stack.push_async_callback(gateway.refusals.close)
        for name, work in beside.items():
            await stack.enter_async_context(background(work, name))
        stack.push_async_callback(decisions.evaluations.close)
        if decisions.near is not None:
            decisions.near.start()
            stack.push_async_callback(decisions.near.close)
        yield gateway
