"""Limits counted in this process, while Valkey does not answer.

Each process admits its part of every limit: the limit divided by how many processes share it, and
at least one request. So together they admit about the limit, if the load is spread evenly and the
number is right; what was counted in Valkey before is not known here, and the other way round. What
is counted here stays until it ends by itself, though Valkey answers in between: a server that comes
and goes would otherwise give everybody a fresh limit each time. The memory is bounded: the identity
that came first makes room.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from sark.ratelimit.algorithms import State, charge, ends_at, figure_of, wait_for
from sark.ratelimit.limit import Limit
from sark.ratelimit.plan import ChargePlan
from sark.ratelimit.rules import Applied, Selection

__all__ = ["LocalLimits"]

MAX_STATES = 100_000
SWEPT_AT_ONCE = 2


def monotonic_us() -> int:
    """Tell this process's time in microseconds."""
    return time.monotonic_ns() // 1000


class LocalLimits:
    """Charges as the script does, in memory.

    Args:
        processes: How many share each limit.
        most: Most states that are kept.
        clock: Tells microseconds.
    """

    def __init__(
        self, processes: int, *, most: int = MAX_STATES, clock: Callable[[], int] = monotonic_us
    ) -> None:
        self._processes = processes
        self._most = most
        self._clock = clock
        self._parts: dict[Applied, Applied] = {}
        # By key, the oldest first; with the moment after which it is of no use.
        self._states: dict[str, tuple[State, int]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def charge(self, plan: ChargePlan) -> tuple[ChargePlan, list[int]]:
        """Charge a plan, all or nothing.

        Returns:
            The plan with this process's part of each limit, and a reply as the script's.
        """
        now = self._clock()
        whole = plan.selection
        parts = [self._part(each) for each in whole.applied]
        # A process's part may be less than what one request costs; it then takes all of it.
        selection = Selection(list(zip(whole.owners, parts, strict=True)), whole.costs)
        charged = list(zip(selection.applied, selection.costs, strict=True))
        before = [self._state(key) for key in plan.keys]
        verdict = 1
        passed = []
        for number, (each, cost) in enumerate(charged):
            figure = figure_of(each.limit, before[number], now)
            passed.append(not wait_for(each.limit, figure, cost))
            if not passed[number]:
                verdict = 0 if not each.shadow else verdict + (2 << number) * (verdict > 0)
        after = list(before)
        if verdict:
            for number, (each, cost) in enumerate(charged):
                if passed[number]:
                    after[number] = charge(each.limit, before[number], now, cost)
                    self._keep(plan.keys[number], each.limit, after[number], now)
        reply = [verdict, now]
        for each, state in zip(parts, after, strict=True):
            reply += figure_of(each.limit, state, now)
        return ChargePlan(plan.names, plan.keys, selection), reply

    def forget(self, keys: Iterable[str]) -> None:
        """Drop what was counted under some keys."""
        for key in keys:
            self._states.pop(key, None)

    def _part(self, each: Applied) -> Applied:
        part = self._parts.get(each)
        if part is None:
            if len(self._parts) >= self._most:
                self._parts.clear()
            part = replace(each, limit=divided(each.limit, self._processes))
            self._parts[each] = part
        return part

    def _state(self, key: str) -> State | None:
        kept = self._states.get(key)
        return kept[0] if kept else None

    def _keep(self, key: str, limit: Limit, state: State | None, now: int) -> None:
        if state is None:
            return
        states = self._states
        if key not in states:
            for _ in range(SWEPT_AT_ONCE):
                oldest = next(iter(states), None)
                if oldest is None or (states[oldest][1] > now and len(states) < self._most):
                    break
                del states[oldest]
        states[key] = state, ends_at(limit, state)


def divided(limit: Limit, processes: int) -> Limit:
    """Divide a limit among processes: rounded down, but at least one request each."""
    if processes == 1:
        return limit
    burst = None if limit.burst is None else max(1, limit.burst // processes)
    return replace(limit, requests=max(1, limit.requests // processes), burst=burst)
