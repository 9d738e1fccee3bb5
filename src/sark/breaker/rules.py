"""The rules of a breaker: pure transitions on its state, with the time as an argument.

``rules.lua`` has the same functions line by line; they are the ones in force, on the server. These
here decide for one process while the server is away, and a property test drives both with the same
calls. Times are whole microseconds on one clock.

Closed, results are counted: a run of consecutive failures, or a rate over a window of a few
buckets, opens the breaker. Open, calls are refused until ``open_until``; the first one after that
makes it half-open. Half-open, a few calls run as probes, each with a lease and a token: enough
successes close it, one failure opens it again, for twice as long. A lease that has run out frees
its place, and whoever held it has no say any more.

A period is the time between two transitions. Results belong to the period their call was admitted
in, and tokens to their period's probes; what comes later changes nothing. Neither number ever
repeats, even if the server has lost its memory: each is at least the time in microseconds.
"""

from __future__ import annotations

from typing import Literal

from sark.breaker.config import BUCKETS, BreakerConfig, Outcome
from sark.breaker.state import BreakerState, StateName, View
from sark.breaker.tally import Tally

__all__ = [
    "PASSED",
    "REFUSED",
    "admit",
    "advance",
    "conclude",
    "force",
    "report",
    "reset",
    "view",
]

PASSED, REFUSED = 0, -1
"""What ``admit`` gives besides tokens."""

JITTER = 0.2
MOST_DOUBLINGS = 30


def advance(b: BreakerState, now: int) -> None:
    """Let time pass: end what has a time limit."""
    if b.forced and 0 < b.forced_until <= now:
        # What was held open may be probed now, what was held closed counts again.
        b.forced, b.forced_until = "", 0
        b.period = max(now, b.period + 1)
    b.probes = {token: until for token, until in b.probes.items() if until > now}


def report(
    b: BreakerState,
    c: BreakerConfig,
    now: int,
    *,
    period: int,
    tally: Tally,
    reason: str,
    jitter: float,
) -> None:
    """Count results of calls that were admitted while it was closed.

    Args:
        b: The state, which is changed.
        c: The rules.
        now: The time.
        period: In which the calls were admitted.
        tally: Their results.
        reason: Why the last of them failed.
        jitter: A random number from 0 to 1.
    """
    advance(b, now)
    if not tally.calls or b.forced or b.state != "closed" or period != b.period:
        return
    run = tally.longest_run(b.failures)
    b.failures = tally.trailing_run(b.failures)
    if tally.failures:
        b.last_failure = now
    calls, failures, slow = _count(b, c, now, tally)
    if 0 < c.failures <= run:
        b.failures = run
        _open(b, c, now, reason, jitter)
    elif calls >= c.minimum_calls and (
        0 < c.failure_rate <= failures / calls or 0 < c.slow_rate <= slow / calls
    ):
        _open(b, c, now, reason or "slow calls", jitter)


def admit(b: BreakerState, c: BreakerConfig, now: int) -> int:
    """Ask for a call to be admitted.

    Returns:
        The token of a probe; ``PASSED`` when it is closed, ``REFUSED`` when the call may not run.
    """
    advance(b, now)
    if b.state == "closed":
        return PASSED
    if b.forced or (b.state == "open" and now < b.open_until):
        return REFUSED
    if b.state == "open":
        _enter(b, "half_open", now)
    if not _has_room(b, c):
        return REFUSED
    b.token = max(now, b.token + 1)
    b.probes[b.token] = now + _us(c.probe_lease)
    return b.token


def conclude(
    b: BreakerState,
    c: BreakerConfig,
    now: int,
    *,
    token: int,
    outcome: Outcome,
    reason: str,
    jitter: float,
) -> None:
    """End a probe; a token that is not, or no longer, under way changes nothing.

    Args:
        b: The state, which is changed.
        c: The rules.
        now: The time.
        token: What ``admit`` gave.
        outcome: How the probe ended.
        reason: Why it failed.
        jitter: A random number from 0 to 1.
    """
    advance(b, now)
    if b.probes.pop(token, None) is None:
        return
    if outcome == "failed":
        b.failures += 1
        b.last_failure = now
        _open(b, c, now, reason, jitter)
    elif outcome == "succeeded":
        b.successes += 1
        if b.successes >= c.successes_to_close:
            b.openings = 0
            _enter(b, "closed", now)


def force(b: BreakerState, now: int, *, forced: Literal["open", "closed"], until: int) -> None:
    """Hold it open or closed, whatever happens, until a time or (0) for good."""
    b.openings = 0
    _enter(b, forced, now)
    b.forced, b.forced_until, b.open_until = forced, until, until


def reset(b: BreakerState, now: int) -> None:
    """Close it as if nothing had happened."""
    b.openings, b.reason, b.forced, b.forced_until, b.open_until = 0, "", "", 0, 0
    _enter(b, "closed", now)


def view(b: BreakerState, c: BreakerConfig, now: int) -> View:
    """Show it; call ``advance`` before."""
    age = max(0, now - b.since)
    return View(
        b.state,
        b.forced,
        b.period,
        b.failures,
        _retry(b, c, now),
        age,
        len(b.probes),
        b.successes,
        b.opened,
        b.reason,
        b.last_failure,
        b.closed_us + (age if b.state == "closed" else 0),
        b.open_us + (age if b.state == "open" else 0),
        b.half_open_us + (age if b.state == "half_open" else 0),
    )


def _enter(b: BreakerState, state: StateName, now: int) -> None:
    spent = max(0, now - b.since)
    if b.state == "closed":
        b.closed_us += spent
    elif b.state == "open":
        b.open_us += spent
    else:
        b.half_open_us += spent
    b.state, b.since, b.period = state, now, max(now, b.period + 1)
    b.successes, b.probes, b.window = 0, {}, {}
    if state == "closed":
        b.failures = 0


def _open(b: BreakerState, c: BreakerConfig, now: int, reason: str, jitter: float) -> None:
    pause = min(_us(c.open_seconds) * 2.0 ** min(b.openings, MOST_DOUBLINGS), _us(c.open_cap))
    _enter(b, "open", now)
    b.open_until = now + int(pause * (1 - JITTER * jitter))
    b.openings, b.opened, b.reason = b.openings + 1, b.opened + 1, reason


def _count(b: BreakerState, c: BreakerConfig, now: int, tally: Tally) -> tuple[int, int, int]:
    """Add results to the current bucket; gives the sums of the window."""
    current = now // c.bucket_us
    counted = b.window.get(current, (0, 0, 0))
    added = (tally.calls, tally.failures, tally.slow)
    b.window[current] = (counted[0] + added[0], counted[1] + added[1], counted[2] + added[2])
    b.window = {n: sums for n, sums in b.window.items() if current - BUCKETS < n <= current}
    kept = b.window.values()
    return sum(k[0] for k in kept), sum(k[1] for k in kept), sum(k[2] for k in kept)


def _has_room(b: BreakerState, c: BreakerConfig) -> bool:
    """Whether one more probe may run: not if those under way may be enough."""
    running = len(b.probes)
    return running < c.probes and running + b.successes < c.successes_to_close


def _retry(b: BreakerState, c: BreakerConfig, now: int) -> int:
    if b.state == "closed":
        return 0
    if b.state == "open":
        held = b.forced and not b.forced_until
        return _us(c.open_cap) if held else max(0, b.open_until - now)
    return 0 if _has_room(b, c) else max(0, min(b.probes.values()) - now)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
