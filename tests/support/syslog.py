"""A syslog receiver in the test's own loop, and a reader of RFC 5424 messages.

Independent of the product's writer: the reader follows the RFC's grammar, section 6.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["Message", "SyslogServer", "read_message", "serve_once", "split_frames"]

CHUNK_BYTES = 4096
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEADER = re.compile(
    rb"<(?P<pri>0|[1-9]\d{0,2})>1 (?P<time>\S+) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) "
    rb"(?P<process>[!-~]{1,128}) (?P<msgid>[!-~]{1,32}) "
)
DATA = re.compile(
    rb'\[(?P<id>[^ =\]"]{1,32})(?P<params>(?: [^ =\]"]{1,32}="(?:[^"\\\]]|\\.)*")*)\]'
)
PARAM = re.compile(rb' (?P<name>[^ =\]"]+)="(?P<value>(?:[^"\\\]]|\\.)*)"')
LARGEST_PRIORITY = 191


class Message(NamedTuple):
    """The parts of one message."""

    facility: int
    severity: int
    time: datetime
    host: str
    app: str
    process: str
    msgid: str
    data_id: str
    params: dict[str, str]
    marked: bool
    body: bytes


def read_message(text: bytes) -> Message:
    """Take a message apart.

    Raises:
        AssertionError: It is none.
    """
    header = HEADER.match(text)
    assert header is not None, text[:200]
    data = DATA.match(text, header.end())
    assert data is not None, text[:300]
    priority = int(header["pri"])
    assert priority <= LARGEST_PRIORITY
    rest = text[data.end() :]
    assert rest.startswith(b" ")
    marked = rest[1:].startswith(BYTE_ORDER_MARK)
    params = {
        found["name"].decode(): re.sub(rb"\\(.)", rb"\1", found["value"]).decode()
        for found in PARAM.finditer(data["params"])
    }
    return Message(
        facility=priority // 8,
        severity=priority % 8,
        time=datetime.fromisoformat(header["time"].decode()),
        host=header["host"].decode(),
        app=header["app"].decode(),
        process=header["process"].decode(),
        msgid=header["msgid"].decode(),
        data_id=data["id"].decode(),
        params=params,
        marked=marked,
        body=rest[4:] if marked else rest[1:],
    )


def split_frames(stream: bytes | bytearray) -> tuple[list[bytes], bytes]:
    """Cut a stream at its counted lengths; gives the whole messages, and what is left."""
    frames, at = [], 0
    while match := re.compile(rb"([1-9]\d*) ").match(stream, at):
        end = match.end() + int(match[1])
        if end > len(stream):
            break
        frames.append(bytes(stream[match.end() : end]))
        at = end
    return frames, bytes(stream[at:])


def serve_once(
    listener: socket.socket, *, tls: ssl.SSLContext | None = None, most: int | None = None
) -> bytes:
    """Take one connection as a plain blocking program does; give what was read from it.

    Unlike a loop's, its reads go to the kernel one by one, so it knows what was left unread there.

    Args:
        listener: A listening socket.
        tls: Serve with this context.
        most: Close after so many bytes, rather than at the end.
    """
    connection, _ = listener.accept()
    try:
        if tls is not None:
            connection = tls.wrap_socket(connection, server_side=True)
        taken = bytearray()
        while most is None or len(taken) < most:
            left = CHUNK_BYTES if most is None else min(CHUNK_BYTES, most - len(taken))
            piece = connection.recv(left)
            if not piece:
                break
            taken += piece
        return bytes(taken)
    finally:
        connection.close()


class SyslogServer:
    """Receives messages on a free port.

    Args:
        tls: Serve with this context.

    Attributes:
        connections: How many connections there were.
        reads_at_most: Bytes after which it resets a connection, without a look at the rest.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.connections = 0
        self.reads_at_most: int | None = None
        self._tls = tls
        self._streams: list[bytearray] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Event()
        self._reading.set()
        self._server: asyncio.Server | None = None

    @property
    def messages(self) -> list[Message]:
        """The whole messages so far, connection by connection."""
        return [
            read_message(frame) for stream in self._streams for frame in split_frames(stream)[0]
        ]

    @property
    def ids(self) -> list[str]:
        """The ids of the events in them."""
        return [message.params["eventId"] for message in self.messages]

    async def start(self) -> None:
        """Listen, on the port that it had before if there was one."""
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self._tls, limit=CHUNK_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def hang(self) -> None:
        """Read nothing from now on."""
        self._reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._reading.set()

    async def drop(self) -> None:
        """Close the connections, in order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Close the connections, and listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        stream = bytearray()
        self._streams.append(stream)
        try:
            await self._read(reader, writer, stream)
        except (OSError, asyncio.CancelledError):
            pass  # a broken or dropped connection is what this is for
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: bytearray
    ) -> None:
        while True:
            await self._reading.wait()
            piece = await reader.read(CHUNK_BYTES)
            if not piece:
                return
            stream += piece
            if self.reads_at_most is not None and len(stream) >= self.reads_at_most:
                writer.transport.abort()
                return
