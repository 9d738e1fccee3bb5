"""Seeing and ending sessions where only Valkey is known: no engine, no limits, no service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from sark.admission import Admission
from sark.errors import ConfigurationError, StoreError
from sark.events import Hub
from sark.parts.decisions import generations_of
from sark.parts.limits import limiter_of
from sark.parts.sessions import open_access_tokens, open_refresh_tokens, sessions_of
from sark.parts.spill import open_queue, open_spill
from sark.ratelimit import Rules
from sark.sessions import Sessions
from sark.settings import Settings
from sark.siem import LateEvents, Refusals
from sark.store import Store, Topology

__all__ = ["open_admission"]


@contextlib.asynccontextmanager
async def open_admission(
    settings: Settings, *, hub: Hub | None = None
) -> AsyncIterator[tuple[Admission, Sessions]]:
    """Open the sessions in Valkey, and what records who ends them.

    Args:
        settings: Where Valkey is, and the keys.
        hub: Where events go.

    Raises:
        ConfigurationError: There is no ``VALKEY_URL``, or the keys cannot be used.
    """
    topology = Topology.of(settings)
    if topology is None:
        raise ConfigurationError("VALKEY_URL is not set")
    hub = hub or Hub()
    budget = settings.request_budget_ms / 1000
    # Whoever ends sessions shows no token, so no issuer has to be asked.
    alone = settings.model_copy(update={"trusted_issuers": None})
    async with (
        Store(topology, settings, hub) as store,
        open_access_tokens(alone, hub) as tokens,
        open_refresh_tokens(settings) as refresh_tokens,
        contextlib.AsyncExitStack() as stack,
    ):
        generations = generations_of(settings, store)
        sessions = sessions_of(settings, store, tokens, refresh_tokens, generations)
        spill = await stack.enter_async_context(open_spill(settings, hub))
        queue = await stack.enter_async_context(open_queue(settings, store, spill))
        late = LateEvents(queue, hub)
        stack.push_async_callback(late.close)
        refusals = Refusals(
            store,
            queue.sinks,
            queue.bounds,
            replicas=queue.replicas,
            spill=spill,
            encode=queue.encode,
        )
        stack.push_async_callback(refusals.close)
        admission = Admission(
            sessions,
            refusals=refusals,
            queue=queue,
            late=late,
            limiter=limiter_of(settings, store, Rules(None)),
            hub=hub,
            budget=budget,
        )
        yield admission, sessions
        # What stays over goes by its TTL: what was asked for is done.
        with contextlib.suppress(StoreError):
            await sessions.sweep()
