"""A server that hangs, dies, comes up late or loses connections: bounded calls, and healing."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from sark.errors import (
    ConnectionLostError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.store import Script, Server
from sark.store.guard import FAILURES_TO_OPEN
from tests.support.polling import until
from tests.support.proxy import FaultProxy, unused_address
from tests.support.servers import ValkeyServer
from tests.support.stores import Reports, alone, idle_of, lane_of, lanes_of, open_server

StartServer = Callable[..., ValkeyServer]

BUDGET_SECONDS = 0.2
# On top of a deadline, for machines that are busy with something else.
MARGIN_SECONDS = 1.0
HEALING_SECONDS = 10.0

ADD = Script("add", "return {server.call('INCR', KEYS[1]), server.call('EXPIRE', KEYS[1], 60)}")


def now() -> float:
    return asyncio.get_running_loop().time()


async def fail_until_open(store: Server) -> None:
    for _ in range(FAILURES_TO_OPEN):
        assert not store.guard.is_open
        with pytest.raises(StoreError):
            await store.execute("PING", deadline=now() + BUDGET_SECONDS)
    assert store.guard.is_open


class TestHangingServer:
    async def test_a_call_ends_at_its_deadline(self, server: ValkeyServer) -> None:
        async with open_server(server.url) as store:
            await store.execute("PING")
            with server.paused():
                started = now()
                with pytest.raises(StoreTimeoutError, match="no answer in time"):
                    await store.execute("PING", deadline=started + BUDGET_SECONDS)
                assert BUDGET_SECONDS <= now() - started <= BUDGET_SECONDS + MARGIN_SECONDS

    async def test_so_does_one_that_must_connect(self, server: ValkeyServer) -> None:
        async with open_server(server.url, connect_timeout=30.0) as store:
            with server.paused():
                started = now()
                with pytest.raises(StoreUnavailableError, match="no connection in time"):
                    await store.execute("PING", deadline=started + BUDGET_SECONDS)
                assert BUDGET_SECONDS <= now() - started <= BUDGET_SECONDS + MARGIN_SECONDS

    async def test_so_does_one_without_a_deadline_of_its_own(self, server: ValkeyServer) -> None:
        async with open_server(server.url, timeout=BUDGET_SECONDS) as store:
            await store.execute("PING")
            with server.paused():
                started = now()
                with pytest.raises(StoreTimeoutError):
                    await store.execute("PING")
                assert BUDGET_SECONDS <= now() - started <= BUDGET_SECONDS + MARGIN_SECONDS

    async def test_so_does_one_whose_connection_is_checked_first(
        self, server: ValkeyServer
    ) -> None:
        async with open_server(server.url, health_check_interval=30) as store:
            await store.execute("PING")
            await alone(store, "PING")
            lane_of(store).heard_at -= 31
            idle_of(store)[0].last_used -= 31
            with server.paused():
                started = now()
                for call in (store.execute, partial(alone, store)):
                    with pytest.raises(StoreUnavailableError, match="no connection in time"):
                        await call("INCR", "n", deadline=now() + BUDGET_SECONDS)
                assert now() - started <= 2 * (BUDGET_SECONDS + MARGIN_SECONDS)
            # It was not sent: a hung connection is found out by the check.
            assert await store.execute("EXISTS", "n") == 0

    async def test_after_the_first_failures_calls_cost_nothing_and_ask_nothing(
        self, server: ValkeyServer
    ) -> None:
        reports = Reports()
        async with (
            FaultProxy(server.host, server.port) as proxy,
            open_server(proxy.url(server.password), reports=reports) as store,
        ):
            await store.execute("PING")
            with server.paused():
                await fail_until_open(store)
                connections, bytes_up = proxy.connections, proxy.bytes_up
                exchanges = len(reports.round_trips)
                started, refused = now(), 0
                while now() - started < 1.0:
                    for _ in range(100):
                        with pytest.raises(StoreUnavailableError, match="is down: no "):
                            await store.execute("SET", "key", "x" * 1000, "EX", 60)
                        refused += 1
                    await asyncio.sleep(0.01)
                assert refused > 1000
                # Only the probe asks, with growing pauses: after 25, 75, 175 ms at the soonest.
                assert proxy.connections - connections <= 8
                assert proxy.bytes_up - bytes_up < 8 * 500
                assert len(reports.round_trips) == exchanges
                assert store.pool_stats().in_use == 0

    async def test_it_heals_by_itself(self, server: ValkeyServer) -> None:
        reports = Reports()
        async with open_server(server.url, pool_size=10, reports=reports) as store:
            await store.execute("PING")
            await asyncio.gather(*(alone(store, "PING") for _ in range(8)))
            assert store.pool_stats().idle == 9
            with server.paused():
                await fail_until_open(store)
                with pytest.raises(StoreUnavailableError) as refused:
                    await store.execute("PING")
                assert refused.value.retry_after > 0
                await until(
                    lambda: store.pool_stats().idle == 0,
                    within=1,
                    what="connections to the hanging server are given up",
                )
            await until(
                lambda: not store.guard.is_open, within=HEALING_SECONDS, what="the guard closes"
            )
            assert await store.execute("PING") == b"PONG"
            await until(
                lambda: [change.is_open for change in reports.guard_changes] == [True, False],
                within=1,
                what="both changes are reported, once",
            )
            # Once the connection was given up, the later calls found no other.
            assert reports.guard_changes[0].reason == "no connection in time"

    async def test_many_calls_at_once_all_end_in_time(self, server: ValkeyServer) -> None:
        reports = Reports()
        async with open_server(server.url, reports=reports) as store:
            await store.execute("PING")
            with server.paused():
                started = now()
                results = await asyncio.gather(
                    *(store.execute("PING", deadline=started + BUDGET_SECONDS) for _ in range(200)),
                    return_exceptions=True,
                )
                assert now() - started <= BUDGET_SECONDS + MARGIN_SECONDS
            assert all(isinstance(result, StoreError) for result in results)
            stats = store.pool_stats()
            assert (stats.in_use, stats.waiters, stats.idle) == (0, 0, 0)
            assert store.guard.opened == 1

    async def test_what_was_not_yet_sent_keeps_no_socket_open(self, server: ValkeyServer) -> None:
        others = established_to(server.port)
        async with open_server(server.url) as store:
            await asyncio.gather(store.execute("PING"), alone(store, "PING"))
            assert established_to(server.port) == others + 2
            with server.paused():
                # With more than the kernel takes for the server.
                for calls, size in ((1, 30_000_000), (500, 30_000)):
                    results = await asyncio.gather(
                        *(
                            store.execute("ECHO", b"x" * size, deadline=now() + BUDGET_SECONDS)
                            for _ in range(calls)
                        ),
                        return_exceptions=True,
                    )
                    assert all(isinstance(result, StoreError) for result in results)
                await until(
                    lambda: established_to(server.port) == others,
                    within=5,
                    what="no connection to the hanging server is open",
                )


def established_to(port: int) -> int:
    """Count this machine's connections to a local port, as the kernel lists them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    columns = [line.split() for line in lines]
    return sum(c[2].endswith(f":{port:04X}") and c[3] == "01" for c in columns)


