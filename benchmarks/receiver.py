"""A process that takes HTTP requests and answers as Splunk's collector does, as fast as it can.

It stands in for a receiver where the sender is measured: it reads bodies and forgets them. Prints
its port.
"""

from __future__ import annotations

import asyncio

BODY = b'{"text":"Success","code":0}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    + BODY
)
END = b"\r\n\r\n"
LENGTH = b"content-length:"


class Taker(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._read = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go through."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - TCP writes
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._read += data
        while (head := self._read.find(END)) >= 0:
            fields = bytes(self._read[:head]).lower()
            length = int(fields.partition(LENGTH)[2].partition(b"\r\n")[0])
            whole = head + len(END) + length
            if len(self._read) < whole:
                return
            del self._read[:whole]
            if self._transport is not None:
                self._transport.write(ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Taker, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
