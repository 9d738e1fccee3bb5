"""Connections to one Valkey server, built on the driver's.

What is added to the driver's classes: the server's ``run_id``, read once when the connection is
made (a decision is only valid under the run that it was stored in); and ``usable``, which tells
without I/O whether an idle connection has been closed by the server or holds a stray reply.

The driver's own timeouts, retries and health checks stay off: they are the pool's and the guard's
work, under one budget for the whole call (and the driver pays for each with a task).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from valkey import asyncio as valkey_asyncio
from valkey import exceptions as driver
from valkey.asyncio.connection import parse_url

__all__ = [
    "KEEPALIVE",
    "StoreConnection",
    "TcpConnection",
    "TlsConnection",
    "UnixConnection",
    "connection_factory",
]

SERVER_CLOSED = "Connection closed by server."

# Seconds of silence before the first probe, seconds between probes, probes before giving up. The
# names matter: 1, 2 and 3 would be TCP_NODELAY, TCP_MAXSEG and TCP_CORK on Linux.
KEEPALIVE: dict[int, int] = (
    {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
    if hasattr(socket, "TCP_KEEPIDLE")
    else {}
)


class StoreConnection(valkey_asyncio.connection.AbstractConnection):
    """What the pool needs of a connection, whatever carries it.

    Attributes:
        run_id: Identity of the server process behind this connection; empty until connected.
        last_used: When the connection last gave a reply, on the event loop's clock, in seconds.
        counted: Whether the pool counts it among those that are open.
    """

    run_id: str = ""
    last_used: float = 0.0
    counted: bool = False
    _streams: asyncio.BaseProtocol | None = None

    async def on_connect(self) -> None:
        """Authenticate, select the database and learn which run of the server this is."""
        await super().on_connect()
        await self.send_command("INFO", "server", check_health=False)
        info: bytes = await self.read_response()
        self.run_id = _field(info, b"run_id")
        if not self.run_id:
            # Without it a decision would outlive a restart that forgot its revocation.
            raise driver.ConnectionError("INFO has no run_id, which cached decisions depend on")

    async def open(self) -> None:
        """Connect and shake hands, unless connected; raises the driver's errors."""
        await self.connect()  # type: ignore[no-untyped-call]

    async def disconnect(self, nowait: bool = False) -> None:
        """Close the connection.

        Args:
            nowait: Drop it with whatever is still to be sent. The driver would close it in the
                background after sending the rest, so to a server that hangs never.
        """
        if nowait and self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(nowait)

    def hand_over(self, heir: asyncio.Protocol) -> asyncio.Transport:
        """Let another protocol have the transport; this object then only keeps it alive.

        Args:
            heir: Takes over; on ``connection_lost`` it calls ``handed_over_lost``.

        Raises:
            valkey.exceptions.ConnectionError: The server has closed the connection.
        """
        if self._writer is None or not self.usable:
            raise driver.ConnectionError(SERVER_CLOSED)
        transport = cast("asyncio.Transport", self._writer.transport)
        self._streams = transport.get_protocol()
        transport.set_protocol(heir)
        return transport

    def handed_over_lost(self, error: Exception | None) -> None:
        """Tell the driver's side that the transport has ended."""
        if self._streams is not None:
            self._streams.connection_lost(error)
        self._reader = self._writer = self._streams = None

    def parse_error(self, text: str) -> Exception:
        """Find the driver's class for an error reply."""
        error: Exception = self._parser.parse_error(text)  # type: ignore[no-untyped-call]
        return error

    @property
    def usable(self) -> bool:
        """Whether a command can be sent: connected, not closed by the server, no stray bytes."""
        reader = self._reader
        # A closed connection has an end of file; a reset one has an exception instead.
        if reader is None or reader.at_eof() or reader.exception() is not None:
            return False
        empty: bool = self._socket_is_empty()  # type: ignore[no-untyped-call]
        return empty


class TcpConnection(StoreConnection, valkey_asyncio.Connection):
    """Over TCP, with keepalive that works."""


class TlsConnection(StoreConnection, valkey_asyncio.SSLConnection):
    """Over TLS."""


class UnixConnection(StoreConnection, valkey_asyncio.UnixDomainSocketConnection):
    """Over a unix socket."""

    async def _connect(self) -> None:
        # The driver's would shake hands here and again in ``connect``, and would wrap the first
        # one's errors, so that a wrong password looks like a broken connection.
        self._reader, self._writer = await asyncio.open_unix_connection(self.path)


class connection_factory:  # noqa: N801 - called like the function that it stands for
    """Makes unconnected connections to the server of one URL.

    Args:
        url: ``valkey://``, ``valkeys://``, ``redis://``, ``rediss://`` or ``unix://``.
        password: Used when the URL has none.
        client_name: Shown in the server's ``CLIENT LIST``.
    """

    def __init__(self, url: str, *, password: str | None, client_name: str) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        theirs = options.pop("connection_class", None)
        if password is not None:
            options.setdefault("password", password)
        options |= {"socket_timeout": None, "client_name": client_name}
        self._class: type[StoreConnection]
        if "path" in options:
            self._class = UnixConnection
            self.address = f"unix:{options['path']}"
        else:
            options |= {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE}
            tls = theirs is not None and issubclass(theirs, valkey_asyncio.SSLConnection)
            if tls and options.get("ssl_cert_reqs") != "none":
                # The driver's default takes any server's certificate for any other server.
                options.setdefault("ssl_check_hostname", True)
            self._class = TlsConnection if tls else TcpConnection
            self.address = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        self._options = options

    def __call__(self) -> StoreConnection:
        """Make a connection object; nothing is sent yet."""
        return self._class(**self._options)

    def __repr__(self) -> str:
        return f"connection_factory({self.address})"


def _field(info: bytes, name: bytes) -> str:
    for line in info.splitlines():
        key, _, value = line.partition(b":")
        if key == name:
            return value.decode()
    return ""
