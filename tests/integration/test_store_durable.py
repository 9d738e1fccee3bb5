"""Writes that wait until they are safe: on replicas, or in the server's append-only file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from sark.errors import DurabilityError, ReplicationError, StoreCommandError
from sark.store import Script
from tests.support.polling import until
from tests.support.replicas import AT_ONCE, follow, linked
from tests.support.servers import ValkeyServer
from tests.support.stores import Reports, open_server

StartServer = Callable[..., ValkeyServer]

ADD = Script(
    "add", "local n = server.call('INCR', KEYS[1]) server.call('EXPIRE', KEYS[1], 60) return n"
)
FAIL = Script("fail", "return server.error_reply('NOPE not today')")
SHORTFALL_SECONDS = 0.5


def now() -> float:
    return asyncio.get_running_loop().time()


def waits(server: ValkeyServer, command: str) -> int:
    statistics = cast("dict[str, dict[str, int]]", server.client().info("commandstats"))
    return statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"]


@pytest.fixture
def syncing(private_server: StartServer) -> ValkeyServer:
    """A server with an append-only file, synced every second."""
    return private_server({"appendonly": "yes", "appendfsync": "everysec"})


@pytest.fixture
def replicated(private_server: StartServer) -> tuple[ValkeyServer, ValkeyServer]:
    """A primary and its replica."""
    primary, replica = private_server(AT_ONCE), private_server()
    follow(replica, primary)
    return primary, replica


async def test_a_write_outlives_a_kill_once_it_has_returned(syncing: ValkeyServer) -> None:
    async with open_server(syncing.url) as store:
        for expected in (1, 2, 3):
            reply = await store.run_durable(ADD, ["n"])
            assert reply.value == expected
            run_id = reply.run_id
            syncing.kill()
            await asyncio.to_thread(syncing.start)
            assert syncing.client().get("n") == str(expected).encode()
        assert waits(syncing, "waitaof") == 0  # of the run that nobody has written to
        await until(lambda: not store.guard.is_open, within=10, what="the guard closes")
        assert (await store.run_durable(ADD, ["n"])).run_id != run_id


async def test_it_waits_behind_a_script_that_had_to_be_loaded(syncing: ValkeyServer) -> None:
    """The first wait was sent behind a call that did not run, and so waited for nothing."""
    reports = Reports()
    async with open_server(syncing.url, reports=reports) as store:
        assert (await store.run_durable(ADD, ["n"])).value == 1
        assert [event.script for event in reports.scripts_loaded] == ["add"]
        assert waits(syncing, "waitaof") == 2
        assert (await store.run_durable(ADD, ["n"])).value == 2
        assert waits(syncing, "waitaof") == 3


async def test_a_server_without_the_file_has_nothing_to_wait_for(server: ValkeyServer) -> None:
    async with open_server(server.url) as store:
        assert (await store.run_durable(ADD, ["n"])).value == 1
        assert (await store.run_durable(ADD, ["n"])).value == 2
        assert store.guard.failures == 0


async def test_a_file_switched_on_later_is_waited_for(private_server: StartServer) -> None:
    server = private_server()
    async with open_server(server.url) as store:
        await store.run_durable(ADD, ["n"])
        client = server.client()
        client.config_set("appendonly", "yes")
        assert (await store.run_durable(ADD, ["n"])).value == 2
        server.kill()
        server.options["appendonly"] = "yes"
        await asyncio.to_thread(server.start)
        assert server.client().get("n") == b"2"


async def test_a_file_that_is_never_synced_is_a_shortfall(private_server: StartServer) -> None:
    server = private_server({"appendonly": "yes", "appendfsync": "no"})
    async with open_server(server.url) as store:
        started = now()
        with pytest.raises(DurabilityError, match="not yet in the append-only file") as short:
            await store.run_durable(ADD, ["n"], deadline=started + SHORTFALL_SECONDS)
        assert type(short.value) is DurabilityError
        assert now() - started < SHORTFALL_SECONDS + 1
        # It was written, and the connection that waited is fit for use.
        assert await store.execute("GET", "n") == b"1"
        assert store.pool_stats().discarded == 0


async def test_an_error_of_the_script_is_told_as_such(syncing: ValkeyServer) -> None:
    async with open_server(syncing.url) as store:
        with pytest.raises(StoreCommandError, match="not today"):
            await store.run_durable(FAIL, [])


async def test_replicas_are_waited_for_when_asked(
    replicated: tuple[ValkeyServer, ValkeyServer],
) -> None:
    primary, replica = replicated
    await linked(replica)
    async with open_server(primary.url) as store:
        for run in (store.run_durable, store.run_replicated):
            primary.client().script_flush()
            reply = await run(ADD, ["n"], replicas=1)
            # Also behind a script that had to be loaded.
            assert replica.client().get("n") == str(reply.value).encode()
        assert waits(primary, "wait") == 4


async def test_too_few_replicas_are_a_shortfall(
    replicated: tuple[ValkeyServer, ValkeyServer],
) -> None:
    primary, replica = replicated
    await linked(replica)
    async with open_server(primary.url) as store:
        await store.run_durable(ADD, ["n"], replicas=1)
        with replica.paused(), pytest.raises(ReplicationError, match="0 of 1 replicas"):
            await store.run_durable(ADD, ["n"], replicas=1, deadline=now() + SHORTFALL_SECONDS)
        with pytest.raises(ReplicationError, match="1 of 2 replicas"):
            await store.run_durable(ADD, ["n"], replicas=2, deadline=now() + SHORTFALL_SECONDS)
        assert await store.execute("GET", "n") == b"3"


async def test_a_replica_refuses_to_wait(replicated: tuple[ValkeyServer, ValkeyServer]) -> None:
    _, replica = replicated
    await linked(replica)
    async with open_server(replica.url) as store:
        with pytest.raises(StoreCommandError, match=r"(?i)read only replica"):
            await store.run_durable(ADD, ["n"])
