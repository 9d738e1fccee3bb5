"""The Splunk sink with a real collector behind a proxy that injects faults.

The sink never retries; the loop here does what the forwarder does with its verdicts. Faults that
the proxy answers in place of the collector lose and repeat nothing. One that is paused or restarted
may get a batch twice, of which nobody knew whether it had arrived. A collector that is killed takes
along what it had answered for and not yet written, and this one never acknowledges indexing outside
a cluster of its own; so that is not tried here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random

import pytest

from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.kind import SinkOptions
from sark.siem.sinks.verdict import Delivered, Rejected, TooLarge, Unavailable
from tests.support.envoy import ENVOY_STATUSES, Envoy
from tests.support.polling import until
from tests.support.receivers import HEC_TOKEN, Tenzir, hec_receiver
from tests.support.sinks import entries, opened_sink

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(180)]

WITHIN = 30.0
AT_ONCE = 50


class Sender:
    """Sends events in order until the collector has them all.

    Attributes:
        delivered: How many were.
        unknown: How many events were in batches of which nobody knows whether they arrived.
        verdicts: How often each kind of verdict came.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.delivered = 0
        self.unknown = 0
        self.verdicts: Counter[str] = Counter()

    async def send(self, events: Sequence[Entry]) -> None:
        for start in range(0, len(events), AT_ONCE):
            await self._send(events[start : start + AT_ONCE])

    async def _send(self, batch: Sequence[Entry]) -> None:
        while True:
            verdict = await self._sink.send(batch)
            self.verdicts[type(verdict).__name__] += 1
            if isinstance(verdict, Delivered):
                self.delivered += len(batch)
                return
            if isinstance(verdict, TooLarge | Rejected) and len(batch) > 1:
                middle = len(batch) // 2
                await self._send(batch[:middle])
                await self._send(batch[middle:])
                return
            if isinstance(verdict, Unavailable):
                self.unknown += len(batch)
            await asyncio.sleep(0.01)


def through(
    proxy: Envoy, query: str = "", timeout: float = 5.0
) -> AbstractAsyncContextManager[Sink]:
    address = f"splunk+http://127.0.0.1:{proxy.port}{query}"
    return opened_sink(address, HEC_TOKEN, SinkOptions(timeout=timeout))


def ids(collector: Tenzir) -> list[str]:
    return [found["event"]["id"] for found in collector.arrived]


async def all_arrive(collector: Tenzir, sent: Sequence[Entry]) -> None:
    expected = {entry.id for entry in sent}
    await until(lambda: set(ids(collector)) >= expected, within=WITHIN, what="all have arrived")


async def while_sending(
    sender: Sender, sent: Sequence[Entry], step: Callable[[], object], *, every: float
) -> None:
    """Take a step again and again, for as long as events are being sent.

    Args:
        sender: Sends them.
        sent: The events.
        step: Blocks.
        every: Seconds between two steps.
    """
    sending = asyncio.create_task(sender.send(sent))
    while not sending.done():
        await asyncio.to_thread(step)
        await asyncio.wait([sending], timeout=every)
    await sending


async def test_what_the_proxy_refuses_arrives_once_and_in_order() -> None:
    sent, chance = entries(10_000), Random(6)
    with hec_receiver() as collector, Envoy(collector.port) as proxy:

        def change_faults() -> None:
            aborts = {status: chance.randrange(30) for status in ENVOY_STATUSES}
            proxy.inject(aborts, delayed=chance.randrange(30), delay_ms=20)

        async with through(proxy) as sink:
            sender = Sender(sink)
            await while_sending(sender, sent, change_faults, every=0.05)
        await all_arrive(collector, sent)
        assert ids(collector) == [entry.id for entry in sent]
        assert proxy.injected > 100
    assert sender.delivered == len(sent)
    assert set(sender.verdicts) >= {
        *("Delivered", "Unauthorized", "TooLarge", "Throttled", "Unavailable")
    }


async def test_a_collector_that_is_paused_and_restarted_loses_nothing() -> None:
    sent, chance = entries(10_000), Random(7)
    pauses = restarts = 0
    with hec_receiver() as collector, Envoy(collector.port, timeout=0.3) as proxy:
        proxy.inject({503: 10, 429: 10, 500: 5}, delayed=30, delay_ms=20)

        def harm() -> None:
            nonlocal pauses, restarts
            if chance.random() < 0.5:
                collector.stop()
                collector.start()
                restarts += 1
            else:
                with collector.paused():
                    time.sleep(0.6)
                pauses += 1

        async with through(proxy) as sink:
            sender = Sender(sink)
            await while_sending(sender, sent, harm, every=0.5)
        await all_arrive(collector, sent)
        counts = Counter(ids(collector))
    assert sender.delivered == len(sent)
    assert min(pauses, restarts) > 0
    assert 0 < sum(count - 1 for count in counts.values()) <= sender.unknown
