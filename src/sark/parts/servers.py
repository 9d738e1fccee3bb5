"""The servers, opened from the settings; the embedded one where none is named."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from sark.events import Hub
from sark.parts.access import check_access
from sark.parts.background import background
from sark.parts.kept_ends import check_ends_are_kept, embedded_options
from sark.settings import Settings
from sark.store import Store, Topology
from sark.store.embedded import EmbeddedServer
from sark.store.embedded.watch import keep_running

__all__ = ["open_servers"]


@contextlib.asynccontextmanager
async def open_servers(
    settings: Settings, hub: Hub, *, ephemeral: bool
) -> AsyncIterator[tuple[Store, EmbeddedServer | None]]:
    """Open the servers, and start the embedded one if no ``VALKEY_URL`` is given.

    Args:
        settings: Where they are.
        hub: Where events go.
        ephemeral: Let the embedded server forget its data at the end.

    Raises:
        ConfigurationError: The embedded server doesn't start, a server refuses the password, or the
            one of the state forgets what sessions of outside issuers rely on.
    """
    async with contextlib.AsyncExitStack() as stack:
        embedded = None
        topology = Topology.of(settings)
        if topology is None:
            embedded = EmbeddedServer(
                settings.data_dir, ephemeral=ephemeral, options=embedded_options(settings)
            )
            await stack.enter_async_context(embedded)
            # Ends before the server is stopped, so that it is not started again then.
            await stack.enter_async_context(background(keep_running(embedded), "sark-embedded"))
            topology = Topology.single(embedded.url)
        store = await stack.enter_async_context(Store(topology, settings, hub))
        if embedded is None:
            await check_access(store)
        await check_ends_are_kept(settings, store)
        yield store, embedded
