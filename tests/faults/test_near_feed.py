"""The change feed under faults: at a break everything is dropped, in silence it ages, it heals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sark.errors import StoreError
from sark.policy.decisions import Decisions
from sark.policy.near_feed import NearFeed
from tests.support.gateways import generations, open_store, question
from tests.support.near import (
    BOUND_SECONDS,
    Numbered,
    near_gateway,
    near_of,
    serving,
    warm,
)
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

NEVER = float("-inf")


def kill_feed(server: ValkeyServer) -> None:
    with server.client() as client:
        feeds = [each for each in client.client_list() if int(each["sub"]) > 0]
        assert len(feeds) == 1
        client.client_kill_filter(_id=feeds[0]["id"])


async def broken(near: NearFeed) -> None:
    """Wait for a break, step by step, and see that it left nothing."""
    deadline = near.now() + 5
    while near._feed.coherent_at > NEVER:
        assert near.now() < deadline, "the break was not noticed"
        await asyncio.sleep(0)
    assert near.cache.stats().entries == 0
    assert not near.serving
    assert near.serves_until == NEVER


async def healed(decisions: Decisions) -> None:
    await serving(near_of(decisions))
    await warm(decisions, question())


async def test_a_killed_connection_empties_at_once_and_comes_back(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered()) as gateway:
        decisions = gateway.decisions
        near = near_of(decisions)
        for number in range(1, 4):
            await healed(decisions)
            loop_time = near.now()
            kill_feed(server)
            await broken(near)
            assert near.now() - loop_time < BOUND_SECONDS, "at once, not when the bound has passed"
            assert near._feed.reconnects == number
            assert (await decisions.decide(question())).source == "valkey"
        await healed(decisions)


async def test_what_changed_while_it_was_away_is_not_served(server: ValkeyServer) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(server.url, Numbered(), feed_url=proxy.url(server.password)) as gateway,
        open_store(server.url) as elsewhere,
    ):
        decisions = gateway.decisions
        near = near_of(decisions)
        for number in range(1, 6):
            await healed(decisions)
            assert (await decisions.decide(question())).reason == str(number)
            proxy.refuse()
            await proxy.drop()
            await broken(near)
            # Answered while nothing is heard: such decisions must not stay either.
            await decisions.decide(question())
            await generations(elsewhere).invalidate_user("alice")
            await proxy.start()
            await serving(near)
            assert (await decisions.decide(question())).reason == str(number + 1)


async def test_a_blackholed_connection_ages_and_is_then_given_up(server: ValkeyServer) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(server.url, Numbered(), feed_url=proxy.url(server.password)) as gateway,
    ):
        decisions = gateway.decisions
        near = near_of(decisions)
        await warm(decisions, question())
        proxy.blackhole()
        await asyncio.sleep(0)
        at = near._feed.coherent_at
        await until(lambda: not near.serving, within=2, what="it steps aside")
        assert near._feed.coherent_at > NEVER, "the connection is not broken yet"
        assert near._feed.coherent_at - at < BOUND_SECONDS
        assert (await decisions.decide(question())).source == "valkey"
        await until(lambda: not near._feed.connected, within=5, what="it is given up")
        await proxy.forward()
        await healed(decisions)


async def test_a_stopped_server_is_served_from_no_longer_than_the_bound(
    private_server: Callable[..., ValkeyServer],
) -> None:
    server = private_server()
    async with near_gateway(server.url, Numbered()) as gateway:
        decisions = gateway.decisions
        near = near_of(decisions)
        await warm(decisions, question())
        with server.paused():
            stopped = last = near.now()
            while near.now() < stopped + 2 * BOUND_SECONDS:
                now = near.now()
                if near.get_coherent(question().key, now) is not None:
                    last = now
                await asyncio.sleep(0.001)
            assert 0 < last - stopped <= BOUND_SECONDS
            assert near.serves_until <= stopped + BOUND_SECONDS
            assert near.cache.stats().entries == 0
            with pytest.raises(StoreError):
                await decisions.decide(question(), deadline=near.now() + 0.05)
        await healed_patiently(decisions)


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_server_that_comes_back_starts_anew(
    private_server: Callable[..., ValkeyServer], how: str
) -> None:
    server = private_server({"appendonly": "yes"})
    async with near_gateway(server.url, Numbered()) as gateway:
        decisions = gateway.decisions
        near = near_of(decisions)
        await warm(decisions, question())
        if how == "kill":
            server.kill()
        else:
            server.stop()
        await broken(near)
        server.start()
        await healed_patiently(decisions)
        # Another run: what the file kept of the old one is not valid.
        assert int((await decisions.decide(question())).reason) > 1


async def test_an_overrun_of_the_servers_buffer_empties(
    private_server: Callable[..., ValkeyServer],
) -> None:
    """More changes than the connection takes: the server closes it, and some are never heard."""
    server = private_server()
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(server.url, Numbered(), feed_url=proxy.url(server.password)) as gateway,
    ):
        decisions = gateway.decisions
        near = near_of(decisions)
        await warm(decisions, question())
        proxy.blackhole()
        with server.client() as client:
            client.config_set("client-output-buffer-limit", "pubsub 64kb 0 0")

            def overrun() -> bool:
                with client.pipeline(transaction=False) as pipe:
                    for number in range(200):
                        pipe.set(f"policy:user_version:{'x' * 20_000}{number}", "x", ex=30)
                    pipe.execute()
                return not any(int(each["sub"]) for each in client.client_list())

            await until(overrun, within=20, what="the server gives the feed up")
            await generations(gateway.store).invalidate_user("alice")
        await proxy.forward()
        await until(lambda: near._feed.reconnects, within=10, what="the break is noticed")
        await serving(near)
        assert (await decisions.decide(question())).reason == "2"
        await healed(decisions)


async def healed_patiently(decisions: Decisions) -> None:
    """Wait until the server is asked again, too."""

    async def answers() -> bool:
        try:
            await decisions.decide(question())
        except StoreError:
            return False
        return True

    await until(answers, within=10, what="the server answers again")
    await healed(decisions)
