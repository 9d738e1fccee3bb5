"""The pool of exclusive connections: bounded, fair, counted, never handing out a dead connection.

With a size of 1 there is no shared connection, and every call goes over the pool. With more, two of
them are set aside for what is shared.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import cast

import pytest
import valkey

from sark.errors import (
    PoolExhaustedError,
    StoreCommandError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.store import Server
from sark.store.connection import KEEPALIVE
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.stores import CLIENT_NAME, alone, idle_of, open_server, pool_of

# Generous, for machines that are busy with something else.
MARGIN_SECONDS = 1.0
SET_ASIDE = 2


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def all_busy(
    server: Server, client: valkey.Valkey, calls: int
) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Occupy connections with calls that block until the end of the block."""
    blocked: list[asyncio.Task[object]] = [
        asyncio.create_task(server.execute("BLPOP", "gate", 0, deadline=now() + 60))
        for _ in range(calls)
    ]
    try:
        await until(
            lambda: cast("dict[str, int]", client.info("clients"))["blocked_clients"] == calls,
            within=5,
            what=f"{calls} calls block on the server",
        )
        yield blocked
    finally:
        client.rpush("gate", *range(calls))
        await asyncio.gather(*blocked)


async def test_500_concurrent_calls_use_no_more_connections_than_allowed(
    server: ValkeyServer,
) -> None:
    async with open_server(server.url, pool_size=4 + SET_ASIDE) as store:
        *lists, _ = await asyncio.gather(
            *(store.execute("CLIENT", "LIST") for _ in range(500)),
            asyncio.gather(*(store.execute("PING") for _ in range(500))),
        )
        stats = store.pool_stats()
    ours = [listing.count(f"name={CLIENT_NAME} ".encode()) for listing in lists]
    assert max(ours) == 4 + 1
    assert stats.connects == 4 + 1
    assert (stats.in_use, stats.idle, stats.waiters, stats.in_flight) == (0, 4 + 1, 0, 0)
    assert stats.waits == 496 + 500


async def test_one_connection_is_enough_for_everything(server: ValkeyServer) -> None:
    async with open_server(server.url, pool_size=1) as store:
        lists: list[bytes] = await asyncio.gather(
            *(store.execute("CLIENT", "LIST") for _ in range(50))
        )
        await asyncio.gather(*(store.execute("PING") for _ in range(50)))
        assert store.pool_stats().connects == 1
    assert {listing.count(f"name={CLIENT_NAME} ".encode()) for listing in lists} == {1}


@pytest.mark.parametrize("size", [2, 3])
async def test_however_few_there_are_they_are_kept_to(server: ValkeyServer, size: int) -> None:
    async with open_server(server.url, pool_size=size) as store:
        *lists, _ = await asyncio.gather(
            *(store.execute("CLIENT", "LIST") for _ in range(50)),
            asyncio.gather(*(store.execute("PING") for _ in range(50))),
        )
    assert max(listing.count(f"name={CLIENT_NAME} ".encode()) for listing in lists) <= size


async def test_a_quiet_service_needs_one_connection(server: ValkeyServer) -> None:
    async with open_server(server.url, pool_size=4 + SET_ASIDE) as store:
        await asyncio.gather(*(alone(store, "PING") for _ in range(4)))
        assert store.pool_stats().idle == 4
        ids = {await store.execute("CLIENT", "ID") for _ in range(50)}
    assert len(ids) == 1


async def test_callers_are_served_in_the_order_of_their_arrival(server: ValkeyServer) -> None:
    """Also against callers that come back at once after each call."""
    tickets = count()
    async with open_server(server.url, pool_size=1) as store:

        async def caller() -> None:
            for _ in range(20):
                await store.execute("RPUSH", "order", next(tickets))

        await asyncio.gather(*(caller() for _ in range(50)))
        served = [int(ticket) for ticket in await store.execute("LRANGE", "order", 0, -1)]
        await store.execute("DEL", "order")
    assert served == list(range(1000))


async def test_nobody_is_overtaken_by_more_than_the_pool_is_wide(server: ValkeyServer) -> None:
    tickets = count()
    async with open_server(server.url, pool_size=4 + SET_ASIDE) as store:

        async def caller() -> None:
            for _ in range(20):
                await alone(store, "RPUSH", "order", next(tickets))

        await asyncio.gather(*(caller() for _ in range(50)))
        served = [int(ticket) for ticket in await store.execute("LRANGE", "order", 0, -1)]
        await store.execute("DEL", "order")
    assert sorted(served) == list(range(1000))
    # The first calls also connect, which takes a different time on each connection.
    displaced = [abs(place - ticket) for place, ticket in enumerate(served) if place >= 100]
    assert max(displaced) <= 4


