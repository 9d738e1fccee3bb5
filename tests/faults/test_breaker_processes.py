"""Many processes on one breaker: exactly the permitted probes, whatever clocks and deaths do."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from sark.breaker import BreakerConfig
from sark.errors import BreakerOpen
from tests.support.breaker_work import STARTED, DyingProbe, ProbeWork
from tests.support.breakers import SECOND, Clocked, open_breaker
from tests.support.gateways import Meeting, processes, together
from tests.support.polling import until
from tests.support.servers import ValkeyServer


def trip(server: ValkeyServer) -> None:
    """Open the breaker, long ago: the next call is a probe."""
    config = BreakerConfig(failures=1, open_seconds=0.01, open_cap=0.01)
    with server.client() as client:
        Clocked(client, "billing", config).report(SECOND, 0, "x", "TimeoutError", 0.0)


async def run_probes(server: ValkeyServer, count: int, probes: int, skew_hours: float) -> int:
    trip(server)
    meeting = Meeting(server.url, "breaker", count)
    work = ProbeWork(server.url, meeting, seconds=0.5, probes=probes, skew_hours=skew_hours)
    with processes(count) as pool:
        ran = sum(await together(pool, count, work))
    with server.client() as client:
        assert int(client.get(STARTED) or 0) == ran
        assert client.get("circuit_breaker:billing:state") == b"half_open"
    return ran


async def test_exactly_the_permitted_probes_run(server: ValkeyServer) -> None:
    # Clocks that are hours off change nothing: only the server's counts.
    assert await run_probes(server, 2, probes=1, skew_hours=3) == 1


@pytest.mark.heavy
@pytest.mark.parametrize("probes", [1, 7])
async def test_exactly_the_permitted_probes_of_fifty_processes_run(
    server: ValkeyServer, probes: int
) -> None:
    assert await run_probes(server, 50, probes, skew_hours=3) == probes


async def test_a_killed_prober_frees_its_place_in_time(server: ValkeyServer) -> None:
    lease = 1.0
    trip(server)
    async with open_breaker(server, failures=1, probe_lease=lease) as (breaker, _):
        with processes(1) as pool, pytest.raises(BrokenProcessPool):
            await together(pool, 1, DyingProbe(server.url, lease))
        killed = time.monotonic()
        left = breaker.snapshot()

        async def probed() -> bool:
            try:
                permit = await breaker.acquire()
            except BreakerOpen:
                return False
            permit.succeeded()
            return True

        await until(probed, within=lease + 3, what="the next probe runs")
        # Not before the lease is over, as far as that is known here.
        if left.state == "half_open":
            assert time.monotonic() - killed > left.retry_after - 0.1
        await until(lambda: breaker.snapshot().state == "closed", within=3, what="it closes")


async def test_the_late_result_of_a_probe_changes_nothing(server: ValkeyServer) -> None:
    trip(server)
    config: dict[str, Any] = {"failures": 1, "open_seconds": 0.01, "open_cap": 0.01}
    async with (
        open_breaker(server, probe_lease=0.2, **config) as (slow, _),
        open_breaker(server, probe_lease=0.2, **config) as (quick, _),
    ):
        late = await slow.acquire()
        assert late.is_probe
        await asyncio.sleep(0.2)

        async def probe() -> bool:
            try:
                permit = await quick.acquire()
            except BreakerOpen:
                return False
            late.failed("TimeoutError")
            permit.succeeded()
            return True

        await until(probe, within=3, what="another may probe")
        await until(lambda: slow.snapshot().state == "closed", within=3, what="it closes")
        assert slow.snapshot().opened == 1
