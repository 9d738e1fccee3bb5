"""The forwarder: leases events of one sink, sends them, and settles what came of it.

Batches are taken from the queue in order. While one is sent, the next is already leased, decoded
and written in the sink's format; it goes out when the one before has been answered, and the queue
is told of that one meanwhile. With a concurrency of 1 events so arrive in the order of the queue.

A receiver that is down or slow changes nothing but time: the batches that it does not take wait,
their leases renewed, or go back to the queue when the wait is longer than a lease. Nothing becomes
a dead letter but what it refuses for good. Where nothing can be done until somebody mends
something, the forwarder pauses, and looks again from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from sark.errors import DeadLettersFullError, LeaseLostError, StoreError
from sark.events import Hub, SinkPaused
from sark.siem.forwarder.backoff import Backoff
from sark.siem.forwarder.delivery import Again, Delivery, Stop
from sark.siem.forwarder.encoding import Encoder, encode_events
from sark.siem.forwarder.halt import Halt
from sark.siem.forwarder.holdings import STORE_RETRY_CAP_SECONDS, Batch, Holdings
from sark.siem.forwarder.plan import Batching, ForwarderState, Guard, PauseKind
from sark.siem.forwarder.sender import Sender
from sark.siem.lasting import lasting
from sark.siem.leases import SinkQueue
from sark.siem.sinks.base import Sink
from sark.siem.sinks.verdict import Delivered

__all__ = ["Forwarder"]

LOOK_AGAIN_SECONDS: dict[PauseKind, float] = {"unauthorized": 60.0, "dead_letters_full": 5.0}
FAULT_SECONDS = 5.0
REAPS_PER_LEASE = 3

_log = logging.getLogger("sark.siem")


class Forwarder:
    """Forwards the events of one sink.

    Args:
        name: Name of the sink.
        queue: Its events.
        sink: Where they go, already open.
        encode: Writes an event in the sink's format.
        guard: Its circuit breaker.
        hub: Hears what happens.
        batching: How events are put together and sent.
    """

    def __init__(
        self,
        name: str,
        queue: SinkQueue,
        *,
        sink: Sink,
        encode: Encoder,
        guard: Guard,
        hub: Hub,
        batching: Batching,
    ) -> None:
        self.name = name
        self._queue = queue
        self._limits = sink.limits
        self._encode = encode
        self._hub = hub
        self._batching = batching
        self._halt = Halt()
        self._sender = Sender(name, sink, guard, hub=hub, halt=self._halt, batching=batching)
        self._holdings = Holdings(
            queue,
            # One more than are sent is prepared.
            slots=batching.concurrency + 1,
            events=min(batching.events, sink.limits.events),
            size=batching.bytes,
            seconds=batching.lease,
        )
        self._under_way = 0
        self._changed = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._paused: dict[PauseKind, str] = {}

    @property
    def state(self) -> ForwarderState:
        """What it does at the moment."""
        return ForwarderState(
            sink=self.name,
            worker=self._holdings.name,
            leases=len(self._holdings),
            paused=dict(self._paused),
            failing=self._sender.failing,
            retry_in=self._sender.retry_in,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Forward beside the block; at its end, finish or give back what is under way."""
        task = asyncio.create_task(self.run(), name=f"sark-forwarder-{self.name}")
        try:
            yield
        finally:
            self.stop()
            await task

    def stop(self) -> None:
        """Let ``run`` end: what is being sent is finished, the rest goes back to the queue."""
        self._halt.stop()
        self._changed.set()

    def retry(self) -> None:
        """End whatever wait it is in: somebody has mended the cause, or the breaker closed."""
        self._sender.retry()
        self._halt.wake()

    async def run(self) -> None:
        """Forward until ``stop``."""
        beside = [
            asyncio.create_task(lasting(work, f"{what} of leases of {self.name}"))
            for what, work in (
                ("the renewal", self._holdings.renew_forever),
                ("the reaping", self._reap_forever),
            )
        ]
        try:
            while not self._halt.for_good:
                await self._forward_until_halted()
                await self._halt.over()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _forward_until_halted(self) -> None:
        """Forward until a halt; then finish what is being sent, and give back the rest."""
        try:
            await self._feed()
        except Exception:  # noqa: BLE001 - a fault of ours must not end the forwarding for good
            _log.exception("forwarding to %s failed", self.name)
            self._halt.set(FAULT_SECONDS)
        finally:
            await self._finish()
            await self._holdings.give_back()

    async def _finish(self) -> None:
        if not self._deliveries:
            return
        _, late = await asyncio.wait(self._deliveries, timeout=self._batching.stop)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _feed(self) -> None:
        """Prepare one batch after the other, and deliver each when its turn comes."""
        while (batch := await self._lease()) is not None:
            await self._prepare(batch)
            await self._wait_for_turn()
            if self._halt.is_set:
                return
            self._under_way += 1
            task = asyncio.create_task(self._deliver(batch))
            self._deliveries.add(task)
            task.add_done_callback(self._end_delivery)
            if not self._holdings.is_ample(batch):
                await self._halt.rest(self._batching.age)

    async def _lease(self) -> Batch | None:
        """Lease the next batch as soon as there is one; None when a halt comes first."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(cap=STORE_RETRY_CAP_SECONDS)
        while not self._halt.is_set:
            if not self._holdings.has_room:
                await self._change()
                continue
            try:
                batch = await self._holdings.take()
            except DeadLettersFullError as error:
                self._pause("dead_letters_full", str(error))
            except StoreError:
                # The store reports it; what is queued stays there.
                await self._halt.rest(backoff.failed(sent=loop.time(), now=loop.time()))
            else:
                self._unpause("dead_letters_full")
                if batch is not None:
                    return batch
                await self._halt.rest(self._batching.age)
        return None

    async def _prepare(self, batch: Batch) -> None:
        """Write a batch's events in the sink's format."""
        encoded = await encode_events(batch.lease.events, self._encode)
        batch.entries = [None if isinstance(each, str) else each for each in encoded]
        batch.delivery = Delivery(
            [0 if isinstance(each, str) else len(each.body) for each in encoded],
            self._limits,
            {n: reason for n, reason in enumerate(encoded) if isinstance(reason, str)},
        )

    async def _wait_for_turn(self) -> None:
        while self._under_way >= self._sender.pace.batches and not self._halt.is_set:
            await self._change()
        await self._halt.rest(self._sender.pace.gap)

    async def _change(self) -> None:
        """Wait until a batch has been sent or settled, or for a halt."""
        self._changed.clear()
        await self._changed.wait()

    def _end_turn(self) -> None:
        self._under_way -= 1
        self._changed.set()

    def _end_delivery(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        self._changed.set()
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("forwarding to %s failed", self.name, exc_info=fault)
            self._set_halt(FAULT_SECONDS)

    async def _deliver(self, batch: Batch) -> None:
        """Send a batch, part by part, until each of its events is decided, or a halt."""
        delivery = batch.delivery
        assert delivery is not None  # noqa: S101 - it was prepared
        with contextlib.suppress(LeaseLostError):
            try:
                await self._send_parts(batch, delivery)
            finally:
                # The next batch goes out while the queue is told of this one.
                self._end_turn()
            if delivery.part is None and not batch.lost:
                await self._holdings.settle(batch)

    async def _send_parts(self, batch: Batch, delivery: Delivery) -> None:
        while (part := delivery.part) is not None and not batch.lost:
            if not await self._send_part(batch, delivery, part):
                return
            # What is decided is settled at once, so that it is not sent again should we be killed.
            if delivery.part is not None and any(o is not None for o in delivery.unsettled()):
                await self._holdings.settle(batch)

    async def _send_part(self, batch: Batch, delivery: Delivery, part: Sequence[int]) -> bool:
        """Send a part once, when it may be; false when a halt comes first or follows."""
        permit = await self._sender.permit()
        if permit is None:
            return False
        try:
            await self._holdings.make_sure(batch)
        except BaseException:
            permit.neutral()
            raise
        if batch.lost:
            permit.neutral()
            return False
        entries = [entry for n in part if (entry := batch.entries[n]) is not None]
        sent = asyncio.get_running_loop().time()
        verdict = await self._sender.send(entries, permit)
        step = delivery.answer(verdict)
        if isinstance(step, Stop):
            self._pause("unauthorized", step.reason)
            return False
        if taken := delivery.taken(part):
            self._unpause("unauthorized")
            self._sender.took(
                len(taken),
                sum(batch.sizes[n] for n in taken),
                sent=sent,
                slow_down=isinstance(verdict, Delivered) and verdict.slow_down,
            )
        if isinstance(step, Again):
            self._sender.hold_off(step.kind, step.reason, sent=sent, after=step.after)
        return True

    def _pause(self, kind: PauseKind, reason: str) -> None:
        if kind not in self._paused:
            self._paused[kind] = reason
            self._hub.emit(SinkPaused(self.name, paused=True, kind=kind, reason=reason))
        self._set_halt(LOOK_AGAIN_SECONDS[kind])

    def _unpause(self, kind: PauseKind) -> None:
        if kind in self._paused:
            del self._paused[kind]
            self._hub.emit(SinkPaused(self.name, paused=False, kind=kind, reason=""))

    def _set_halt(self, seconds: float) -> None:
        self._halt.set(seconds)
        self._changed.set()

    async def _reap_forever(self) -> None:
        """Let events of lost workers return to the queue, until cancelled."""
        while True:
            await asyncio.sleep(self._batching.lease / REAPS_PER_LEASE)
            # The store reports it, and whoever looks next reaps as well.
            with contextlib.suppress(StoreError):
                await self._queue.reap()