class TestDeadServer:
    async def test_a_restart_is_healed_and_seen(self, server: ValkeyServer) -> None:
        async with open_server(server.url) as store:
            before = (await store.run(ADD, ["n"])).run_id
            server.kill()
            await fail_until_open(store)
            server.start()
            await until(
                lambda: not store.guard.is_open, within=HEALING_SECONDS, what="the guard closes"
            )
            reply = await store.run(ADD, ["n"])  # neither data nor scripts are left
            assert reply.value == [1, 1]
            assert reply.run_id != before

    async def test_calls_end_in_time_and_say_why(self) -> None:
        host, port = unused_address()
        async with open_server(f"valkey://{host}:{port}") as store:
            started = now()
            with pytest.raises(StoreUnavailableError, match=r"(?i)connect.*refused|111"):
                await store.execute("PING", deadline=started + BUDGET_SECONDS)
            assert now() - started <= BUDGET_SECONDS + MARGIN_SECONDS
            assert store.pool_stats().connect_failures >= 2, "it was not tried again"
            assert store.guard.failures == 1, "one call is one failure, however often it tried"

    async def test_once_it_is_known_those_who_still_try_give_up(self) -> None:
        host, port = unused_address()
        async with open_server(f"valkey://{host}:{port}", pool_size=4) as store:
            patient = asyncio.create_task(store.execute("PING", deadline=now() + 60))
            await until(lambda: store.pool_stats().connect_failures > 0, within=5, what="it tries")
            await fail_until_open(store)
            with pytest.raises(StoreUnavailableError, match="is down"):
                await asyncio.wait_for(patient, 5)
            assert store.pool_stats().in_use == 0

    async def test_back_off_keeps_the_attempts_few(self) -> None:
        host, port = unused_address()
        async with open_server(f"valkey://{host}:{port}") as store:
            with pytest.raises(StoreUnavailableError):
                await store.execute("PING", deadline=now() + 1.0)
            # At the soonest after 0, 5, 15, 35, 75, 155, 315, 565, 815 ms.
            assert 4 <= store.pool_stats().connect_failures <= 9

    async def test_a_server_that_comes_up_late_is_waited_for(
        self, private_server: StartServer
    ) -> None:
        server = private_server()
        server.stop()
        reports = Reports()
        async with open_server(server.url, reports=reports) as store:
            calls = asyncio.gather(
                *(store.execute("ECHO", n, deadline=now() + 30) for n in range(8))
            )
            await until(lambda: store.pool_stats().connect_failures >= 4, within=5, what="they try")
            await asyncio.to_thread(server.start)
            assert await calls == [str(n).encode() for n in range(8)]
            assert reports.guard_changes == []
            stats = store.pool_stats()
            assert (stats.in_use, stats.idle, stats.connects) == (0, 1, 1)

    async def test_closing_ends_the_probe(self) -> None:
        host, port = unused_address()
        async with open_server(f"valkey://{host}:{port}") as store:
            await fail_until_open(store)
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in names if name.startswith("sark-probe")]

    async def test_one_probe_at_a_time_however_often_it_opens(self, server: ValkeyServer) -> None:
        def probes() -> int:
            names = [task.get_name() for task in asyncio.all_tasks()]
            return sum(name.startswith("sark-probe") for name in names)

        async with open_server(server.url) as store:
            for _ in range(3):
                # Opened and closed again before the probe wakes up, as late answers do.
                for _ in range(FAILURES_TO_OPEN):
                    store._calls._prober.failed("as if")
                assert store.guard.is_open
                await asyncio.sleep(0)
                assert probes() == 1
                store.guard.succeeded()
            for _ in range(FAILURES_TO_OPEN):
                store._calls._prober.failed("as if")
            await until(
                lambda: not store.guard.is_open, within=HEALING_SECONDS, what="the guard closes"
            )
            await until(lambda: probes() == 0, within=5, what="the probe has ended")


