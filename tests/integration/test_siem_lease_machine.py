"""Any interleaving of what happens to two sinks' events: no step loses, doubles or reorders one."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sark.errors import DeadLettersFullError, LeaseHeldError, LeaseLostError, QueueFullError
from sark.siem import EventQueue, QueueBounds
from sark.siem.leases import DELIVERED, KEEP, RETURN, Bad, Lease, Outcome, SinkQueue
from tests.support.gateways import later, open_store
from tests.support.leases import (
    BOTH,
    contents,
    event_of,
    frozen_lease_clock,
    key_of,
    open_sink,
)
from tests.support.servers import ValkeyServer

BOUNDS = QueueBounds(events=10, bytes=2500)
LEASE_SECONDS = 30
MOST_EXPIRIES = 4
ALONE_AFTER = 2

SINKS = st.sampled_from(BOTH)
WORKERS = st.sampled_from(["a", "b:1"])
SIZES = st.lists(st.integers(0, 700), min_size=1, max_size=6)
OUTCOMES = st.sampled_from(["delivered", "keep", "return", "bad"])


@dataclass
class Model:
    """Where one sink's events are."""

    queue: list[bytes] = field(default_factory=list)
    failed: list[bytes] = field(default_factory=list)
    held: dict[str, Lease] = field(default_factory=dict)
    expires: dict[str, float] = field(default_factory=dict)
    renewed: set[str] = field(default_factory=set)
    outlived: Counter[bytes] = field(default_factory=Counter)
    booked: Counter[str] = field(default_factory=Counter)

    def book(self, line: str, events: list[bytes]) -> None:
        self.booked[line] += len(events)
        self.booked[f"{line}_bytes"] += sum(map(len, events))

    def put(self, events: list[bytes], line: str) -> int:
        """Append what fits; returns how many do."""
        held = [event for lease in self.held.values() for event in lease.events]
        taken = 0
        for event in events:
            there = [*self.queue, *held]
            size = sum(map(len, there)) + len(event)
            if len(there) >= BOUNDS.events or size > BOUNDS.bytes:
                break
            self.queue.append(event)
            taken += 1
        self.book(line, events[:taken])
        return taken

    def bury(self, events: list[bytes]) -> list[bytes]:
        """Make dead letters while there is room; returns the events without."""
        for number, event in enumerate(events):
            size = sum(map(len, self.failed))
            if len(self.failed) >= BOUNDS.events or size >= BOUNDS.bytes:
                return events[number:]
            self.failed.append(event)
            del self.outlived[event]
        return []

    def end(self, worker: str) -> None:
        del self.held[worker], self.expires[worker]
        self.renewed.discard(worker)


