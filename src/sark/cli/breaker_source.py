"""Where the commands about breakers find them: at a running service, or in Valkey itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol
from urllib.parse import quote

import msgspec

from sark.breaker import Snapshot
from sark.breaker.control import BreakerControl
from sark.cli.service_client import ServiceClient, admin_of
from sark.errors import ConfigurationError
from sark.parts.breakers import breaker_control
from sark.settings import Settings
from sark.store import Store, Topology

__all__ = ["BreakerSource", "source_of"]

What = Literal["open", "closed", "reset"]
_ROUTES: dict[What, str] = {"open": "force-open", "closed": "force-closed", "reset": "reset"}


class BreakerSource(Protocol):
    """Sees and forces breakers. Each may raise a ``SarkError`` of one line."""

    async def list(self) -> list[Snapshot]:
        """Show all of them."""
        ...

    async def show(self, name: str) -> Snapshot:
        """Show one."""
        ...

    async def force(self, name: str, what: What, seconds: float) -> Snapshot:
        """Put one into a state by hand."""
        ...


def source_of(settings: Settings, address: str | None) -> BreakerSource:
    """Find the breakers: in Valkey with VALKEY_URL, unless a service is named.

    Raises:
        ConfigurationError: There is neither Valkey nor a service.
    """
    if address is None and settings.valkey_url is not None:
        return StoredSource(settings)
    return ServiceSource(admin_of(settings, address))


class ServiceSource:
    """Asks a service, as its administrator."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def list(self) -> list[Snapshot]:
        """See ``BreakerSource``."""
        found = await self._client.call("GET", "/v1/breakers")
        return msgspec.convert(found["breakers"], list[Snapshot])

    async def show(self, name: str) -> Snapshot:
        """See ``BreakerSource``."""
        return msgspec.convert(await self._client.call("GET", _path(name)), Snapshot)

    async def force(self, name: str, what: What, seconds: float) -> Snapshot:
        """See ``BreakerSource``."""
        query = f"?seconds={seconds:g}" if seconds else ""
        path = f"{_path(name)}/{_ROUTES[what]}{query}"
        found: Any = await self._client.call("POST", path)
        return msgspec.convert(found, Snapshot)


class StoredSource:
    """Reads and writes Valkey."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def list(self) -> list[Snapshot]:
        """See ``BreakerSource``."""
        async with self._open() as control:
            return await control.list()

    async def show(self, name: str) -> Snapshot:
        """See ``BreakerSource``."""
        async with self._open() as control:
            return await control.show(name)

    async def force(self, name: str, what: What, seconds: float) -> Snapshot:
        """See ``BreakerSource``."""
        async with self._open() as control:
            return await control.force(name, what, seconds)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[BreakerControl]:
        topology = Topology.of(self._settings)
        if topology is None:
            raise ConfigurationError("VALKEY_URL is not set")
        async with Store(topology, self._settings) as store:
            yield breaker_control(self._settings, store)


def _path(name: str) -> str:
    encoded = quote(name, safe="")
    # A segment of dots alone would be taken for a step in the path.
    return f"/v1/breakers/{encoded.replace('.', '%2E') if not encoded.strip('.') else encoded}"
