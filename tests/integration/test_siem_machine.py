"""Any interleaving of appends, refusals, closings and purges: the account agrees at every step."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sark.errors import QueueFullError
from sark.siem import EventQueue, QueueBounds, Refusals
from tests.support.gateways import (
    SINKS,
    account,
    assert_account_is_exact,
    audit_event,
    later,
    open_store,
    queued,
)
from tests.support.servers import ValkeyServer

NAMES = st.sampled_from(["alice", "bob", 'c"\\'])
BOUNDS = QueueBounds(events=12, bytes=6000)


class Accounting(RuleBasedStateMachine):
    """The queue, its refusals and a model that knows what was acknowledged."""

    server: ClassVar[ValkeyServer]

    def __init__(self) -> None:
        super().__init__()
        with self.server.client() as client:
            client.flushall()
        self.loop = asyncio.Runner()
        self.stack = AsyncExitStack()
        opening = open_store(self.server.url)
        self.store = self.loop.run(self.stack.enter_async_context(opening))
        self.queue = EventQueue(self.store, SINKS, BOUNDS, flush_timeout=30)
        self.refusals = Refusals(self.store, SINKS, BOUNDS)
        self.appended: list[str] = []
        self.refused: Counter[str] = Counter()
        self.gone: list[dict[str, Any]] = []

    @rule(sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=8))
    def append(self, sizes: list[int]) -> None:
        events = [audit_event(reason="x" * size) for size in sizes]

        async def append() -> list[BaseException | None]:
            return await asyncio.gather(
                *(self.queue.append(event, deadline=later()) for event in events),
                return_exceptions=True,
            )

        for event, outcome in zip(events, self.loop.run(append()), strict=True):
            if outcome is None:
                self.appended.append(event.id)
            else:
                assert isinstance(outcome, QueueFullError)

    @rule(name=NAMES, times=st.integers(1, 4), ended=st.booleans())
    def refuse(self, name: str, times: int, ended: bool) -> None:
        async def refuse() -> None:
            event = audit_event(type="refusal", allow=False)
            for _ in range(times):
                await self.refusals.record(
                    name,
                    event,
                    identity=name,
                    seconds_left=0 if ended else 1000,
                    deadline=later(),
                )
                self.refused[name] += 1

        with suppress(QueueFullError):
            self.loop.run(refuse())

    @rule()
    def close_due(self) -> None:
        self.loop.run(self.refusals.close_due())

    @rule()
    def purge(self) -> None:
        self.gone += queued(self.server)
        self.loop.run(self.queue.purge())

    @rule()
    def restart(self) -> None:
        """Close the queue; its successor goes on with what is there."""
        self.loop.run(self.queue.close())
        self.queue = EventQueue(self.store, SINKS, BOUNDS, flush_timeout=30)

    @invariant()
    def the_account_is_exact(self) -> None:
        assert_account_is_exact(self.server)
        status = self.loop.run(self.queue.status())
        assert status.queued <= BOUNDS.events
        assert status.queued_bytes <= BOUNDS.bytes
        booked = account(self.server)
        assert status.accepted == booked.get("accepted", 0)
        assert status.purged == booked.get("purged", 0) == len(self.gone)

    @invariant()
    def nothing_that_was_acknowledged_is_lost(self) -> None:
        events = self.gone + queued(self.server)
        assert [event["id"] for event in events if event["type"] == "decision"] == self.appended
        with self.server.client() as client:
            pending: dict[bytes, bytes] = client.hgetall("siem:refusals:count")
        told = sum(event["type"] == "refusal" for event in events)
        told += sum(event["count"] for event in events if event["type"] == "refusals")
        told += sum(int(times) - 1 for times in pending.values())
        assert told == self.refused.total()

    def teardown(self) -> None:
        async def end() -> None:
            await self.queue.close()
            await self.stack.aclose()

        try:
            self.loop.run(end())
        finally:
            self.loop.close()


def test_no_interleaving_breaks_the_account(server: ValkeyServer) -> None:
    Accounting.server = server
    run_state_machine_as_test(
        Accounting,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
