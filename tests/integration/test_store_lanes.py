"""The shared connection: in order, bounded, each reply to its own call whatever ends the others."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import cast

import pytest
import trustme

from sark.errors import (
    ConnectionLostError,
    PoolExhaustedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.store import Script, ScriptCall, Server
from sark.store.lane import MAX_GATHERED_BYTES, SILENCE_SECONDS
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer
from tests.support.stores import alone, lane_of, lanes_of, open_server

FEW = 4
SHORT_SECONDS = 0.05
LONG_SECONDS = 30.0

ECHO = Script("echo", "return ARGV[1]")


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def few_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls wait in line when so few are unanswered."""
    monkeypatch.setattr("sark.store.lane.MAX_IN_FLIGHT", FEW)


@asynccontextmanager
async def behind_proxy(
    server: ValkeyServer, **options: float
) -> AsyncIterator[tuple[FaultProxy, Server]]:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_server(proxy.url(server.password), **options) as store,  # type: ignore[arg-type]
    ):
        await store.execute("PING")
        yield proxy, store


class TestSharing:
    async def test_hundreds_of_calls_share_one_connection_and_its_writes(
        self, server: ValkeyServer
    ) -> None:
        async with behind_proxy(server) as (proxy, store):
            before = proxy.round_trips
            replies = await asyncio.gather(*(store.execute("ECHO", n) for n in range(500)))
            assert replies == [str(n).encode() for n in range(500)]
            # The first went alone, as it could not know of the others.
            assert proxy.round_trips - before <= 5
            stats = store.pool_stats()
            assert (stats.connects, stats.idle, stats.in_use) == (1, 1, 0)

    @pytest.mark.usefixtures("few_in_flight")
    async def test_calls_are_served_in_the_order_of_their_arrival(
        self, server: ValkeyServer
    ) -> None:
        """Also against callers that come back at once after each call."""
        tickets = count()
        most = 0
        async with open_server(server.url) as store:

            async def caller() -> None:
                nonlocal most
                for _ in range(20):
                    await store.execute("RPUSH", "order", next(tickets))
                    most = max(most, store.pool_stats().in_flight)

            await asyncio.gather(*(caller() for _ in range(50)))
            served = [int(ticket) for ticket in await store.execute("LRANGE", "order", 0, -1)]
            await store.execute("DEL", "order")
            stats = store.pool_stats()
        assert served == list(range(1000))
        assert most <= FEW
        assert stats.waits >= 900
        assert stats.wait_seconds > 0
        assert (stats.waiters, stats.in_flight, stats.exhausted) == (0, 0, 0)

    async def test_transactions_stay_whole_among_others(self, server: ValkeyServer) -> None:
        async with open_server(server.url) as store:

            async def both() -> None:
                for _ in range(20):
                    first = [("INCR", "a"), ("EXPIRE", "a", 60), ("INCR", "b"), ("EXPIRE", "b", 60)]
                    (a, _, b, _), _ = await store.transaction(first)
                    assert a == b

            async def others() -> None:
                for n in range(40):
                    assert await store.execute("ECHO", n) == str(n).encode()

            await asyncio.gather(*(both() for _ in range(20)), *(others() for _ in range(20)))
            assert await store.execute("GET", "a") == b"400"
            assert store.pool_stats().connects == 1

    async def test_what_blocks_or_changes_a_connection_holds_up_nobody(
        self, server: ValkeyServer
    ) -> None:
        async with open_server(server.url, pool_size=4) as store:
            blocked = asyncio.create_task(store.execute("BLPOP", "gate", 0, deadline=now() + 60))
            await until(lambda: store.pool_stats().in_use == 1, within=5, what="it blocks")
            assert await store.execute("MULTI") == b"OK"
            assert await store.execute("GET", "key") is None
            assert await store.execute("RPUSH", "gate", "x") == 1
            assert await blocked == [b"gate", b"x"]

    async def test_a_large_request_goes_over_a_connection_of_its_own(
        self, server: ValkeyServer
    ) -> None:
        async with open_server(server.url) as store:
            large = b"x" * 100_000
            assert await store.execute("ECHO", large) == large
            assert not lanes_of(store).open
            assert store.pool_stats().idle == 1


