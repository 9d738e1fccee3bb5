"""Replies of Valkey that get lost: what happened is found out, and nothing happens twice."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import msgspec
import pytest

from sark.errors import StoreTimeoutError
from sark.siem import SinkQueue
from sark.siem.leases import Lease, Outcome
from sark.store import Store
from tests.support.forwarders import (
    BOUNDS,
    PATIENCE_SECONDS,
    QUICK,
    closed_account,
    fill,
    is_drained,
    open_forwarder,
    queue_of,
)
from tests.support.gateways import open_store
from tests.support.line_receiver import LinesSink, Receiver, open_receiver
from tests.support.polling import until
from tests.support.servers import ValkeyServer


class LossyQueue(SinkQueue):
    """A queue whose calls happen, or don't, and whose caller may never learn which.

    Args:
        store: Where it lives.
        share: Share of the calls that are not answered; half of those don't happen either.
        luck: Where chance comes from.
    """

    def __init__(self, store: Store, share: float, luck: random.Random) -> None:
        super().__init__(store, "main", BOUNDS, lease=QUICK.lease, most_expiries=5)
        self._share = share
        self._luck = luck
        self.lost = 0

    async def lease(self, worker: str, *, events: int, size: int) -> Lease | None:
        self._before()
        lease = await super().lease(worker, events=events, size=size)
        self._after()
        return lease

    async def acknowledge(self, lease: Lease) -> None:
        self._before()
        await super().acknowledge(lease)
        self._after()

    async def settle(self, lease: Lease, outcomes: Sequence[Outcome]) -> Lease | None:
        self._before()
        kept = await super().settle(lease, outcomes)
        self._after()
        return kept

    async def resume(self, worker: str) -> Lease | None:
        self._before()
        lease = await super().resume(worker)
        self._after()
        return lease

    def _before(self) -> None:
        if self._luck.random() < self._share / 2:
            raise StoreTimeoutError("not sent, as it turns out")

    def _after(self) -> None:
        if self._luck.random() < self._share / 2:
            self.lost += 1
            raise StoreTimeoutError("the reply is lost")


@pytest.fixture
async def store(server: ValkeyServer) -> AsyncIterator[Store]:
    async with open_store(server.url) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as started:
        yield started


async def test_order_and_account_outlast_lost_replies(store: Store, receiver: Receiver) -> None:
    ids = await fill(store, 1500)
    queue = LossyQueue(store, 0.3, random.Random(7))
    watched = queue_of(store)
    async with (
        LinesSink(receiver.url) as sink,
        open_forwarder(store, sink, queue=queue, batching=replace(QUICK, lease=PATIENCE_SECONDS)),
    ):
        await until(lambda: is_drained(watched), within=PATIENCE_SECONDS, what="all are delivered")
    assert queue.lost > 1
    assert receiver.ids == ids
    status = await closed_account(watched)
    assert (status.delivered, status.failed.events) == (status.accepted, 0)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_goes_wrong_every_event_ends_where_it_belongs(
    store: Store, receiver: Receiver, seed: int
) -> None:
    luck = random.Random(seed)
    ids = await fill(store, 600)
    receiver.bad = set(luck.sample(ids, 8))

    def answer(batch: list[str]) -> int:
        if luck.random() < 0.6:
            return 200
        return luck.choice([202, 429, 500, 503] + [207, 413] * (len(batch) > 1))

    receiver.answer = answer
    queue = LossyQueue(store, 0.1, luck)
    batching = replace(QUICK, events=40, retry_cap=0.02, concurrency=luck.choice([1, 3]))
    watched = queue_of(store)
    async with (
        LinesSink(receiver.url) as sink,
        open_forwarder(store, sink, queue=queue, batching=batching),
    ):
        await until(lambda: is_drained(watched), within=PATIENCE_SECONDS, what="all are decided")
    status = await closed_account(watched)
    letters = [msgspec.json.decode(each) for each in await watched.failed(100)]
    assert {letter["event"]["id"] for letter in letters} == receiver.bad
    assert len(letters) == status.failed.events == 8
    assert status.delivered.events == 592
    assert set(receiver.ids) == set(ids) - receiver.bad