async def test_the_counts_are_exact(server: ValkeyServer) -> None:
    client = server.client()
    async with open_server(server.url, pool_size=2 + SET_ASIDE) as store:
        async with all_busy(store, client, 2):
            waiting = [asyncio.create_task(alone(store, "ECHO", n)) for n in range(3)]
            await until(lambda: store.pool_stats().waiters == 3, within=5, what="three wait")
            stats = store.pool_stats()
            assert (stats.size, stats.in_use, stats.idle) == (2 + SET_ASIDE, 2, 0)
            assert (stats.waits, stats.exhausted, stats.connects) == (3, 0, 2)
        assert await asyncio.gather(*waiting) == [b"0", b"1", b"2"]
        stats = store.pool_stats()
        assert (stats.in_use, stats.idle, stats.waiters) == (0, 2, 0)
        assert (stats.waits, stats.exhausted, stats.connects) == (3, 0, 2)
        assert (stats.connect_failures, stats.discarded) == (0, 0)
        assert stats.wait_seconds > 0


async def test_without_a_free_connection_a_call_ends_at_its_deadline(server: ValkeyServer) -> None:
    client = server.client()
    async with open_server(server.url, pool_size=2 + SET_ASIDE) as store:
        async with all_busy(store, client, 2):
            started = now()
            results = await asyncio.gather(
                *(alone(store, "PING", deadline=started + 0.1) for _ in range(10)),
                return_exceptions=True,
            )
            assert 0.1 <= now() - started <= 0.1 + MARGIN_SECONDS
            assert {type(result) for result in results} == {PoolExhaustedError}
            stats = store.pool_stats()
            assert (stats.exhausted, stats.waiters, stats.in_use) == (10, 0, 2)
            # Who shares a connection is not held up.
            assert await store.execute("PING") == b"PONG"
            # Our own lack of connections says nothing about the server.
            assert not store.guard.is_open
            assert store.guard.failures == 0
        assert await alone(store, "PING") == b"PONG"


async def test_a_waiter_that_gave_up_is_passed_over(server: ValkeyServer) -> None:
    client = server.client()
    async with open_server(server.url, pool_size=1) as store:
        async with all_busy(store, client, 1):
            gives_up = asyncio.create_task(store.execute("PING"))
            patient = asyncio.create_task(store.execute("ECHO", "served"))
            await until(lambda: store.pool_stats().waiters == 2, within=5, what="both wait")
            gives_up.cancel()
            await asyncio.wait([gives_up])
            assert gives_up.cancelled()
        assert await patient == b"served"
        assert (store.pool_stats().in_use, store.pool_stats().idle) == (0, 1)


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancel-release", "release-cancel"])
async def test_a_connection_is_not_lost_on_a_waiter_cancelled_as_it_is_handed_over(
    server: ValkeyServer, cancel_first: bool
) -> None:
    async with open_server(server.url, pool_size=1) as store:
        await store.execute("PING")
        connection = pool_of(store).take()
        assert connection is not None
        waiting = asyncio.create_task(store.execute("PING"))
        await until(lambda: store.pool_stats().waiters == 1, within=5, what="it waits")
        if cancel_first:
            waiting.cancel()
            await pool_of(store).release(connection, clean=True)
        else:
            await pool_of(store).release(connection, clean=True)
            waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        stats = store.pool_stats()
        assert (stats.in_use, stats.idle, stats.waiters) == (0, 1, 0)
        assert await store.execute("PING") == b"PONG"
        assert store.pool_stats().connects == 1


async def test_keepalive_is_in_force_on_the_socket(server: ValkeyServer) -> None:
    async with open_server(server.url) as store:
        await alone(store, "PING")
        (connection,) = idle_of(store)
        assert connection._writer is not None
        raw = connection._writer.transport.get_extra_info("socket")
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert {
            option: raw.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE
        } == KEEPALIVE
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_a_connection_that_the_server_closed_costs_no_call(server: ValkeyServer) -> None:
    client = server.client()
    async with open_server(server.url, pool_size=3 + SET_ASIDE) as store:
        await asyncio.gather(*(alone(store, "PING") for _ in range(3)))
        closed = idle_of(store).copy()
        assert len(closed) == 3
        client.client_kill_filter(_type="normal", skipme=True)
        await until(
            lambda: not any(connection.usable for connection in closed),
            within=5,
            what="the closed connections are noticed",
        )
        assert await asyncio.gather(*(alone(store, "ECHO", n) for n in range(3))) == [
            b"0",
            b"1",
            b"2",
        ]
        stats = store.pool_stats()
        assert (stats.connects, stats.discarded, stats.connect_failures) == (6, 3, 0)
        assert store.guard.failures == 0


