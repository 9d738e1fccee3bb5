"""The server's clock beside the process's."""

from __future__ import annotations

import time

import pytest

from sark.events import Hub, ServerClockRead
from sark.parts.background import background
from sark.sessions.clock_watch import watch_server_clock
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.servers import ValkeyServer


@pytest.mark.parametrize(("ahead", "warned"), [(0, False), (25, False), (40, True), (-40, True)])
async def test_clocks_that_differ_too_much_are_reported_once(
    ahead: int, warned: bool, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, told = Hub(), list[ServerClockRead]()
    hub.on(ServerClockRead, told.append)
    real = time.time
    monkeypatch.setattr("sark.store.clock.time.time", lambda: real() - ahead)
    async with open_store(server.url, hub=hub) as store:
        watch = watch_server_clock(store, leeway=30, interval=0.01)
        async with background(watch, "test-clock"):
            await until(lambda: len(told) >= 3, within=5, what="the clock was read")
    assert all(abs(event.offset - ahead) < 1 for event in told)
    assert [event.warn for event in told[:3]] == [warned, False, False]
