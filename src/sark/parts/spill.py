"""The spill store, opened from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from sark.errors import AuditError
from sark.events import Hub
from sark.parts.background import background
from sark.settings import Settings
from sark.siem import EventQueue, QueueBounds
from sark.siem.encoding import EventEncoder
from sark.siem.lasting import lasting
from sark.siem.spill import Replay, Spill
from sark.store import Store

__all__ = ["open_queue", "open_spill", "spill_folder"]


def spill_folder(settings: Settings) -> Path:
    """Tell where spilled events wait."""
    return settings.spill_dir or settings.data_dir / "spill"


@contextlib.asynccontextmanager
async def open_spill(settings: Settings, hub: Hub) -> AsyncIterator[Spill | None]:
    """Open the spill store; None when it may hold nothing. What waits at the end stays on disk."""
    if not settings.spill_max_bytes:
        yield None
        return
    spill = Spill(
        spill_folder(settings),
        max_bytes=settings.spill_max_bytes,
        sync=settings.spill_sync,
        overflow=settings.siem_overflow,
        hub=hub,
    )
    try:
        yield spill
    finally:
        # A disk that refuses has been reported; nothing is lost by not closing the files in order.
        with contextlib.suppress(AuditError):
            await spill.close()


@contextlib.asynccontextmanager
async def open_queue(
    settings: Settings, store: Store, spill: Spill | None
) -> AsyncIterator[EventQueue]:
    """Open the queue, and replay what was spilled; at the end pending events are flushed."""
    queue = EventQueue(
        store,
        [sink.name for sink in settings.sinks],
        QueueBounds(settings.siem_max_events, settings.siem_max_bytes),
        flush_timeout=settings.request_budget_ms / 1000,
        replicas=settings.effective_wait_replicas,
        spill=spill,
        overflow=settings.siem_overflow,
        encode=EventEncoder(settings.siem_redact, max_bytes=settings.siem_event_bytes),
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(queue.close)
        if spill is not None:
            replay = Replay(spill, queue.put_back, sinks=queue.sinks, hub=store.hub)
            replaying = lasting(replay.run, "the replay of spilled events")
            await stack.enter_async_context(background(replaying, "sark-replay"))
        yield queue
