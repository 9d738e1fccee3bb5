"""The change feed on a real server: what it hears, and how far it says that it has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sark.events import Enforced, Hub
from sark.store import Store
from sark.store.tracking import ChangeFeed
from tests.support.gateways import generations, open_store
from tests.support.near import near_gateway, near_of, open_near
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

INTERVAL = 0.02


class Heard:
    """What a feed told."""

    def __init__(self) -> None:
        self.changes: list[Sequence[bytes] | None] = []
        self.messages: list[bytes] = []

    @property
    def keys(self) -> list[bytes]:
        return [key for keys in self.changes for key in keys or ()]


@asynccontextmanager
async def listening(
    store: Store, heard: Heard, *, interval: float = INTERVAL
) -> AsyncIterator[ChangeFeed]:
    feed = store.change_feed(
        on_change=heard.changes.append, on_message=heard.messages.append, interval=interval
    )
    feed.start()
    try:
        await until(lambda: feed.connected, within=10, what="the feed is connected")
        yield feed
    finally:
        await feed.close()


async def test_changes_of_all_generations_are_heard_and_nothing_else(server: ValkeyServer) -> None:
    heard = Heard()
    async with open_store(server.url) as store, listening(store, heard):
        made = generations(store)
        heard.changes.clear()
        await made.invalidate_all()
        await made.invalidate_policy("authz")
        await made.invalidate_user("alice")
        with server.client() as client:
            client.set("policy:decision:abc", "x", ex=5)
            client.set("policy:user_versio", "x", ex=5)
            client.set("session:user:alice", "x", ex=5)
            client.delete("policy:user_version:alice")
            client.set("policy:user_version:brief", "x", px=20)
        expected = [
            b"policy:generation",
            b"policy:version:authz",
            b"policy:user_version:alice",
            b"policy:user_version:alice",
            b"policy:user_version:brief",
            # Expired.
            b"policy:user_version:brief",
        ]
        await until(
            lambda: len(heard.keys) >= len(expected), within=10, what="all changes are heard"
        )
        assert heard.keys == expected
        scopes = [message.partition(b" ")[0] for message in heard.messages]
        assert scopes == [b"all", b"policy", b"user"]


async def test_a_flush_may_have_changed_everything(server: ValkeyServer) -> None:
    heard = Heard()
    async with open_store(server.url) as store, listening(store, heard):
        heard.changes.clear()
        with server.client() as client:
            client.flushall()
        await until(lambda: heard.changes, within=10, what="the flush is heard")
        assert heard.changes[0] is None


async def test_many_changes_at_once_are_all_heard(server: ValkeyServer) -> None:
    heard = Heard()
    async with open_store(server.url) as store, listening(store, heard):
        with server.client() as client, client.pipeline(transaction=False) as pipe:
            for number in range(5000):
                pipe.set(f"policy:user_version:{number}", "x", ex=5)
            pipe.execute()
        await until(lambda: len(set(heard.keys)) == 5000, within=20, what="all are heard")


async def test_a_heartbeat_counts_from_its_sending(server: ValkeyServer) -> None:
    """An answer that was long under way tells nothing of the time since the question."""
    delay = 0.15
    heard = Heard()
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_store(proxy.url(server.password)) as store,
        listening(store, heard) as feed,
    ):
        loop = asyncio.get_running_loop()
        assert loop.time() - feed.coherent_at < delay
        proxy.delay(delay)
        before = feed.coherent_at
        # Both ways are delayed.
        await asyncio.sleep(4 * delay)
        assert feed.coherent_at > before
        ages = []
        for _ in range(50):
            ages.append(loop.time() - feed.coherent_at)
            await asyncio.sleep(INTERVAL / 4)
        assert min(ages) >= 2 * delay - INTERVAL / 2


async def test_everything_before_the_coherent_moment_has_been_heard(server: ValkeyServer) -> None:
    """The promise itself, with a feed that lags: no change from before it is missing."""
    heard = Heard()
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_store(proxy.url(server.password)) as slow,
        open_store(server.url) as fast,
        listening(slow, heard, interval=0.003) as feed,
    ):
        loop = asyncio.get_running_loop()
        made = generations(fast)
        proxy.delay(0.01)
        for number in range(40):
            await made.invalidate_user(f"u{number}")
            acknowledged = loop.time()
            key = f"policy:user_version:u{number}".encode()
            while feed.coherent_at < acknowledged:  # noqa: ASYNC110 - the very next step counts
                await asyncio.sleep(0)
            assert key in heard.keys


async def test_closing_leaves_neither_tasks_nor_connections(server: ValkeyServer) -> None:
    before = asyncio.all_tasks()
    with server.client() as client:
        clients = len(client.client_list())
        for _ in range(3):
            async with near_gateway(server.url) as gateway:
                assert near_of(gateway.decisions).serving
            assert not near_of(gateway.decisions).serving
        assert asyncio.all_tasks() == before
        await until(
            lambda: len(client.client_list()) == clients, within=5, what="connections are closed"
        )


async def test_closing_at_any_moment_ends(server: ValkeyServer) -> None:
    """Also while the feed is about to connect, or to take note of a lost connection."""
    async with FaultProxy(server.host, server.port) as proxy:
        for steps in range(60):
            async with open_store(proxy.url(server.password)) as store:
                feed = store.change_feed(
                    on_change=lambda _: None, on_message=lambda _: None, interval=0.001
                )
                feed.start()
                if steps % 2:
                    await until(lambda f=feed: f.connected, within=5, what="it is connected")
                    await proxy.drop()
                for _ in range(steps):
                    await asyncio.sleep(0)
                async with asyncio.timeout(5):
                    await feed.close()
                assert not feed.connected


async def test_what_others_write_and_publish_does_not_end_the_feed(server: ValkeyServer) -> None:
    hub, enforced = Hub(), list[Enforced]()
    hub.on(Enforced, enforced.append)
    async with open_near(server.url, hub=hub) as near, open_store(server.url) as store:
        await until(lambda: near._clock.known, within=5, what="the clock is known")
        with server.client() as client:
            client.set(b"policy:user_version:\xff\xfe", "x", ex=5)
            for message in (
                b"",
                b"\xff\xff \xff",
                b"user",
                b"made-up 1700000000000000-a",
                b"user " + b"9" * 10_000,
                b"user 1-a b c",
                b"decision",
                b"decision x y",
                b"decision " + b"9" * 10_000 + b" k",
                b"decision 1 " + b"k" * 10_000,
            ):
                client.publish("policy:changes", message)
        await generations(store).invalidate_user("alice")
        await until(
            lambda: any(0 <= e.seconds < 5 for e in enforced), within=5, what="it is measured"
        )
        assert {event.scope for event in enforced} == {"user"}
        assert near._feed.reconnects == 0
        assert hub.handler_failures == 0
