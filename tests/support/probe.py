"""What code costs on the way to the server: commands and round trips."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import valkey

from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

# What a driver sends when it opens a connection.
GREETINGS = frozenset({"auth", "hello", "select", "client|setinfo", "client|setname"})


class CommandCount:
    """Commands and round trips since the block began or ``reset`` was called.

    Args:
        client: Asks the server for its counts, by a connection of its own.
        proxy: What the code under test talks through.
    """

    def __init__(self, client: valkey.Valkey, proxy: FaultProxy) -> None:
        self._client = client
        self._proxy = proxy
        self.reset()

    @property
    def round_trips(self) -> int:
        """How often an answer was waited for, on any connection; a pipeline counts once.

        Opening a connection costs round trips too: warm the code up and ``reset`` first.
        """
        return self._proxy.round_trips - self._round_trips_before

    @property
    def connections(self) -> int:
        """How many connections were opened."""
        return self._proxy.connections - self._connections_before

    @property
    def commands(self) -> Counter[str]:
        """The server's count of each command, without a connection's greetings.

        Those that a script runs are among them; containers look like ``client|list``.
        """
        now = self._calls()
        now["info"] -= self._own_infos
        self._own_infos += 1
        now.subtract(self._calls_before)
        return Counter({name: n for name, n in now.items() if n and name not in GREETINGS})

    def reset(self) -> None:
        """Count from now on."""
        self._calls_before = self._calls()
        # The server counts a command after its reply: this INFO is not in the numbers it brought.
        self._own_infos = 1
        self._round_trips_before = self._proxy.round_trips
        self._connections_before = self._proxy.connections

    def _calls(self) -> Counter[str]:
        statistics = cast("dict[str, dict[str, int]]", self._client.info("commandstats"))
        return Counter(
            {name.removeprefix("cmdstat_"): values["calls"] for name, values in statistics.items()}
        )


@asynccontextmanager
async def count_round_trips(server: ValkeyServer) -> AsyncIterator[tuple[str, CommandCount]]:
    """Count what code costs.

    Args:
        server: The server; nothing else should talk to it meanwhile.

    Yields:
        The URL for the code under test, and the counts so far.
    """
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy.url(server.password), CommandCount(server.client(), proxy)
