"""What processes do to a breaker; it stands here to be found by name."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from unittest.mock import patch

import valkey

from sark.breaker import BreakerConfig
from sark.errors import BreakerOpen
from tests.support.breakers import breaker_at
from tests.support.gateways import Meeting

STARTED = "test:breaker:started"


@dataclass(frozen=True)
class ProbeWork:
    """Tries to call through a half-open breaker for some time; tells how many calls ran.

    Attributes:
        url: The server.
        meeting: Where the processes wait for each other.
        seconds: For how long it tries.
        probes: The breaker's.
        skew_hours: How far each process's wall clock is off, times its number.
    """

    url: str
    meeting: Meeting
    seconds: float
    probes: int
    skew_hours: float = 0.0

    def __call__(self, number: int) -> int:
        wrong = time.time() + self.skew_hours * 3600 * (number % 7 - 3)
        with patch("time.time", lambda: wrong), valkey.Valkey.from_url(self.url) as client:
            return asyncio.run(self._run(client))

    async def _run(self, client: valkey.Valkey) -> int:
        config = BreakerConfig(
            failures=1, open_seconds=0.01, open_cap=0.01, probes=self.probes, probe_lease=600
        )
        async with breaker_at(self.url, config) as breaker:
            await asyncio.to_thread(self.meeting.join)
            deadline, ran = time.monotonic() + self.seconds, 0
            while time.monotonic() < deadline:
                try:
                    permit = await breaker.acquire()
                except BreakerOpen:
                    await asyncio.sleep(0.005)
                    continue
                assert permit.is_probe
                ran += 1
                client.incr(STARTED)
                client.expire(STARTED, 60)
                # Held beyond the end: its place must stay taken.
            return ran


@dataclass(frozen=True)
class DyingProbe:
    """Takes the probe of a half-open breaker, says so, and is killed."""

    url: str
    lease: float

    def __call__(self, _number: int) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        config = BreakerConfig(failures=1, open_seconds=0.01, open_cap=0.01, probe_lease=self.lease)
        async with breaker_at(self.url, config) as breaker:
            permit = await breaker.acquire()
            assert permit.is_probe
            os.kill(os.getpid(), signal.SIGKILL)
