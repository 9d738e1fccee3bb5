"""Audit events: appends by group commit next to one RPUSH each, and what leaves the queue."""

from __future__ import annotations

import contextlib
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import cast

from valkey.asyncio import Valkey

from benchmarks.driver import open_drivers
from benchmarks.measure import (
    Sample,
    in_order,
    no_collection,
    on_one_core,
    one_after_the_other,
    percentile,
    ratios,
    several_at_once,
)
from benchmarks.results import Result
from benchmarks.study import Advance, Study
from benchmarks.workload import POLICIES
from sark import Settings, open_runtime
from sark.siem import AuditEvent, EventQueue, QueueBounds, SinkQueue, new_event_id, now
from sark.siem.event import encode_event

__all__ = ["audit_study"]

APPEND = "append"
RPUSH, RPUSH_LEAN = "driver RPUSH", "driver RPUSH, lean"
CROWDS = (50, 500)
LEASE_EVENTS = 1000
PUSH_EVENTS = 100
LEASE_BYTES = 2**24
DEADLINE_SECONDS = 10.0
NO_BOUND = QueueBounds(10**9, 10**15)
PUSHED_KEY = "benchmark:rpush"
EVENTS = 1000

Call = Callable[[int], Awaitable[object]]
SHARES = {"p50": 0.5, "p95": 0.95}


def audit_study(rounds: int, calls: int) -> Study:
    """Time of an append, appends per second of many callers, and leases per second.

    What is appended is encoded before; every caller waits until its own event is accepted.

    Args:
        rounds: How often each case is measured, for each number of callers.
        calls: Calls of a lone caller in a round; many callers make ten times as many.
    """

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        settings = Settings(data_dir=directory, policy_dir=POLICIES)
        async with contextlib.AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(open_runtime(settings, ephemeral=True))
            assert runtime.embedded is not None  # noqa: S101 - no server was named
            drivers = await stack.enter_async_context(open_drivers(runtime.embedded.url))
            queue = EventQueue(runtime.store, ("main",), NO_BOUND, flush_timeout=DEADLINE_SECONDS)
            stack.push_async_callback(queue.close)
            events = [_event(number) for number in range(EVENTS)]
            cases: dict[str, Call] = {
                APPEND: _append(queue, events),
                RPUSH: _push(drivers.guide, events),
                RPUSH_LEAN: _push(drivers.lean, events),
            }

            async def between() -> None:
                await queue.purge()
                await drivers.lean.unlink(PUSHED_KEY)
                advance()

            rows: list[Result] = []
            with on_one_core(runtime.embedded.pid):
                samples = await _rounds(cases, rounds, calls, callers=1, between=between)
            rows += _rows(samples, "")
            for callers in CROWDS:
                samples = await _rounds(cases, rounds, calls * 10, callers=callers, between=between)
                rows += _rows(samples, f", {callers} callers")
            sink = SinkQueue(runtime.store, "main", NO_BOUND, lease=60, most_expiries=5)
            pushed, leased = [], []
            for _ in range(rounds):
                pushed.append(await _push_groups(queue, events, calls * 100))
                leased.append(await _lease_all(sink))
                advance()
        rate = "events_per_second"
        return [
            *rows,
            Result(f"push of {PUSH_EVENTS}", rate, round(median(pushed), 1), "1/s", None, None),
            Result(
                f"lease of {LEASE_EVENTS}, acknowledged",
                rate,
                round(median(leased), 1),
                "1/s",
                None,
                None,
            ),
        ]

    return Study("Audit queue", 4 * rounds, measure)


def _event(number: int) -> bytes:
    return encode_event(
        AuditEvent(
            id=new_event_id(),
            time=now(),
            type="decision",
            policy="authz",
            user_id=f"user-{number:04}",
            action="server:read",
            resource=f"server-{number:04}",
            context={},
            allow=True,
            reason="the user may read it",
        )
    )


def _append(queue: EventQueue, events: Sequence[bytes]) -> Call:
    loop = get_running_loop()
    return lambda i: queue.append_encoded(
        events[i % EVENTS], deadline=loop.time() + DEADLINE_SECONDS
    )


def _push(client: Valkey, events: Sequence[bytes]) -> Call:
    # The driver's types allow for its synchronous client.
    return lambda i: cast("Awaitable[object]", client.rpush(PUSHED_KEY, events[i % EVENTS]))


def _anything(_found: object) -> bool:
    return True


async def _rounds(
    cases: Mapping[str, Call],
    rounds: int,
    calls: int,
    *,
    callers: int,
    between: Callable[[], Awaitable[None]],
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for call in cases.values():
        await call(0)
    for number in range(rounds):
        for name in in_order(list(cases), number):
            call = cases[name]
            with no_collection():
                samples[name].append(
                    await one_after_the_other(call, calls, first=0, accept=_anything)
                    if callers == 1
                    else await several_at_once(
                        call, calls, callers=callers, first=0, accept=_anything
                    )
                )
        await between()
    return samples


def _rows(samples: Mapping[str, Sequence[Sample]], where: str) -> list[Result]:
    rows = []
    for name, ours in samples.items():
        baselines: tuple[str | None, ...] = (RPUSH, RPUSH_LEAN) if name == APPEND else (None,)
        for baseline in baselines:
            theirs = samples[baseline] if baseline else None
            compared = f"{baseline}{where}" if baseline else None
            for metric, share in SHARES.items():
                value = percentile((lat for each in ours for lat in each.latencies), share) / 1000
                ratio = _ratio(ours, theirs, _latency(share))
                rows.append(Result(name + where, metric, round(value, 2), "us", compared, ratio))
            if where:
                value = median(each.per_second for each in ours)
                ratio = _ratio(ours, theirs, lambda each: each.per_second)
                rows.append(
                    Result(
                        name + where, "requests_per_second", round(value, 1), "1/s", compared, ratio
                    )
                )
    return rows


def _latency(share: float) -> Callable[[Sample], float]:
    return lambda sample: sample.latency(share)


def _ratio(
    ours: Sequence[Sample], theirs: Sequence[Sample] | None, read: Callable[[Sample], float]
) -> float | None:
    return None if theirs is None else round(median(ratios(ours, theirs, read)), 3)


async def _push_groups(queue: EventQueue, events: Sequence[bytes], count: int) -> float:
    """Push events in groups, one after the other; returns events per second."""
    groups = [events[start : start + PUSH_EVENTS] for start in range(0, EVENTS, PUSH_EVENTS)]
    with no_collection():
        started = perf_counter_ns()
        for number in range(count // PUSH_EVENTS):
            await queue.put_back("main", groups[number % len(groups)], copies=False)
        return count * 1e9 / (perf_counter_ns() - started)


async def _lease_all(sink: SinkQueue) -> float:
    """Lease and acknowledge all that is queued; returns events per second."""
    count = 0
    with no_collection():
        started = perf_counter_ns()
        while lease := await sink.lease("benchmark", events=LEASE_EVENTS, size=LEASE_BYTES):
            count += len(lease.events)
            await sink.acknowledge(lease)
        return count * 1e9 / (perf_counter_ns() - started)