class TestLostConnections:
    @asynccontextmanager
    async def cut_reply(
        self, server: ValkeyServer, call: Callable[[Server], asyncio.Task[object]], key: str
    ) -> AsyncIterator[tuple[Server, asyncio.Task[object]]]:
        """Let a call reach the server and have its effect, and cut its reply."""
        client = server.client()
        async with (
            FaultProxy(server.host, server.port) as proxy,
            open_server(proxy.url(server.password)) as store,
        ):
            await store.execute("PING")
            proxy.delay(0.5)
            task = call(store)
            await until(lambda: client.get(key) == b"1", within=10, what="it took effect")
            proxy.delay(0)
            await proxy.drop()
            yield store, task
            client.delete(key)

    async def test_what_was_sent_is_not_sent_again(self, server: ValkeyServer) -> None:
        client = server.client()

        def call(store: Server) -> asyncio.Task[object]:
            return asyncio.create_task(store.execute("INCR", "n"))

        async with self.cut_reply(server, call, "n") as (store, task):
            with pytest.raises(ConnectionLostError):
                await task
            assert await store.execute("PING") == b"PONG"
            assert client.get("n") == b"1"

    async def test_unless_it_may_be(self, server: ValkeyServer) -> None:
        client = server.client()

        def call(store: Server) -> asyncio.Task[object]:
            return asyncio.create_task(store.execute("INCR", "n", idempotent=True))

        async with self.cut_reply(server, call, "n") as (_, task):
            assert await task == 2
            assert client.get("n") == b"2"

    async def test_scripts_and_pipelines_likewise(self, server: ValkeyServer) -> None:
        client = server.client()
        client.script_load(ADD.text)

        def run(store: Server) -> asyncio.Task[object]:
            return asyncio.create_task(store.run(ADD, ["n"]))

        async with self.cut_reply(server, run, "n") as (_, task):
            with pytest.raises(ConnectionLostError):
                await task
            assert client.get("n") == b"1"

        def pipeline(store: Server) -> asyncio.Task[object]:
            commands = [("ECHO", "x"), ("INCR", "m"), ("ECHO", "y")]
            return asyncio.create_task(store.pipeline(commands))

        async with self.cut_reply(server, pipeline, "m") as (_, task):
            with pytest.raises(ConnectionLostError):
                await task
            assert client.get("m") == b"1"

    async def test_an_idempotent_call_is_repeated_once(self, server: ValkeyServer) -> None:
        connections = 0

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Greet like a server, and hang up on the first command after that."""
            nonlocal connections
            connections += 1
            upstream_reader, upstream_writer = await asyncio.open_connection(
                server.host, server.port
            )
            try:
                while piece := await reader.read(65536):
                    if b"INCR" in piece:
                        return
                    upstream_writer.write(piece)
                    writer.write(await upstream_reader.read(65536))
            finally:
                upstream_writer.transport.abort()
                writer.transport.abort()

        listener = await asyncio.start_server(cut, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with open_server(f"valkey://:{server.password}@127.0.0.1:{port}") as store:
            with pytest.raises(ConnectionLostError):
                await store.execute("INCR", "n", idempotent=True)
            assert connections == 2
            with pytest.raises(StoreError):
                await store.execute("INCR", "n")
            assert connections == 3
        listener.close()
        await listener.wait_closed()

    async def test_idle_connections_that_were_reset_cost_no_call(
        self, server: ValkeyServer
    ) -> None:
        async with (
            resetting_relay(server) as (port, reset),
            open_server(f"valkey://:{server.password}@127.0.0.1:{port}") as store,
        ):
            await store.execute("PING")
            await asyncio.gather(*(alone(store, "PING") for _ in range(2)))
            idle = idle_of(store).copy()
            assert len(idle) == 2
            reset()
            await until(lambda: not any(c.usable for c in idle), within=5, what="it is noticed")
            await until(lambda: not lanes_of(store).open, within=5, what="the shared one too")
            for call in (store.execute, partial(alone, store)):
                replies = await asyncio.gather(*(call("ECHO", n) for n in range(3)))
                assert replies == [str(n).encode() for n in range(3)]
            assert store.guard.failures == 0
            assert store.pool_stats().discarded == 3

    async def test_idle_connections_from_before_a_restart_cost_no_call(
        self, server: ValkeyServer
    ) -> None:
        async with open_server(server.url) as store:
            await store.execute("PING")
            await asyncio.gather(*(alone(store, "PING") for _ in range(2)))
            idle = idle_of(store).copy()
            assert len(idle) == 2
            await asyncio.to_thread(server.restart)
            await until(lambda: not any(c.usable for c in idle), within=5, what="it is noticed")
            for call in (store.execute, partial(alone, store)):
                replies = await asyncio.gather(*(call("ECHO", n) for n in range(20)))
                assert replies == [str(n).encode() for n in range(20)]
            assert store.guard.failures == 0

    async def test_a_long_idle_connection_that_hangs_is_replaced_before_use(
        self, server: ValkeyServer
    ) -> None:
        """A firewall forgets idle connections: packets vanish, nothing is refused."""
        async with (
            FaultProxy(server.host, server.port) as proxy,
            open_server(
                proxy.url(server.password), health_check_interval=30, connect_timeout=BUDGET_SECONDS
            ) as store,
        ):
            await store.execute("PING")
            await alone(store, "PING")
            lane_of(store).heard_at -= 31
            idle_of(store)[0].last_used -= 31
            proxy.blackhole()
            deadline = now() + 30
            calls = [
                asyncio.create_task(call("INCR", key, deadline=deadline))
                for key, call in (("n", store.execute), ("m", partial(alone, store)))
            ]
            await until(
                lambda: store.pool_stats().discarded == 2, within=5, what="they are found hanging"
            )
            await proxy.forward()
            assert [await call for call in calls] == [1, 1]
            assert store.guard.failures == 0
            assert await store.execute("DEL", "n", "m") == 2


@asynccontextmanager
async def resetting_relay(server: ValkeyServer) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """Relay to the server; the function resets (RST, not FIN) all connections of clients."""
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(server.host, server.port)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writers.extend((writer, upstream_writer))
        tasks.append(asyncio.create_task(pump(reader, upstream_writer)))
        tasks.append(asyncio.create_task(pump(upstream_reader, writer)))

    def reset() -> None:
        for writer in writers:
            writer.transport.abort()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], reset
    finally:
        reset()
        listener.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