class TestLine:
    @pytest.mark.usefixtures("few_in_flight")
    async def test_without_room_a_call_ends_at_its_deadline_and_nobody_is_blamed(
        self, server: ValkeyServer
    ) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.blackhole()
            sent = [asyncio.create_task(store.execute("ECHO", n)) for n in range(FEW)]
            await until(lambda: store.pool_stats().in_flight == FEW, within=5, what="all are sent")
            started = now()
            results = await asyncio.gather(
                *(store.execute("PING", deadline=started + SHORT_SECONDS) for _ in range(10)),
                return_exceptions=True,
            )
            assert now() - started >= SHORT_SECONDS
            assert {type(result) for result in results} == {PoolExhaustedError}
            stats = store.pool_stats()
            assert (stats.exhausted, stats.waiters, stats.in_flight) == (10, 0, FEW)
            assert store.guard.failures == 0
            await proxy.forward()
            assert [await call for call in sent] == [str(n).encode() for n in range(FEW)]

    @pytest.mark.usefixtures("few_in_flight")
    async def test_one_that_gave_up_is_passed_over_and_not_sent(self, server: ValkeyServer) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.blackhole()
            sent = [asyncio.create_task(store.execute("ECHO", n)) for n in range(FEW)]
            gives_up = asyncio.create_task(store.execute("INCR", "n"))
            patient = asyncio.create_task(store.execute("ECHO", "served"))
            await until(lambda: store.pool_stats().waiters == 2, within=5, what="both wait")
            gives_up.cancel()
            await asyncio.wait([gives_up])
            assert gives_up.cancelled()
            assert store.pool_stats().waiters == 1
            await proxy.forward()
            assert await patient == b"served"
            await asyncio.gather(*sent)
            assert await store.execute("EXISTS", "n") == 0

    @pytest.mark.usefixtures("few_in_flight")
    async def test_when_the_connection_breaks_the_line_is_served_over_the_next(
        self, server: ValkeyServer
    ) -> None:
        """What was sent is lost, and counts as one failure; what was not sent is not."""
        async with behind_proxy(server) as (proxy, store):
            proxy.blackhole()
            calls = [asyncio.create_task(store.execute("ECHO", n)) for n in range(3 * FEW)]
            await until(lambda: store.pool_stats().waiters == 2 * FEW, within=5, what="they wait")
            await proxy.drop()
            await until(lambda: store.guard.failures > 0, within=5, what="the loss is noticed")
            assert store.guard.failures == 1
            await proxy.forward()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results[:FEW]} == {ConnectionLostError}
            assert results[FEW:] == [str(n).encode() for n in range(FEW, 3 * FEW)]
            assert store.guard.opened == 0

    async def test_what_is_still_to_be_sent_is_bounded(self, server: ValkeyServer) -> None:
        piece = b"x" * 30_000
        async with open_server(server.url) as store:
            await store.execute("PING")
            transport = lane_of(store)._transport
            with server.paused():
                calls = [
                    asyncio.create_task(store.execute("ECHO", piece, deadline=now() + LONG_SECONDS))
                    for _ in range(500)
                ]
                await until(lambda: store.pool_stats().waiters > 50, within=5, what="most wait")
                assert transport.get_write_buffer_size() <= 2 * MAX_GATHERED_BYTES
            assert await asyncio.gather(*calls) == [piece] * 500
            assert store.pool_stats().connects == 1