async def test_a_message_that_nobody_asked_for_is_no_ones_reply(server: ValkeyServer) -> None:
    client = server.client()
    async with open_server(server.url, pool_size=1) as store:
        await store.execute("SUBSCRIBE", "news")
        (subscribed,) = idle_of(store)
        client.publish("news", "stray")
        await until(lambda: not subscribed.usable, within=5, what="the message is noticed")
        assert await store.execute("ECHO", "mine") == b"mine"
        assert store.pool_stats().discarded == 1


async def test_idle_connections_are_checked_after_the_interval_and_not_before(
    server: ValkeyServer,
) -> None:
    client = server.client()

    def pings() -> int:
        statistics = cast("dict[str, dict[str, int]]", client.info("commandstats"))
        return statistics.get("cmdstat_ping", {"calls": 0})["calls"]

    async with open_server(server.url, pool_size=1, health_check_interval=30) as store:
        for n in range(5):
            await store.execute("ECHO", n)
        before = pings()
        idle_of(store)[0].last_used -= 29
        assert await store.execute("ECHO", "a") == b"a"
        assert pings() == before
        idle_of(store)[0].last_used -= 31
        assert await store.execute("ECHO", "b") == b"b"
        assert pings() == before + 1
        assert await store.execute("ECHO", "c") == b"c"
        assert pings() == before + 1
        assert store.pool_stats().connects == 1


async def test_without_an_interval_nothing_is_checked(server: ValkeyServer) -> None:
    client = server.client()
    async with open_server(server.url, pool_size=1) as store:
        await store.execute("ECHO", "a")
        client.config_resetstat()
        idle_of(store)[0].last_used -= 1e9
        assert await store.execute("ECHO", "b") == b"b"
        assert "cmdstat_ping" not in cast("dict[str, object]", client.info("commandstats"))


async def test_a_timed_out_call_takes_its_connection_with_it(server: ValkeyServer) -> None:
    async with open_server(server.url, pool_size=1) as store:
        with pytest.raises(StoreTimeoutError, match="no answer in time"):
            await store.execute("BLPOP", "nothing", 0, deadline=now() + 0.05)
        stats = store.pool_stats()
        assert (stats.in_use, stats.idle, stats.discarded) == (0, 0, 1)
        assert await store.execute("ECHO", "mine") == b"mine"


async def test_without_time_left_nothing_is_sent_and_nobody_is_blamed(
    server: ValkeyServer,
) -> None:
    async with open_server(server.url, pool_size=1) as store:
        for _ in range(5):
            with pytest.raises(StoreUnavailableError, match="no time is left"):
                await store.execute("INCR", "counter", deadline=now())
        assert await store.execute("EXISTS", "counter") == 0
        assert store.guard.failures == 0


async def test_an_error_reply_keeps_the_connection(server: ValkeyServer) -> None:
    async with open_server(server.url, pool_size=1) as store:
        with pytest.raises(StoreCommandError, match="unknown command"):
            await store.execute("NONSENSE")
        assert await store.execute("PING") == b"PONG"
        stats = store.pool_stats()
        assert (stats.connects, stats.discarded) == (1, 0)
        assert store.guard.failures == 0


async def test_a_mistake_of_the_caller_leaves_the_pool_whole(server: ValkeyServer) -> None:
    async with open_server(server.url, pool_size=1) as store:
        with pytest.raises(TypeError):
            await store.execute("SET", "key", object())  # type: ignore[arg-type]
        stats = store.pool_stats()
        assert (stats.in_use, stats.waiters) == (0, 0)
        assert await store.execute("PING") == b"PONG"


async def test_closing_closes_also_what_is_in_use(server: ValkeyServer) -> None:
    client = server.client()
    async with open_server(server.url, pool_size=2 + SET_ASIDE) as store:
        await alone(store, "PING")
        await store.execute("PING")
        async with all_busy(store, client, 1):
            await store.close()
        stats = store.pool_stats()
        assert (stats.in_use, stats.idle) == (0, 0)

    def ours() -> list[dict[str, str]]:
        clients = cast("list[dict[str, str]]", client.client_list())
        return [one for one in clients if one["name"] == CLIENT_NAME]

    await until(
        lambda: not ours(),
        within=5,
        what="the server has no connection of ours",
    )