class Leasing(RuleBasedStateMachine):
    """Two sinks on a real server, under a frozen clock, and what should be where."""

    server: ClassVar[ValkeyServer]

    def __init__(self) -> None:
        super().__init__()
        with self.server.client() as client:
            client.flushall()
        self.patches = ExitStack()
        self.clock = self.patches.enter_context(frozen_lease_clock(self.server))
        self.loop = asyncio.Runner()
        self.stack = AsyncExitStack()
        opening = open_store(self.server.url)
        self.store = self.loop.run(self.stack.enter_async_context(opening))
        self.queue = EventQueue(self.store, BOTH, BOUNDS, flush_timeout=30)
        self.sinks: dict[str, SinkQueue] = {
            sink: open_sink(
                self.store, sink, BOUNDS, lease=LEASE_SECONDS, most_expiries=MOST_EXPIRIES
            )
            for sink in BOTH
        }
        self.models = {sink: Model() for sink in BOTH}
        self.ended: list[Lease] = []

    def lease_of(self, sink: str, worker: str) -> Lease | None:
        return self.models[sink].held.get(worker)

    @rule(sizes=SIZES)
    def append(self, sizes: list[int]) -> None:
        events = [event_of(size) for size in sizes]

        async def append() -> list[BaseException | None]:
            return await asyncio.gather(
                *(self.queue.append_encoded(event, deadline=later()) for event in events),
                return_exceptions=True,
            )

        outcomes = self.loop.run(append())
        everywhere = min(model.put(events, "accepted") for model in self.models.values())
        assert outcomes[:everywhere] == [None] * everywhere
        assert all(type(outcome) is QueueFullError for outcome in outcomes[everywhere:])

    @rule(sink=SINKS, sizes=SIZES, copies=st.booleans())
    def put_back(self, sink: str, sizes: list[int], copies: bool) -> None:
        events = [event_of(size) for size in sizes]
        taken = self.loop.run(self.queue.put_back(sink, events, copies=copies))
        assert taken == self.models[sink].put(events, "duplicates" if copies else "accepted")

    @rule(sink=SINKS, worker=WORKERS, events=st.integers(1, 6), size=st.integers(1, 2000))
    def lease(self, sink: str, worker: str, events: int, size: int) -> None:
        model = self.models[sink]
        leasing = self.sinks[sink].lease(worker, events=events, size=size)
        if worker in model.held:
            with pytest.raises(LeaseHeldError):
                self.loop.run(leasing)
            return
        if len(model.failed) >= BOUNDS.events or sum(map(len, model.failed)) >= BOUNDS.bytes:
            with pytest.raises(DeadLettersFullError):
                self.loop.run(leasing)
            return
        lease = self.loop.run(leasing)
        if lease is None:
            assert model.queue == []
            return
        count = len(lease.events)
        assert list(lease.events) == model.queue[:count]
        assert 1 <= count <= events
        assert count == 1 or lease.bytes <= size
        assert lease.bytes == sum(map(len, lease.events))
        alone = [model.outlived[event] >= ALONE_AFTER for event in lease.events]
        assert count == 1 or not any(alone)
        assert all(lease.token > other.token for other in [*model.held.values(), *self.of(sink)])
        del model.queue[:count]
        model.held[worker] = lease
        model.expires[worker] = self.clock.now() + LEASE_SECONDS

    def of(self, sink: str) -> list[Lease]:
        return [lease for lease in self.ended if lease.sink == sink]

    @rule(sink=SINKS, worker=WORKERS)
    def resume(self, sink: str, worker: str) -> None:
        known = self.lease_of(sink, worker)
        lease = self.loop.run(self.sinks[sink].resume(worker))
        if known is None or lease is None:
            assert lease is known
            return
        assert lease.events == known.events
        assert lease.token > known.token
        self.ended.append(known)
        self.models[sink].held[worker] = lease
        self.models[sink].expires[worker] = self.clock.now() + LEASE_SECONDS

    @rule(sink=SINKS, worker=WORKERS)
    def renew(self, sink: str, worker: str) -> None:
        if (lease := self.lease_of(sink, worker)) is not None:
            self.loop.run(self.sinks[sink].renew(lease))
            self.models[sink].expires[worker] = self.clock.now() + LEASE_SECONDS
            self.models[sink].renewed.add(worker)

    @rule(sink=SINKS, worker=WORKERS)
    def acknowledge(self, sink: str, worker: str) -> None:
        if (lease := self.lease_of(sink, worker)) is not None:
            self.loop.run(self.sinks[sink].acknowledge(lease))
            self.finish(lease)
            self.models[sink].book("delivered", list(lease.events))

    def finish(self, lease: Lease) -> None:
        model = self.models[lease.sink]
        model.end(lease.worker)
        self.ended.append(lease)

    @rule(sink=SINKS, worker=WORKERS, data=st.data())
    def settle(self, sink: str, worker: str, data: Any) -> None:
        if (lease := self.lease_of(sink, worker)) is None:
            return
        count = len(lease.events)
        names = data.draw(st.lists(OUTCOMES, min_size=count, max_size=count))
        values: dict[str, Outcome] = {
            "delivered": DELIVERED,
            "keep": KEEP,
            "return": RETURN,
            "bad": Bad('no, "event":'),
        }
        left = self.loop.run(self.sinks[sink].settle(lease, [values[name] for name in names]))
        model = self.models[sink]

        def of(name: str) -> list[bytes]:
            return [e for e, each in zip(lease.events, names, strict=True) if each == name]

        without_room = model.bury(of("bad"))
        back = [e for e in lease.events if e in of("return") or e in without_room]
        model.queue[:0] = back
        model.book("delivered", of("delivered"))
        if kept := of("keep"):
            assert left is not None
            assert (list(left.events), left.token) == (kept, lease.token)
            model.held[worker] = left
        else:
            assert left is None
            self.finish(lease)

    @rule(sink=SINKS, worker=WORKERS)
    def give_back(self, sink: str, worker: str) -> None:
        if (lease := self.lease_of(sink, worker)) is not None:
            self.loop.run(self.sinks[sink].give_back(lease))
            self.finish(lease)
            self.models[sink].queue[:0] = lease.events

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), how=st.sampled_from(["renew", "acknowledge", "give_back", "settle"]))
    def use_a_stale_lease(self, data: Any, how: str) -> None:
        """The invariant tells that this changes nothing."""
        lease = data.draw(st.sampled_from(self.ended))
        sink = self.sinks[lease.sink]
        outcomes = [[Bad("late")] * len(lease.events)] if how == "settle" else []
        with pytest.raises(LeaseLostError):
            self.loop.run(getattr(sink, how)(lease, *outcomes))

    @rule(seconds=st.sampled_from([1, 15, 30, 31]))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(sink=SINKS)
    def reap(self, sink: str) -> None:
        model = self.models[sink]
        gone = [worker for worker, when in model.expires.items() if when <= self.clock.now()]
        gone.sort(key=lambda worker: model.held[worker].token, reverse=True)
        touched = 0
        for worker in gone:
            lease = model.held[worker]
            touched += len(lease.events)
            counted = () if worker in model.renewed else lease.events
            model.outlived.update(counted)
            dead = [e for e in counted if model.outlived[e] >= MOST_EXPIRIES]
            without_room = model.bury(dead)
            model.queue[:0] = [e for e in lease.events if e not in dead or e in without_room]
            self.finish(lease)
        assert self.loop.run(self.sinks[sink].reap()) == touched

    @rule(sink=SINKS, count=st.integers(1, 4))
    def replay(self, sink: str, count: int) -> None:
        model = self.models[sink]
        moved = self.loop.run(self.sinks[sink].replay(count))
        fit = model.put(model.failed[:count], "replayed")
        assert moved == fit
        del model.failed[:fit]

    @rule(sink=SINKS, count=st.integers(1, 4), queue=st.booleans())
    def purge(self, sink: str, count: int, queue: bool) -> None:
        model = self.models[sink]
        listed = model.queue if queue else model.failed
        purged = self.loop.run(self.sinks[sink].purge("queue" if queue else "failed", count))
        assert purged == len(listed[:count])
        model.book("purged", listed[:count])
        del listed[:count]

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        for sink, model in self.models.items():
            assert contents(self.server, sink) == model.queue
            with self.server.client() as client:
                workers = {worker.decode() for worker in client.hkeys(key_of("leases", sink))}
                lists = sorted(client.scan_iter(key_of("inflight", sink) + ":*"))
            assert workers == set(model.held)
            if sink == "main":
                lists = [key for key in lists if not key.startswith(b"siem:inflight:audit:")]
            assert len(lists) == len(model.held)
            failed = self.loop.run(self.sinks[sink].failed(100))
            assert [entry.partition(b',"event":')[2][:-1] for entry in failed] == model.failed

    @invariant()
    def the_account_closes(self) -> None:
        for sink, model in self.models.items():
            status = self.loop.run(self.sinks[sink].status())
            assert status.balanced
            in_flight = [event for lease in model.held.values() for event in lease.events]
            places = {
                "queued": model.queue,
                "failed": model.failed,
                "in_flight": in_flight,
            }
            for name, events in places.items():
                booked = getattr(status, name)
                assert (booked.events, booked.bytes) == (len(events), sum(map(len, events)))
            for name in ("accepted", "duplicates", "delivered", "purged"):
                booked = getattr(status, name)
                expected = model.booked[name], model.booked[f"{name}_bytes"]
                assert (booked.events, booked.bytes) == expected
            assert status.queued.events + status.in_flight.events <= BOUNDS.events
            assert status.leases == len(model.held)

    def teardown(self) -> None:
        async def end() -> None:
            await self.queue.close()
            await self.stack.aclose()

        try:
            self.loop.run(end())
        finally:
            self.loop.close()
            self.patches.close()


def test_no_interleaving_loses_or_reorders_an_event(server: ValkeyServer) -> None:
    Leasing.server = server
    run_state_machine_as_test(
        Leasing,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