class TestEndedEarly:
    async def test_the_reply_to_a_cancelled_call_is_nobodys(self, server: ValkeyServer) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.blackhole()
            calls = [asyncio.create_task(store.execute("ECHO", n)) for n in range(20)]
            pipeline = asyncio.create_task(store.pipeline([("ECHO", "a"), ("ECHO", "b")]))
            await until(lambda: store.pool_stats().in_flight == 21, within=5, what="all are sent")
            for call in (*calls[::2], pipeline):
                call.cancel()
            await asyncio.wait([*calls[::2], pipeline])
            assert store.pool_stats().in_flight == 10
            late = asyncio.create_task(store.execute("ECHO", "late"))
            await proxy.forward()
            assert await late == b"late"
            assert [await call for call in calls[1::2]] == [
                str(n).encode() for n in range(1, 20, 2)
            ]
            stats = store.pool_stats()
            assert (stats.connects, stats.discarded, stats.in_flight) == (1, 0, 0)

    async def test_a_call_out_of_time_fails_alone(self, server: ValkeyServer) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.delay(SILENCE_SECONDS / 3)
            patient = asyncio.create_task(store.execute("ECHO", "patient"))
            with pytest.raises(StoreTimeoutError, match="no answer in time"):
                await store.execute("ECHO", "hurried", deadline=now() + SILENCE_SECONDS / 5)
            assert await patient == b"patient"
            assert await store.execute("ECHO", "next") == b"next"
            assert store.pool_stats().connects == 1
            assert store.guard.failures == 0

    async def test_a_silent_connection_is_given_up_and_the_patient_still_get_their_answers(
        self, server: ValkeyServer
    ) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.blackhole()
            patient = asyncio.create_task(store.execute("ECHO", "patient", deadline=now() + 60))
            with pytest.raises(StoreTimeoutError):
                await store.execute("ECHO", "hurried", deadline=now() + 2 * SILENCE_SECONDS)
            assert store.guard.failures == 1
            assert store.pool_stats().in_flight == 1
            other = asyncio.create_task(store.execute("ECHO", "other", deadline=now() + 60))
            await proxy.forward()
            assert await patient == b"patient"
            assert await other == b"other"
            await until(lambda: store.pool_stats().discarded == 1, within=5, what="it is closed")
            assert store.pool_stats().connects == 2

    async def test_so_do_those_whose_script_was_unknown_there(self, server: ValkeyServer) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.blackhole()
            patient = asyncio.create_task(store.run(ECHO, [], ["patient"], deadline=now() + 60))
            mixed = asyncio.create_task(
                store.pipeline(
                    [("ECHO", "first"), ScriptCall(ECHO, [], ["second"])], deadline=now() + 60
                )
            )
            with pytest.raises(StoreTimeoutError):
                await store.execute("ECHO", "hurried", deadline=now() + 2 * SILENCE_SECONDS)
            await proxy.forward()
            # NOSCRIPT came over a connection that was closed with it.
            assert (await patient).value == b"patient"
            assert await mixed == [b"first", b"second"]
            assert store.pool_stats().connects == 2

    async def test_the_silent_are_bounded_too(self, server: ValkeyServer) -> None:
        """With two connections at most there is none to spare for one that was given up."""
        async with behind_proxy(server, pool_size=2) as (proxy, store):
            proxy.blackhole()
            patient = asyncio.create_task(store.execute("ECHO", "patient", deadline=now() + 60))
            with pytest.raises(StoreTimeoutError):
                await store.execute("ECHO", "hurried", deadline=now() + 2 * SILENCE_SECONDS)
            with pytest.raises(ConnectionLostError, match="given up"):
                await patient
            await proxy.forward()
            assert await store.execute("ECHO", "other") == b"other"

    async def test_a_large_reply_that_trickles_in_is_no_silence(self, server: ValkeyServer) -> None:
        client = server.client()
        client.set("large", b"x" * 3_000_000, ex=60)
        async with behind_proxy(server) as (proxy, store):
            proxy.delay(0.02)
            large = asyncio.create_task(
                store.execute("GET", "large", deadline=now() + LONG_SECONDS)
            )
            behind = asyncio.create_task(store.execute("ECHO", "x", deadline=now() + LONG_SECONDS))
            await until(lambda: store.pool_stats().in_flight == 2, within=5, what="both are sent")
            with pytest.raises(StoreTimeoutError):
                await store.execute("PING", deadline=now() + 3 * SILENCE_SECONDS)
            # The server lives: it has been sending all the time.
            assert store.guard.failures == 0
            assert len(await large) == 3_000_000
            assert await behind == b"x"
            assert store.pool_stats().connects == 1


