"""A server whose run is not known is not used."""

from __future__ import annotations

import asyncio

import pytest

from sark.errors import StoreUnavailableError
from tests.support.gateways import open_store

NO_RUN = b"# Server\r\nvalkey_version:9.1.2\r\nrun_id:\r\n"


@pytest.mark.heavy
async def test_a_server_that_tells_no_run_is_refused() -> None:
    """Something between us and the server may mask it; then nothing could tell a restart."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            parts = [await argument(reader) for _ in range(int(line[1:]))]
            if parts[0].upper() == b"INFO":
                writer.write(b"$%d\r\n%b\r\n" % (len(NO_RUN), NO_RUN))
            else:
                writer.write(b"+OK\r\n")
        writer.close()

    async def argument(reader: asyncio.StreamReader) -> bytes:
        size = int((await reader.readline())[1:])
        return (await reader.readexactly(size + 2))[:-2]

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with open_store(f"valkey://127.0.0.1:{port}/0") as store:
            with pytest.raises(StoreUnavailableError, match="run_id"):
                await store.state.execute("GET", "x")
