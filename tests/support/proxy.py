"""A TCP proxy in the test's own loop that can behave like a bad network."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65536


class FaultProxy:
    """Forwards connections to a server until told to do something worse.

    Args:
        upstream_host: Where the server is.
        upstream_port: Its port.

    Attributes:
        host: Where clients connect.
        port: The port for clients, once started; it stays the same through ``refuse``.
        connections: How many connections were accepted.
        bytes_up: Bytes forwarded from clients to the server.
        bytes_down: Bytes forwarded from the server to clients.
        round_trips: How often the server answered after a client had sent something. Requests
            that are sent together count once.
    """

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self._upstream = (upstream_host, upstream_port)
        self.host = "127.0.0.1"
        self.port = 0
        self.connections = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.round_trips = 0
        self._delay = 0.0
        self._passing = asyncio.Event()
        self._passing.set()
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def url(self, password: str) -> str:
        """Give the server's URL by way of this proxy.

        Args:
            password: The server's password.
        """
        return f"valkey://:{password}@{self.host}:{self.port}/0"

    async def start(self) -> None:
        """Listen, on the port it had before if there was one."""
        if self._listener is not None:
            return
        self._listener = await asyncio.start_server(
            self._accept, self.host, self.port, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        self.refuse()
        await self.drop()

    async def forward(self) -> None:
        """Heal: listen, let held bytes go, and hold or delay none."""
        self._delay = 0.0
        self._passing.set()
        await self.start()

    def blackhole(self) -> None:
        """Accept and keep connections, but let nothing pass; ``forward`` delivers what was held."""
        self._passing.clear()

    def delay(self, seconds: float) -> None:
        """Hold each piece for some time, in each direction.

        Args:
            seconds: How long; 0 ends it.
        """
        self._delay = seconds

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def drop(self) -> None:
        """Close all connections; new ones are accepted."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            await self._link(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a broken or dropped connection is what this is for
        finally:
            self._links.discard(link)
            await _close(writer)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        turn = _Turn()
        pumps = [
            asyncio.create_task(self._pump_up(reader, server_writer, turn)),
            asyncio.create_task(self._pump_down(server_reader, writer, turn)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server_writer.transport.abort()  # first: ``drop`` may cancel the waits below
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await _close(server_writer)

    async def _pump_up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: _Turn
    ) -> None:
        while piece := await self._read(reader):
            turn.asked = True
            self.bytes_up += len(piece)
            writer.write(piece)
            await writer.drain()

    async def _pump_down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: _Turn
    ) -> None:
        while piece := await self._read(reader):
            if turn.asked:
                turn.asked = False
                self.round_trips += 1
            self.bytes_down += len(piece)
            writer.write(piece)
            await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """Read a piece, or the end, and hold it for as long as the network does."""
        piece = await reader.read(CHUNK_BYTES)
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._passing.wait()
        return piece


class _Turn:
    """Whether a connection's client has sent something since the server's last answer."""

    def __init__(self) -> None:
        self.asked = False


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


def unused_address() -> tuple[str, int]:
    """Name an address where nothing listens: connecting is refused."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
    return "127.0.0.1", port