class TestReconnecting:
    async def test_a_break_while_idle_costs_no_call(self, server: ValkeyServer) -> None:
        client = server.client()
        async with open_server(server.url) as store:
            await store.execute("PING")
            client.client_kill_filter(_type="normal", skipme=True)
            await until(lambda: not lanes_of(store).open, within=5, what="it is noticed")
            assert await asyncio.gather(*(store.execute("ECHO", n) for n in range(9))) == [
                str(n).encode() for n in range(9)
            ]
            stats = store.pool_stats()
            assert (stats.connects, stats.discarded, stats.idle) == (2, 1, 1)
            assert store.guard.failures == 0

    async def test_nobody_is_connected_for_when_nobody_waits(self, server: ValkeyServer) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.refuse()
            await proxy.drop()
            await until(lambda: not lanes_of(store).open, within=5, what="the break is noticed")
            with pytest.raises(StoreUnavailableError):
                await store.execute("PING", deadline=now() + SHORT_SECONDS)
            await until(lambda: lanes_of(store)._preparing is None, within=5, what="it gives up")
            failures = store.pool_stats().connect_failures
            await asyncio.sleep(0.2)
            assert store.pool_stats().connect_failures == failures
            await proxy.forward()
            assert await store.execute("PING") == b"PONG"

    async def test_it_is_checked_after_the_interval_and_not_before(
        self, server: ValkeyServer
    ) -> None:
        client = server.client()

        def pings() -> int:
            statistics = cast("dict[str, dict[str, int]]", client.info("commandstats"))
            return statistics.get("cmdstat_ping", {"calls": 0})["calls"]

        async with open_server(server.url, health_check_interval=30) as store:
            await store.execute("ECHO", "a")
            before = pings()
            lane_of(store).heard_at -= 29
            assert await store.execute("ECHO", "a") == b"a"
            assert pings() == before
            lane_of(store).heard_at -= 31
            replies = await asyncio.gather(*(store.execute("ECHO", n) for n in range(9)))
            assert replies == [str(n).encode() for n in range(9)]
            assert pings() == before + 1
            assert store.pool_stats().connects == 1

    async def test_any_answer_to_the_check_proves_that_it_lives(self, server: ValkeyServer) -> None:
        client = server.client()
        client.acl_setuser("u", enabled=True, passwords=["+pw"], commands=["+@all"], keys=["*"])
        try:
            url = f"valkey://u:pw@{server.host}:{server.port}"
            async with open_server(url, health_check_interval=30) as store:
                await store.execute("ECHO", "a")
                client.acl_setuser("u", commands=["-ping"])
                lane_of(store).heard_at -= 31
                assert await store.execute("ECHO", "b") == b"b"
                stats = store.pool_stats()
                assert (stats.connects, stats.discarded, stats.idle) == (1, 0, 1)
                assert store.guard.failures == 0
        finally:
            client.acl_deluser("u")

    async def test_closing_fails_who_waits_and_lets_the_rest_finish(
        self, server: ValkeyServer
    ) -> None:
        async with behind_proxy(server) as (proxy, store):
            proxy.blackhole()
            under_way = asyncio.create_task(store.execute("ECHO", "x"))
            await until(lambda: store.pool_stats().in_flight == 1, within=5, what="it is sent")
            await store.close()
            with pytest.raises(StoreUnavailableError, match="closed"):
                await store.execute("PING")
            await proxy.forward()
            assert await under_way == b"x"
            await until(lambda: not lanes_of(store).open, within=5, what="it is closed")


