"""One server for both roles, or one for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from sark.keyspace import Role
from sark.settings import load
from sark.store import Store, StoreHealth, Topology
from tests.support.servers import ValkeyServer

# Longer than any answer takes, on a machine that is busy with something else.
CHECK_SECONDS = 1.0
MARGIN_SECONDS = 1.5


@pytest.fixture
def state_server(private_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return private_server()


@pytest.fixture
async def split(server: ValkeyServer, state_server: ValkeyServer) -> AsyncIterator[Store]:
    settings = load({"VALKEY_URL": server.url, "VALKEY_STATE_URL": state_server.url})
    topology = Topology.of(settings)
    assert topology is not None
    async with Store(topology, settings) as store:
        yield store


def run_id_of(server: ValkeyServer) -> str:
    info = server.client().info("server")
    assert isinstance(info, dict)
    return str(info["run_id"])


async def test_each_role_reaches_its_server(
    split: Store, server: ValkeyServer, state_server: ValkeyServer
) -> None:
    await split.state.execute("SET", "who", "state", "EX", 60)
    await split.cache.execute("SET", "who", "cache", "EX", 60)
    assert server.client().get("who") == b"cache"
    assert state_server.client().get("who") == b"state"
    assert split.servers == (split.state, split.cache)
    assert (split.state.role, split.cache.role) == (Role.STATE, Role.CACHE)
    assert not split.shared


async def test_each_role_has_its_own_pool_guard_and_name(
    split: Store, server: ValkeyServer, state_server: ValkeyServer
) -> None:
    assert split.state.guard is not split.cache.guard
    await split.state.execute("PING")
    assert (split.state.pool_stats().connects, split.cache.pool_stats().connects) == (1, 0)
    assert await split.state.execute("CLIENT", "GETNAME") == b"sark-state"
    assert await split.cache.execute("CLIENT", "GETNAME") == b"sark-cache"


async def test_one_url_is_one_server_with_one_pool(server: ValkeyServer) -> None:
    settings = load({"VALKEY_URL": server.url})
    topology = Topology.of(settings)
    assert topology is not None
    async with Store(topology, settings) as store:
        assert store.shared
        assert store.state is store.cache
        assert store.servers == (store.state,)
        assert await store.check(timeout=CHECK_SECONDS) == [
            StoreHealth(Role.STATE, f"{server.host}:{server.port}", ok=True)
        ]


async def test_the_password_of_the_settings_is_for_urls_without_one(
    server: ValkeyServer, state_server: ValkeyServer
) -> None:
    settings = load(
        {
            "VALKEY_URL": f"valkey://{server.host}:{server.port}",
            "VALKEY_STATE_URL": state_server.url,
            "VALKEY_PASSWORD": server.password,
        }
    )
    topology = Topology.of(settings)
    assert topology is not None
    async with Store(topology, settings) as store:
        assert await store.cache.execute("PING") == b"PONG"
        assert await store.state.execute("PING") == b"PONG"


def test_without_a_url_there_is_no_topology() -> None:
    assert Topology.of(load({})) is None


async def test_health_tells_of_each_server(
    split: Store, server: ValkeyServer, state_server: ValkeyServer
) -> None:
    state, cache = (f"{s.host}:{s.port}" for s in (state_server, server))
    healthy = [
        StoreHealth(Role.STATE, state, ok=True),
        StoreHealth(Role.CACHE, cache, ok=True),
    ]
    assert await split.check(timeout=CHECK_SECONDS) == healthy

    with state_server.paused():
        started = asyncio.get_running_loop().time()
        hung, well = await split.check(timeout=CHECK_SECONDS)
        assert asyncio.get_running_loop().time() - started <= CHECK_SECONDS + MARGIN_SECONDS
        assert (hung.role, hung.address, hung.ok) == (Role.STATE, state, False)
        assert "no answer in time" in hung.reason
        assert well == healthy[1]
    assert await split.check(timeout=CHECK_SECONDS) == healthy

    state_server.stop()
    dead, well = await split.check(timeout=CHECK_SECONDS)
    assert (dead.role, dead.ok) == (Role.STATE, False)
    assert dead.reason
    assert well == healthy[1]


async def test_a_dead_server_of_one_role_leaves_the_other_alone(
    split: Store, state_server: ValkeyServer
) -> None:
    await split.check(timeout=CHECK_SECONDS)
    state_server.stop()
    while not split.state.guard.is_open:
        await split.check(timeout=0.1)
    assert not split.cache.guard.is_open
    assert await split.cache.execute("PING") == b"PONG"
