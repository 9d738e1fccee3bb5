"""A breaker while Valkey is killed, hangs, and comes back: alone, and saying so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sark.breaker import Breaker
from sark.errors import BreakerOpen, StoreError
from tests.support.breakers import open_breaker
from tests.support.polling import until
from tests.support.servers import ValkeyServer

WITHIN = 10.0


async def decides_alone(breaker: Breaker) -> None:
    await until(lambda: not breaker.snapshot().shared, within=WITHIN, what="it decides alone")


async def is_shared(breaker: Breaker) -> None:
    await until(lambda: breaker.snapshot().shared, within=WITHIN, what="the state is shared again")


@pytest.mark.parametrize("hangs", [False, True])
async def test_alone_it_opens_probes_and_closes_and_returns(
    private_server: Callable[..., ValkeyServer], hangs: bool
) -> None:
    server = private_server()
    config: dict[str, Any] = {"failures": 3, "open_seconds": 0.1, "open_cap": 0.1}
    async with open_breaker(server, **config) as (breaker, changes):
        async with breaker:
            pass
        server.pause() if hangs else server.kill()
        await decides_alone(breaker)
        for _ in range(3):
            (await breaker.acquire()).failed("TimeoutError")
        assert breaker.snapshot().state == "open"
        with pytest.raises(BreakerOpen):
            await breaker.acquire()
        await asyncio.sleep(0.1)
        probe = await breaker.acquire()
        assert probe.is_probe
        with pytest.raises(BreakerOpen):
            await breaker.acquire()
        probe.succeeded()
        assert breaker.snapshot().state == "closed"
        assert changes.modes == [
            "closed alone",
            "open alone",
            "half_open alone",
            "closed alone",
        ]
        assert changes[0].reason
        with pytest.raises(StoreError):
            await breaker.force_open()
        server.resume() if hangs else server.start()
        await is_shared(breaker)
        # Calls that were admitted alone say nothing to the others.
        assert changes.modes[4:] == ["closed"]
        for _ in range(3):
            (await breaker.acquire()).failed("TimeoutError")
        await until(lambda: breaker.snapshot().state == "open", within=WITHIN, what="it opens")
        assert breaker.snapshot().shared


async def test_calls_never_wait_long_for_a_server_that_hangs(
    private_server: Callable[..., ValkeyServer],
) -> None:
    server = private_server()
    config: dict[str, Any] = {"failures": 1, "open_seconds": 0.05, "open_cap": 0.05}
    async with open_breaker(server, **config) as (breaker, _):
        (await breaker.acquire()).failed("TimeoutError")
        await until(lambda: breaker.snapshot().state == "open", within=WITHIN, what="it opens")
        await until(lambda: not breaker.snapshot().retry_after, within=WITHIN, what="it may probe")
        with server.paused():
            # It asks, is not answered, and decides alone that this call is the probe.
            async with asyncio.timeout(5):
                probe = await breaker.acquire()
            assert probe.is_probe
            assert not breaker.snapshot().shared
            probe.succeeded()
            assert breaker.snapshot().state == "closed"
        await is_shared(breaker)


async def test_it_begins_alone_and_finds_what_others_say_later(
    private_server: Callable[..., ValkeyServer],
) -> None:
    server = private_server({"appendonly": "yes", "appendfsync": "always"})
    async with open_breaker(server) as (breaker, _):
        await breaker.force_open()
    server.stop()
    async with open_breaker(server) as (breaker, changes):
        assert not breaker.snapshot().shared
        async with breaker:
            pass
        server.start()
        await until(
            lambda: breaker.snapshot().state == "forced_open", within=WITHIN, what="it is found"
        )
        assert changes.modes == ["closed alone", "forced_open"]


async def test_a_probe_of_before_the_outage_is_heard_after_it(
    private_server: Callable[..., ValkeyServer],
) -> None:
    server = private_server({"appendonly": "yes", "appendfsync": "always"})
    config: dict[str, Any] = {
        "failures": 1,
        "open_seconds": 0.05,
        "open_cap": 0.05,
        "probe_lease": 600.0,
    }
    async with open_breaker(server, **config) as (breaker, _):
        (await breaker.acquire()).failed("TimeoutError")
        await until(lambda: breaker.snapshot().state == "open", within=WITHIN, what="it opens")
        await until(lambda: not breaker.snapshot().retry_after, within=WITHIN, what="it may probe")
        probe = await breaker.acquire()
        server.stop()
        await decides_alone(breaker)
        probe.succeeded()
        server.start()
        await is_shared(breaker)
        await until(lambda: breaker.snapshot().state == "closed", within=WITHIN, what="it closes")


async def test_a_server_that_has_forgotten_starts_afresh(
    private_server: Callable[..., ValkeyServer],
) -> None:
    server = private_server()
    async with open_breaker(server, failures=2, open_seconds=60) as (breaker, _):
        for _ in range(2):
            (await breaker.acquire()).failed("TimeoutError")
        await until(lambda: breaker.snapshot().state == "open", within=WITHIN, what="it opens")
        server.kill()
        server.start()
        await until(lambda: breaker.snapshot().state == "closed", within=WITHIN, what="it closes")
        with server.client() as client:
            await until(
                lambda: bool(client.sismember("circuit_breaker:names", "billing")),
                within=WITHIN,
                what="it is listed again",
            )
        for _ in range(2):
            (await breaker.acquire()).failed("TimeoutError")
        await until(lambda: breaker.snapshot().state == "open", within=WITHIN, what="it opens")
