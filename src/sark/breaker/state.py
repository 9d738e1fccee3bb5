"""What is known of a breaker, and how it shows itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["BreakerState", "Forced", "StateName", "View"]

StateName = Literal["closed", "open", "half_open"]
Forced = Literal["", "open", "closed"]


@dataclass(slots=True)
class BreakerState:
    """All that is known of one breaker.

    Attributes:
        since: When it entered its state.
        state: Its state, also while that is forced.
        period: Number of the current period.
        failures: Consecutive failures.
        open_until: When the first probe may run.
        openings: How often it opened since it was last closed.
        opened: How often it opened in all.
        reason: Why it opened last.
        forced: The state in which an operator holds it.
        forced_until: When that ends by itself; 0: never.
        token: The last one given.
        successes: Successful probes of this period.
        probes: Token and end of the lease of each probe under way.
        window: Calls, failures and slow calls by the number of their bucket.
        last_failure: When a call failed last; 0: none did.
        closed_us: Time it spent closed, before ``since``.
        open_us: Likewise open.
        half_open_us: Likewise half-open.
    """

    since: int
    state: StateName = "closed"
    period: int = 0
    failures: int = 0
    open_until: int = 0
    openings: int = 0
    opened: int = 0
    reason: str = ""
    forced: Forced = ""
    forced_until: int = 0
    token: int = 0
    successes: int = 0
    probes: dict[int, int] = field(default_factory=dict)
    window: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    last_failure: int = 0
    closed_us: int = 0
    open_us: int = 0
    half_open_us: int = 0


class View(NamedTuple):
    """A breaker as it shows itself at one moment; durations are in microseconds.

    Attributes:
        state: Its state.
        forced: The state in which an operator holds it.
        period: Number of the current period.
        failures: Consecutive failures.
        retry: Until a call may be admitted; 0: now.
        age: Since it entered its state.
        probes: Probes under way.
        successes: Successful probes of this period.
        opened: How often it opened in all.
        reason: Why it opened last.
        last_failure: When a call failed last, since the epoch; 0: none did.
        closed: Time it spent closed.
        open: Likewise open.
        half_open: Likewise half-open.
    """

    state: StateName
    forced: Forced
    period: int
    failures: int
    retry: int
    age: int
    probes: int
    successes: int
    opened: int
    reason: str
    last_failure: int
    closed: int
    open: int
    half_open: int
