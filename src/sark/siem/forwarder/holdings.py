"""The leases that one process holds on the events of one sink.

A lease has a name of its own, ``host.pid.random.slot``, and there are as many slots as batches may
be held at a time. Leases are renewed in the background, and whatever is not sent in the end goes
back to the head of the queue, the latest lease first, so that the order is as it was.

A reply of Valkey may be lost, and then nobody here knows whether a lease was given or settled. It
is asked again by ``resume``, which tells what is still held under that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from sark.errors import DeadLettersFullError, LeaseHeldError, LeaseLostError, StoreError
from sark.siem.forwarder.backoff import Backoff
from sark.siem.forwarder.delivery import DELIVERED as TAKEN
from sark.siem.forwarder.delivery import OPEN, Delivery
from sark.siem.forwarder.delivery import Outcome as Decided
from sark.siem.leases import DELIVERED, KEEP, RETURN, Bad, Lease, Outcome, SinkQueue
from sark.siem.sinks.base import Entry

__all__ = ["Batch", "Holdings"]

MAX_HOST_LENGTH = 64
STORE_RETRY_CAP_SECONDS = 2.0
RENEWALS_PER_LEASE = 3


@dataclass(slots=True, eq=False)
class Batch:
    """A lease, and how far its events have come.

    Attributes:
        lease: What is still leased.
        sizes: Bytes of each event as it was queued.
        entries: What to send of each; None for those that can't be sent.
        delivery: What became of them.
        sure_until: Until when the lease can't have ended, on the event loop's clock.
        lost: Whether the lease has ended, so that the events are another's.
        settling: Whether the queue is being told what became of them, or nobody knows whether it
            has heard.
    """

    lease: Lease
    sizes: Sequence[int]
    sure_until: float
    entries: Sequence[Entry | None] = ()
    delivery: Delivery | None = None
    lost: bool = False
    settling: bool = False


class Holdings:
    """Takes, renews, settles and returns leases.

    Args:
        queue: Where the events are.
        slots: Most leases held at a time.
        events: Most events of one.
        size: Most bytes of one.
        seconds: How long a lease lasts that is not renewed.
    """

    def __init__(
        self, queue: SinkQueue, *, slots: int, events: int, size: int, seconds: float
    ) -> None:
        self._queue = queue
        self._events = events
        self._size = size
        self._seconds = seconds
        host = socket.gethostname()[:MAX_HOST_LENGTH]
        self.name = f"{host}.{os.getpid()}.{secrets.token_hex(4)}"
        self._held: dict[str, Batch] = {}
        self._free = [f"{self.name}.{slot}" for slot in range(slots)]
        # Where the answer to a lease was lost, its slot is asked again before another one takes
        # the events behind it.
        self._unsure: str | None = None

    def __len__(self) -> int:
        """How many leases are held."""
        return len(self._held)

    @property
    def has_room(self) -> bool:
        """Whether another lease may be taken."""
        return bool(self._unsure or self._free)

    async def take(self) -> Batch | None:
        """Lease what is queued, while there is room; None when nothing is.

        Raises:
            DeadLettersFullError: There is no room for dead letters.
            StoreError: The server did not answer.
        """
        worker = self._unsure or self._free.pop()
        self._unsure = worker
        asked = asyncio.get_running_loop().time()
        try:
            lease = await self._queue.lease(worker, events=self._events, size=self._size)
        except LeaseHeldError:
            lease = await self._queue.resume(worker)
        except DeadLettersFullError:
            self._unsure = None
            self._free.append(worker)
            raise
        self._unsure = None
        if lease is None:
            self._free.append(worker)
            return None
        batch = Batch(lease, [len(event) for event in lease.events], asked + self._seconds)
        self._held[worker] = batch
        return batch

    def is_ample(self, batch: Batch) -> bool:
        """Tell whether there is no use in waiting: more is queued, or it is at least half full."""
        half_full = 2 * len(batch.sizes) >= self._events or 2 * batch.lease.bytes >= self._size
        return half_full or batch.lease.behind > 0

    async def settle(self, batch: Batch) -> None:
        """Tell the queue what has been decided, until it has heard; what is open stays leased.

        Raises:
            LeaseLostError: The lease has ended: the events are another's.
        """
        assert batch.delivery is not None  # noqa: S101 - a batch is settled once it was prepared
        decided = batch.delivery.unsettled()
        batch.settling = True
        try:
            await self._settle(batch, decided)
        except LeaseLostError:
            self.forget(batch)
            raise
        batch.settling = False
        batch.delivery.settled()

    async def _settle(self, batch: Batch, decided: Sequence[Decided]) -> None:
        kept = decided.count(OPEN)
        loop = asyncio.get_running_loop()
        backoff = Backoff(cap=STORE_RETRY_CAP_SECONDS)
        while True:
            try:
                lease = await self._tell(batch.lease, decided)
                break
            except StoreError:
                await asyncio.sleep(backoff.failed(sent=loop.time(), now=loop.time()))
            lease = await self._resume(batch.lease.worker, backoff)
            if lease is None:
                break
            batch.lease = lease
            if len(lease.events) == kept:
                break
        if lease is not None:
            batch.lease = lease
        elif kept:
            raise LeaseLostError("the lease has ended, its events are another's")
        else:
            self.forget(batch)

    async def _tell(self, lease: Lease, decided: Sequence[Decided]) -> Lease | None:
        if all(outcome == TAKEN for outcome in decided):
            await self._queue.acknowledge(lease)
            return None
        return await self._queue.settle(lease, [_outcome(each, KEEP) for each in decided])

    async def _resume(self, worker: str, backoff: Backoff) -> Lease | None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await self._queue.resume(worker)
            except StoreError:
                await asyncio.sleep(backoff.failed(sent=loop.time(), now=loop.time()))

    def forget(self, batch: Batch) -> None:
        """Let go of a batch whose lease has ended."""
        worker = batch.lease.worker
        if self._held.pop(worker, None) is not None:
            self._free.append(worker)

    async def give_back(self) -> None:
        """Return what is held to the head of the queue, in its order.

        What Valkey can't be told about returns when its lease expires.
        """
        if self._unsure is not None:
            # If there is a lease, it is the latest.
            with contextlib.suppress(LeaseLostError, StoreError):
                if (lease := await self._queue.resume(self._unsure)) is not None:
                    await self._queue.give_back(lease)
        # In the order in which they were taken, which a resumed lease's newer token doesn't tell.
        for batch in reversed([*self._held.values()]):
            with contextlib.suppress(LeaseLostError, StoreError):
                await self._return(batch)
            self.forget(batch)

    async def _return(self, batch: Batch) -> None:
        decided = batch.delivery.unsettled() if batch.delivery is not None else []
        if batch.settling:
            # It was cut off in the middle of telling.
            lease = await self._queue.resume(batch.lease.worker)
            if lease is None:
                return
            batch.lease = lease
            if len(lease.events) != len(decided):
                decided = []
        if any(outcome is not OPEN for outcome in decided):
            await self._queue.settle(batch.lease, [_outcome(each, RETURN) for each in decided])
        else:
            await self._queue.give_back(batch.lease)

    async def renew_forever(self) -> None:
        """Renew what is held, until cancelled."""
        while True:
            await asyncio.sleep(self._seconds / RENEWALS_PER_LEASE)
            for batch in [*self._held.values()]:
                if not batch.settling:
                    await self._renew(batch)

    async def make_sure(self, batch: Batch) -> None:
        """Renew a lease that may have ended, for instance because this process stood still.

        Its batch is marked as lost when it has.
        """
        if asyncio.get_running_loop().time() >= batch.sure_until:
            await self._renew(batch)

    async def _renew(self, batch: Batch) -> None:
        lease, asked = batch.lease, asyncio.get_running_loop().time()
        try:
            await self._queue.renew(lease)
            batch.sure_until = asked + self._seconds
        except LeaseLostError:
            # Unless it was settled or resumed meanwhile.
            unchanged = batch.lease is lease and self._held.get(lease.worker) is batch
            if unchanged and not batch.settling:
                batch.lost = True
                self.forget(batch)
        except StoreError:
            pass  # the store reports it, and the next renewal comes before the lease ends


def _outcome(decided: Decided, if_open: Outcome) -> Outcome:
    if decided is OPEN:
        return if_open
    return DELIVERED if decided == TAKEN else Bad(decided)
