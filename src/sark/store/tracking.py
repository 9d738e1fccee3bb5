"""A feed of changed keys.

Server-assisted client-side caching (Valkey documentation, "client tracking").

One connection in RESP2 asks for broadcasts about key prefixes, redirected to itself, and subscribes
to them. Every write to such a key, whoever made it, arrives here. A heartbeat on the same
connection tells how far the feed has come: the server answers in order, so when the answer to a
heartbeat arrives, everything that changed before that heartbeat was *sent* has arrived too. The
moment of sending is therefore what a local copy is known to be coherent up to.

When the connection breaks, everything local must be dropped at once: changes may have been missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from valkey import exceptions as driver

from sark.store.connection import StoreConnection, connection_factory

__all__ = ["ChangeFeed"]

INVALIDATE_CHANNEL = b"__redis__:invalidate"
CONNECT_TIMEOUT_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
# A connection whose heartbeats stay unanswered for so long is given up.
GIVE_UP_SECONDS = 2.0


class ChangeFeed:
    """Listens to one server.

    Args:
        connections: Makes connections to the server.
        prefixes: Key prefixes to hear about.
        channel: A channel to listen to on the same connection. The server sends a message at once,
            and word of changed keys when it has dealt with what came in together: a message that
            tells of a change comes before it.
        on_change: Given the names of changed keys, or None when everything may have changed.
        on_message: Given each message of the channel.
        interval: Seconds between heartbeats.
    """

    def __init__(
        self,
        connections: connection_factory,
        *,
        prefixes: Sequence[str],
        channel: str,
        on_change: Callable[[Sequence[bytes] | None], None],
        on_message: Callable[[bytes], None],
        interval: float,
    ) -> None:
        self._connections = connections
        self._prefixes = prefixes
        self._channel = channel.encode()
        self._on_change = on_change
        self._on_message = on_message
        self._interval = interval
        self._beats: dict[bytes, float] = {}
        self._task: asyncio.Task[None] | None = None
        self.coherent_at = float("-inf")
        """Up to when everything has been heard, on the event loop's clock, in seconds."""
        self.reconnects = 0
        self.failure = ""
        """Why there is no connection; empty while there is one, and before the first attempt."""

    @property
    def connected(self) -> bool:
        """Whether changes are being heard."""
        return self.coherent_at > float("-inf")

    def start(self) -> None:
        """Listen in the background until ``close``."""
        self._task = asyncio.create_task(self._listen_forever(), name="sark-changes")

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._lost()

    async def _listen_forever(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            connection = self._connections()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await self._subscribe(connection)
                pause = FIRST_PAUSE_SECONDS
                await self._listen(connection)
            except (driver.ValkeyError, OSError, TimeoutError) as error:
                # Told by ``failure``; requests go on without local copies meanwhile.
                self.failure = str(error) or "no answer in time"
                self.reconnects += 1
            finally:
                self._lost()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _subscribe(self, connection: StoreConnection) -> None:
        """Switch tracking on; anything local from before the first heartbeat is worthless."""
        await connection.open()
        await connection.send_command("CLIENT", "ID", check_health=False)
        number: int = await connection.read_response()
        prefixes = [part for prefix in self._prefixes for part in ("PREFIX", prefix)]
        tracking = ("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", *prefixes)
        await connection.send_command(*tracking, check_health=False)
        await connection.read_response()
        await connection.send_command(
            "SUBSCRIBE", INVALIDATE_CHANNEL, self._channel, check_health=False
        )
        for _ in range(2):
            await connection.read_response()
        self._on_change(None)

    async def _listen(self, connection: StoreConnection) -> None:
        beat = asyncio.create_task(self._beat(connection), name="sark-heartbeat")
        try:
            while True:
                self._take(await connection.read_response())
        finally:
            beat.cancel()
            # Its own failure shows as the end of the stream that is read here.
            await asyncio.gather(beat, return_exceptions=True)

    async def _beat(self, connection: StoreConnection) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            number += 1
            name = str(number).encode()
            self._beats[name] = loop.time()
            await connection.send_command("PING", name, check_health=False)
            await asyncio.sleep(self._interval)
            oldest = next(iter(self._beats.values()), None)
            if oldest is not None and loop.time() - oldest > GIVE_UP_SECONDS:
                await connection.disconnect(nowait=True)
                return

    def _take(self, reply: Any) -> None:
        match reply:
            case [b"pong", name]:
                sent = self._beats.pop(name, None)
                if sent is not None:
                    self.coherent_at = sent
                    self.failure = ""
            case [b"message", b"__redis__:invalidate", keys]:
                self._on_change(keys)
            case [b"message", _, message]:
                self._on_message(message)

    def _lost(self) -> None:
        self.coherent_at = float("-inf")
        self._beats.clear()
        self._on_change(None)
