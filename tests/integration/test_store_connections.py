"""Ways to reach a server, and what errors and representations give away."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest

from sark.errors import StoreCommandError, StoreError, StoreUnavailableError
from sark.settings import load
from sark.store import Store, Topology
from sark.store.connection import (
    TcpConnection,
    TlsConnection,
    UnixConnection,
    connection_factory,
)
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.stores import (
    CLIENT_NAME,
    alone,
    idle_of,
    lane_of,
    lanes_of,
    open_server,
    pool_of,
)

SECRET = "hunter2-and:more@:/#?% é"
ESCAPED = quote(SECRET, safe="")
StartServer = Callable[..., ValkeyServer]


def now() -> float:
    return asyncio.get_running_loop().time()


def assert_no_secret(text: str, *secrets: str) -> None:
    for secret in secrets:
        assert secret not in text
        assert quote(secret, safe="") not in text


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "kind", "address"),
        [
            ("valkey://host.example", TcpConnection, "host.example:6379"),
            ("valkey://:secret@host.example:7000/3", TcpConnection, "host.example:7000"),
            ("redis://user:secret@10.0.0.1:6379", TcpConnection, "10.0.0.1:6379"),
            ("valkeys://:secret@host.example:7000", TlsConnection, "host.example:7000"),
            ("rediss://host.example:7000", TlsConnection, "host.example:7000"),
            ("unix:///run/valkey.sock", UnixConnection, "unix:/run/valkey.sock"),
            ("unix://user:secret@/run/valkey.sock?db=2", UnixConnection, "unix:/run/valkey.sock"),
        ],
    )
    def test_the_scheme_chooses_the_connection(self, url: str, kind: type, address: str) -> None:
        factory = connection_factory(url, password=None, client_name="c")
        assert factory.address == address
        assert type(factory()) is kind

    @pytest.mark.parametrize(
        ("url", "password", "expected"),
        [
            ("valkey://host.example", "ours", "ours"),
            ("valkey://:theirs@host.example", "ours", "theirs"),
            (f"valkey://:{ESCAPED}@host.example", None, SECRET),
            ("unix:///run/valkey.sock", "ours", "ours"),
            ("valkey://host.example", None, None),
        ],
    )
    def test_the_urls_password_comes_first(
        self, url: str, password: str | None, expected: str | None
    ) -> None:
        assert connection_factory(url, password=password, client_name="c")().password == expected

    def test_tls_verifies_the_servers_certificate_and_name(self) -> None:
        connection = connection_factory("valkeys://host.example", password=None, client_name="c")()
        assert isinstance(connection, TlsConnection)
        context = connection.ssl_context.get()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname

    @pytest.mark.parametrize(
        ("options", "verify_mode"),
        [
            ("ssl_cert_reqs=none", ssl.CERT_NONE),
            ("ssl_check_hostname=false", ssl.CERT_REQUIRED),
        ],
    )
    def test_tls_verifies_less_only_when_told(
        self, options: str, verify_mode: ssl.VerifyMode
    ) -> None:
        url = f"valkeys://host.example?{options}"
        connection = connection_factory(url, password=None, client_name="c")()
        assert isinstance(connection, TlsConnection)
        context = connection.ssl_context.get()
        assert context.verify_mode is verify_mode
        assert not context.check_hostname

    def test_the_drivers_own_timeouts_and_checks_stay_off(self) -> None:
        connection = connection_factory("valkey://host.example", password=None, client_name="c")()
        assert connection.socket_timeout is None
        assert connection.health_check_interval == 0

    async def test_the_database_of_the_url_is_selected(self, server: ValkeyServer) -> None:
        async with (
            open_server(server.url) as zero,
            open_server(server.url.removesuffix("0") + "5") as five,
        ):
            await five.execute("SET", "where", "five", "EX", 60)
            assert await zero.execute("GET", "where") is None
            assert await five.execute("GET", "where") == b"five"

    async def test_the_server_sees_a_name(self, server: ValkeyServer) -> None:
        async with open_server(server.url) as store:
            assert await store.execute("CLIENT", "GETNAME") == CLIENT_NAME.encode()


class TestUnixSocket:
    @pytest.fixture
    def path(self, private_server: StartServer) -> tuple[str, ValkeyServer]:
        server = private_server({"unixsocket": "valkey.sock"})
        return str(server.directory / "valkey.sock"), server

    async def test_commands_scripts_and_reconnects(self, path: tuple[str, ValkeyServer]) -> None:
        socket, server = path
        async with open_server(f"unix://:{server.password}@{socket}?db=1", pool_size=2) as store:
            assert await asyncio.gather(*(store.execute("ECHO", n) for n in range(10))) == [
                str(n).encode() for n in range(10)
            ]
            assert store.pool_stats().connects == 1
            server.client().client_kill_filter(_type="normal", skipme=True)
            await until(lambda: not lanes_of(store).open, within=5, what="it is noticed")
            assert await store.execute("PING") == b"PONG"

    async def test_it_shakes_hands_once(self, path: tuple[str, ValkeyServer]) -> None:
        socket, server = path
        client = server.client()
        client.config_resetstat()
        async with open_server(f"unix://{socket}", password=server.password) as store:
            await store.execute("PING")
        assert client.info("commandstats")["cmdstat_client|setname"]["calls"] == 1  # type: ignore[index]

    async def test_a_wrong_password_is_refused_at_once(
        self, path: tuple[str, ValkeyServer]
    ) -> None:
        socket, _ = path
        await assert_refused_at_once(f"unix://:{ESCAPED}@{socket}")


class TestWrongPassword:
    async def test_it_is_refused_at_once_and_stays_secret(self, server: ValkeyServer) -> None:
        await assert_refused_at_once(f"valkey://:{ESCAPED}@{server.host}:{server.port}")

    async def test_a_missing_password_too(self, server: ValkeyServer) -> None:
        async with open_server(f"valkey://{server.host}:{server.port}") as store:
            with pytest.raises(StoreUnavailableError, match=r"(?i)authentication required"):
                await store.execute("PING")

    async def test_a_password_for_a_server_without_one_too(
        self, private_server: StartServer
    ) -> None:
        server = private_server()
        server.client().config_set("requirepass", "")
        async with open_server(f"valkey://:{ESCAPED}@{server.host}:{server.port}") as store:
            started = now()
            with pytest.raises(StoreUnavailableError, match="without any password") as refused:
                await store.execute("PING", deadline=started + 30)
            assert now() - started < 5
        assert_no_secret(everything(refused.value), SECRET)

    async def test_the_guard_says_why_and_the_service_heals(self, server: ValkeyServer) -> None:
        client = server.client()
        url = f"valkey://:{ESCAPED}@{server.host}:{server.port}"
        try:
            async with open_server(url) as store:
                for _ in range(3):
                    with pytest.raises(StoreUnavailableError):
                        await store.execute("PING")
                assert store.guard.is_open
                with pytest.raises(StoreUnavailableError, match=r"is down: .*invalid") as refused:
                    await store.execute("PING")
                assert_no_secret(everything(refused.value), SECRET)
                client.config_set("requirepass", SECRET)
                await until(lambda: not store.guard.is_open, within=10, what="the guard closes")
                assert await store.execute("PING") == b"PONG"
        finally:
            client.config_set("requirepass", server.password)

    async def test_a_user_who_may_not_ask_for_info_is_told(self, server: ValkeyServer) -> None:
        client = server.client()
        client.acl_setuser("limited", enabled=True, passwords=["+pw"], commands=["+ping"])
        try:
            url = f"valkey://limited:pw@{server.host}:{server.port}"
            async with open_server(url) as store:
                with pytest.raises(StoreCommandError, match="permissions"):
                    await store.execute("PING", deadline=now() + 30)
                stats = store.pool_stats()
                assert (stats.connect_failures, stats.in_use, stats.idle) == (1, 0, 0)
        finally:
            client.acl_deluser("limited")


async def assert_refused_at_once(url: str) -> None:
    async with open_server(url, pool_size=1) as store:
        started = now()
        with pytest.raises(StoreUnavailableError, match="invalid username-password") as refused:
            await store.execute("PING", deadline=started + 30)
        assert now() - started < 5, "it was tried again and again"
        assert store.pool_stats().connect_failures == 1
        assert (store.pool_stats().in_use, store.pool_stats().idle) == (0, 0)
        assert store.address in str(refused.value)
        assert_no_secret(everything(refused.value), SECRET)


def everything(error: StoreError) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__dict__)


async def test_more_connections_than_the_server_takes_wait_for_their_turn(
    private_server: StartServer,
) -> None:
    server = private_server()
    client = server.client()
    client.config_set("maxclients", 2)  # the client of this test is one of them
    async with (
        open_server(server.url, pool_size=1) as first,
        open_server(server.url, pool_size=1) as second,
    ):
        await first.execute("PING")
        waits = asyncio.create_task(second.execute("PING", deadline=now() + 30))
        await until(
            lambda: second.pool_stats().connect_failures > 1, within=5, what="it is refused"
        )
        await first.close()
        assert await waits == b"PONG"


async def test_no_representation_holds_a_password(server: ValkeyServer) -> None:
    topology = Topology(
        f"valkey://:{server.password}@{server.host}:{server.port}/0",
        f"unix://:{ESCAPED}@/run/valkey.sock",
        password=SECRET,
    )
    settings = load({"VALKEY_URL": topology.cache_url, "VALKEY_PASSWORD": SECRET})
    async with Store(topology, settings) as store:
        await store.cache.execute("PING")
        await alone(store.cache, "PING")
        (connection,) = idle_of(store.cache)
        things: list[object] = [
            topology,
            settings,
            store,
            store.state,
            store.cache,
            store.state.connections,
            store.cache.connections,
            store.state.connections(),
            pool_of(store.cache),
            lanes_of(store.cache),
            lane_of(store.cache),
            store.cache.pool_stats(),
            store.cache.guard,
            connection,
            store.state.address,
            await store.check(timeout=0.5),
        ]
        for thing in things:
            assert_no_secret(f"{thing!r} {thing} {[thing]}", server.password, SECRET)
