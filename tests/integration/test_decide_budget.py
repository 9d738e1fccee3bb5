"""``decide`` by itself keeps within the budget of a request, also when Valkey hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sark.errors import StoreError
from tests.support.gateways import open_gateway, question
from tests.support.near import Numbered
from tests.support.servers import ValkeyServer

BUDGET_SECONDS = 0.25


async def test_a_server_that_hangs_costs_no_more_than_the_budget(
    private_server: Callable[..., ValkeyServer],
) -> None:
    server = private_server()
    async with open_gateway(server.url, Numbered(), budget=BUDGET_SECONDS) as gateway:
        decisions = gateway.decisions
        await decisions.decide(question())
        await decisions.evaluations.close()
        loop = asyncio.get_running_loop()
        with server.paused():
            for wishes in ({}, {"consistency": "full"}):
                began = loop.time()
                with pytest.raises(StoreError):
                    await decisions.decide(question(), **wishes)  # type: ignore[arg-type]
                # The settings' timeout of one call is five seconds.
                assert loop.time() - began < 4 * BUDGET_SECONDS