@asynccontextmanager
async def relay(
    server: ValkeyServer, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, Callable[[bytes], None]]]:
    """Relay to the server; the function slips bytes into what it answers.

    Args:
        server: Where to.
        context: Speak TLS with the clients.
    """
    clients: list[asyncio.StreamWriter] = []
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(server.host, server.port)
        clients.append(writer)
        writers.extend((writer, up_writer))
        tasks.append(asyncio.create_task(pump(reader, up_writer)))
        tasks.append(asyncio.create_task(pump(up_reader, writer)))

    def slip_in(stray: bytes) -> None:
        clients[-1].write(stray)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1], slip_in
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


class TestBrokenServers:
    @pytest.mark.parametrize("stray", [b"+stray\r\n", b"$100\r\nhalf", b"nonsense\r\n"])
    async def test_what_nobody_asked_for_is_no_ones_reply(
        self, server: ValkeyServer, stray: bytes
    ) -> None:
        async with (
            relay(server) as (port, slip_in),
            open_server(f"valkey://:{server.password}@127.0.0.1:{port}/0") as store,
        ):
            await store.execute("PING")
            slip_in(stray)
            await until(lambda: not lanes_of(store).open, within=5, what="it is noticed")
            assert await store.execute("ECHO", "mine") == b"mine"
            assert store.guard.failures == 0

    async def test_nonsense_fails_what_is_under_way(self, server: ValkeyServer) -> None:
        async with (
            relay(server) as (port, slip_in),
            open_server(f"valkey://:{server.password}@127.0.0.1:{port}/0") as store,
        ):
            await store.execute("PING")
            with server.paused():
                calls = [asyncio.create_task(store.execute("ECHO", n)) for n in range(3)]
                await until(lambda: store.pool_stats().in_flight == 3, within=5, what="it is sent")
                slip_in(b"nonsense\r\n")
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {ConnectionLostError}
            assert store.guard.failures == 1
            assert await store.execute("ECHO", "mine") == b"mine"


async def test_every_reply_names_the_run_that_gave_it(
    private_server: Callable[[], ValkeyServer],
) -> None:
    """While the server is killed and started again, and calls are under way all the time."""
    server = private_server()
    seen: set[str] = set()
    lost = 0
    done = False

    async def caller(store: Server) -> None:
        nonlocal lost
        while not done:
            try:
                (info, _), run_id = await store.exchange(
                    [("INFO", "server"), ("ECHO", "x")], deadline=now() + 5
                )
            except StoreError:
                lost += 1
                await asyncio.sleep(0.01)
                continue
            assert f"run_id:{run_id}\r\n".encode() in info
            seen.add(run_id)

    async with open_server(server.url) as store:
        callers = [asyncio.create_task(caller(store)) for _ in range(20)]
        for runs in range(1, 4):
            await until(lambda runs=runs: len(seen) == runs, within=20, what="it is answered")
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await until(lambda: len(seen) == 4, within=20, what="the last run answers")
        done = True
        await asyncio.gather(*callers)
    assert lost > 0


async def test_over_tls(server: ValkeyServer, tmp_path: Path) -> None:
    ca = trustme.CA()
    file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    medium = b"x" * 30_000
    async with (
        relay(server, context) as (port, _),
        open_server(
            f"valkeys://:{server.password}@localhost:{port}/0?ssl_ca_certs={file}"
        ) as store,
    ):
        replies = await asyncio.gather(*(store.execute("ECHO", n) for n in range(100)))
        assert replies == [str(n).encode() for n in range(100)]
        replies = await asyncio.gather(*(store.execute("ECHO", medium) for _ in range(50)))
        assert replies == [medium] * 50
        assert store.pool_stats().connects == 1
        assert await alone(store, "ECHO", "x") == b"x"
        server.client().client_kill_filter(_type="normal", skipme=True)
        await until(lambda: not lanes_of(store).open, within=5, what="the end is noticed")
        assert (await store.run(ECHO, [], ["again"])).value == b"again"
