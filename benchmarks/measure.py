"""Taking times and reducing them: samples, percentiles, rounds, ratios.

A machine that is shared with others is fast in one second and slow in the next, so two cases that
are measured one after the other are not comparable. All cases are therefore measured in many short
rounds, each case once per round and in another order each time; a ratio is taken within a round,
where both sides had the same weather, and the median over the rounds is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, TypeVar

__all__ = [
    "BenchmarkError",
    "Operation",
    "Sample",
    "in_order",
    "no_collection",
    "on_one_core",
    "one_after_the_other",
    "percentile",
    "ratios",
    "several_at_once",
]

T = TypeVar("T")

Operation = Callable[[int], Awaitable[Any]]
"""What is timed: takes the number of the call."""

NS_PER_SECOND = 1_000_000_000


class BenchmarkError(Exception):
    """Something did not do what was to be measured, so its time means nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One case in one round.

    Attributes:
        latencies: Nanoseconds of each call.
        elapsed: Nanoseconds of all calls together.
    """

    latencies: Sequence[int]
    elapsed: int

    def latency(self, share: float) -> float:
        """Tell a percentile of the latencies, in microseconds."""
        return percentile(self.latencies, share) / 1000

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return len(self.latencies) * NS_PER_SECOND / self.elapsed


def percentile(values: Iterable[float], share: float) -> float:
    """Find the value below which a share of the values lies, interpolating between neighbours.

    Args:
        values: At least one.
        share: Between 0 and 1.
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def ratios(
    ours: Sequence[Sample], theirs: Sequence[Sample], read: Callable[[Sample], float]
) -> list[float]:
    """Divide a figure of one case by that of another, round by round.

    Raises:
        ValueError: The cases have different numbers of rounds.
    """
    return [read(a) / read(b) for a, b in zip(ours, theirs, strict=True)]


def in_order(cases: Sequence[T], number: int) -> list[T]:
    """Order the cases for a round: another one begins each time, and every second round goes back.

    So no case always runs in the wake of the same other one.
    """
    start = number // 2 % len(cases)
    rotated = [*cases[start:], *cases[:start]]
    return rotated[::-1] if number % 2 else rotated


async def one_after_the_other(
    operation: Operation, count: int, *, first: int, accept: Callable[[Any], bool]
) -> Sample:
    """Time calls of a single caller.

    Args:
        operation: What to call.
        count: How often.
        first: Number of the first call.
        accept: Tells whether a result is what was to be measured; not timed.

    Raises:
        BenchmarkError: A result was refused.
    """
    latencies = array("q", bytes(8 * count))
    for i in range(count):
        started = perf_counter_ns()
        result = await operation(first + i)
        latencies[i] = perf_counter_ns() - started
        if not accept(result):
            raise BenchmarkError(f"unexpected result: {result!r}")
    return Sample(latencies, sum(latencies))


async def several_at_once(
    operation: Operation,
    count: int,
    *,
    callers: int,
    first: int,
    accept: Callable[[Any], bool],
) -> Sample:
    """Time calls of several callers, each of whom calls again as soon as it has its result.

    Raises:
        BenchmarkError: A result was refused.
    """
    latencies = array("q", bytes(8 * count))
    numbers = iter(range(count))

    async def caller() -> None:
        for i in numbers:
            began = perf_counter_ns()
            result = await operation(first + i)
            latencies[i] = perf_counter_ns() - began
            if not accept(result):
                raise BenchmarkError(f"unexpected result: {result!r}")

    started = perf_counter_ns()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return Sample(latencies, perf_counter_ns() - started)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage before, and none during."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def on_one_core(server: int | None, *others: int) -> Iterator[bool]:
    """Keep this process and the server on the same core, and others that take turns with it.

    A lone caller and its server never work at the same time. On two cores each call wakes the
    other core twice, which costs more than either side's work and hides what is to be measured.

    Args:
        server: Process id of the server; None leaves everything where it is.
        others: Process ids of other callers.

    Yields:
        Whether they are kept there; not every system can.
    """
    if server is None or not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = {pid: os.sched_getaffinity(pid) for pid in (0, server, *others)}
    core = {max(before[0])}
    try:
        for pid in before:
            os.sched_setaffinity(pid, core)
        yield True
    finally:
        for pid, cores in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(pid, cores)
