"""Where the commands about sinks find them: at a running service, or in Valkey itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from sark.cli.service_client import ServiceClient, admin_of
from sark.errors import ConfigurationError, InvalidRequestError
from sark.ops.sink_probe import SinkTest, as_documents, try_sink
from sark.ops.sinks import Sinks, collect_sinks
from sark.parts.forwarding import Forwarding, open_forwarding
from sark.settings import Settings
from sark.siem import SinkQueue
from sark.siem.sinks.registry import plan_sinks
from sark.store import Store, Topology

__all__ = ["Listed", "SiemSource", "What", "source_of"]

VALKEY_SECONDS = 5.0

Listed = Literal["queue", "newest", "failed"]
"""The oldest events of a queue, the newest, or the oldest dead letters."""
What = Literal["queue", "failed"]


class SiemSource(Protocol):
    """Sees sinks and moves their events. Each may raise a ``SarkError`` of one line."""

    async def status(self) -> Sinks:
        """Show all sinks."""
        ...

    async def read(self, sink: str, what: Listed, count: int) -> Sequence[msgspec.Raw]:
        """Read events without taking them; at most 1,000."""
        ...

    async def replay(self, sink: str, count: int) -> int:
        """Put dead letters back into the queue; at most 1,000, returns how many."""
        ...

    async def purge(self, sink: str, what: What, count: int) -> int:
        """Drop events for good; likewise."""
        ...

    async def test(self, sink: str) -> SinkTest:
        """Send a test event."""
        ...


@contextlib.asynccontextmanager
async def source_of(settings: Settings, address: str | None) -> AsyncIterator[SiemSource]:
    """Find the sinks: in Valkey with VALKEY_URL, unless a service is named.

    Raises:
        ConfigurationError: There is neither Valkey nor a service.
    """
    topology = Topology.of(settings)
    if address is not None or topology is None:
        yield ServiceSource(admin_of(settings, address))
        return
    plans = plan_sinks(settings)
    async with (
        Store(topology, settings) as store,
        open_forwarding(settings, store, plans, forward=False) as forwarding,
    ):
        yield StoredSource(forwarding)


class ServiceSource:
    """Asks a service, as its administrator."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def status(self) -> Sinks:
        """See ``SiemSource``."""
        return msgspec.convert(await self._client.call("GET", "/v1/siem"), Sinks)

    async def read(self, sink: str, what: Listed, count: int) -> Sequence[msgspec.Raw]:
        """See ``SiemSource``."""
        newest = "&newest=true" if what == "newest" else ""
        place = "failed" if what == "failed" else "events"
        path = f"/v1/siem/{_checked(sink)}/{place}?count={count}{newest}"
        found = await self._client.call("GET", path)
        return [msgspec.Raw(msgspec.json.encode(each)) for each in found["events"]]

    async def replay(self, sink: str, count: int) -> int:
        """See ``SiemSource``."""
        return await self._move(f"/v1/siem/{_checked(sink)}/replay", {"count": count})

    async def purge(self, sink: str, what: What, count: int) -> int:
        """See ``SiemSource``."""
        body = {"what": what, "count": count}
        return await self._move(f"/v1/siem/{_checked(sink)}/purge", body)

    async def test(self, sink: str) -> SinkTest:
        """See ``SiemSource``."""
        found = await self._client.call("POST", f"/v1/siem/{_checked(sink)}/test")
        return msgspec.convert(found, SinkTest)

    async def _move(self, path: str, body: dict[str, Any]) -> int:
        return int((await self._client.call("POST", path, body))["events"])


class StoredSource:
    """Reads and writes Valkey; a test event is sent by this process."""

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding = forwarding

    async def status(self) -> Sinks:
        """See ``SiemSource``."""
        return await collect_sinks(self._forwarding, budget=VALKEY_SECONDS)

    async def read(self, sink: str, what: Listed, count: int) -> Sequence[msgspec.Raw]:
        """See ``SiemSource``."""
        queue = self._queue(sink)
        readers = {"queue": queue.peek, "newest": queue.newest, "failed": queue.failed}
        return as_documents(await readers[what](count))

    async def replay(self, sink: str, count: int) -> int:
        """See ``SiemSource``."""
        return await self._queue(sink).replay(count)

    async def purge(self, sink: str, what: What, count: int) -> int:
        """See ``SiemSource``."""
        return await self._queue(sink).purge(what, count)

    async def test(self, sink: str) -> SinkTest:
        """See ``SiemSource``."""
        self._queue(sink)
        return await try_sink(self._forwarding.plans[sink])

    def _queue(self, sink: str) -> SinkQueue:
        queues = self._forwarding.queues
        if sink not in queues:
            known = ", ".join(queues)
            reason = f"got {sink[:64]!r}, expected one of: {known} (SARK_SIEM_SINKS)"
            raise InvalidRequestError("SINK", reason)
        return queues[sink]


def _checked(sink: str) -> str:
    """Refuse what can be no sink's name, and would change the path."""
    if not sink.isascii() or not sink.replace("_", "a").isalnum():
        raise ConfigurationError(f"SINK: got {sink[:64]!r}, expected the name of a sink")
    return sink
