"""The three algorithms as plain functions: no clock, no I/O, whole numbers only.

They do exactly what the Lua scripts do. The local limiter counts with them while Valkey is away,
and the tests compare the scripts with them. ``docs/limits.md`` says what each admits.

**Fixed window.** A count, and when its window ends. The window begins with the first request that
is counted and is never extended.

**Sliding window.** The counts of two adjacent fixed windows. The earlier one counts by the share of
it that a window which ends now still covers, in millionths and rounded up.

**GCRA** (generic cell rate algorithm, ITU-T I.371 annex A; the token bucket told in time). One
moment: when the bucket will be empty if nothing more comes. A request moves it by window over
requests, and is admitted when it stays within ``burst`` of that from now. The fraction of a
microsecond is kept apart, in parts of which there are as many as requests, so nothing is rounded.

A *figure* is what a script returns of one limit: used and milliseconds left (fixed); current,
previous and microseconds gone (sliding); microseconds and parts ahead (GCRA). Times are in
microseconds but for the fixed window's, which are in milliseconds, as the expiry of keys is.
"""

from __future__ import annotations

from typing import NamedTuple

from sark.ratelimit.limit import Limit

__all__ = ["Figure", "State", "charge", "ends_at", "figure_of", "standing", "wait_for"]

MILLIONTHS = 1_000_000
MICROSECONDS = 1_000_000

Figure = tuple[int, ...]


class State(NamedTuple):
    """What is kept of one limit of one identity.

    Attributes:
        at: When the window ends, in milliseconds (fixed); when the current window began (sliding);
            when the bucket will be empty (GCRA).
        first: Requests of the window (fixed), of the current window (sliding); parts of a
            microsecond (GCRA).
        second: Requests of the previous window (sliding).
    """

    at: int
    first: int
    second: int = 0


def figure_of(limit: Limit, state: State | None, now: int) -> Figure:
    """Tell the figure of a state at a time; None is a limit that is not in use."""
    if limit.algorithm == "fixed":
        return _fixed_figure(limit, state, now)
    if limit.algorithm == "sliding":
        return _sliding_figure(limit, state, now)
    return _gcra_figure(limit, state, now)


def standing(limit: Limit, figure: Figure) -> tuple[int, int]:
    """Tell what remains of a limit, and the microseconds until all of it is there again."""
    span = limit.window_seconds * MICROSECONDS
    if limit.algorithm == "gcra":
        ahead, parts = figure
        level = ahead * limit.requests + parts
        remaining = (limit.capacity * span - level) // span
        return max(0, remaining), -(-level // limit.requests)
    if limit.algorithm == "sliding":
        current, previous, gone = figure
        weighed = -(-previous * (MILLIONTHS - gone // limit.window_seconds) // MILLIONTHS)
        remaining = limit.requests - current - weighed
        return max(0, remaining), span - gone
    used, left = figure
    return max(0, limit.requests - used), left * 1000


def wait_for(limit: Limit, figure: Figure, cost: int) -> int:
    """Tell the microseconds until a cost would be admitted; 0 when it would be now."""
    if limit.algorithm == "fixed":
        used, left = figure
        return left * 1000 if used + cost > limit.requests else 0
    if limit.algorithm == "sliding":
        return _sliding_wait(limit, figure, cost)
    span = limit.window_seconds * MICROSECONDS
    over = figure[0] * limit.requests + figure[1] + (cost - limit.capacity) * span
    return _ceil(over, limit.requests) if over > 0 and cost else 0


def charge(limit: Limit, state: State | None, now: int, cost: int = 1) -> State | None:
    """Charge a cost.

    Returns:
        The state after it; None when it is too much, and then the state stays as it was.
    """
    figure = figure_of(limit, state, now)
    if wait_for(limit, figure, cost):
        return None
    if limit.algorithm == "fixed":
        used, left = figure
        return State(now // 1000 + left, used + cost)
    if limit.algorithm == "sliding":
        current, previous, gone = figure
        return State(now - gone, current + cost, previous)
    ahead, parts = figure
    span = limit.window_seconds * MICROSECONDS
    level = ahead * limit.requests + parts + cost * span
    return State(now + level // limit.requests, level % limit.requests)


def ends_at(limit: Limit, state: State) -> int:
    """Tell when a state is of no use any more, in microseconds."""
    if limit.algorithm == "fixed":
        return state.at * 1000
    if limit.algorithm == "sliding":
        return state.at + 2 * limit.window_seconds * MICROSECONDS
    return state.at + 1


def _fixed_figure(limit: Limit, state: State | None, now: int) -> Figure:
    moment = now // 1000
    if state is None or state.at <= moment:
        return 0, limit.window_seconds * 1000
    # By a clock that was set back, no window ends later than a new one.
    return state.first, min(state.at - moment, limit.window_seconds * 1000)


def _sliding_figure(limit: Limit, state: State | None, now: int) -> Figure:
    span = limit.window_seconds * MICROSECONDS
    gone = 0 if state is None else max(0, now - state.at)
    if state is None or gone >= 2 * span:
        return 0, 0, 0
    if gone >= span:
        return 0, state.first, gone - span
    return state.first, state.second, gone


def _gcra_figure(limit: Limit, state: State | None, now: int) -> Figure:
    if state is None or state.at < now:
        return 0, 0
    ahead, parts = state.at - now, state.first
    most = limit.capacity * limit.window_seconds * MICROSECONDS
    if ahead * limit.requests + parts > most:
        return most // limit.requests, most % limit.requests
    return ahead, parts


def _sliding_wait(limit: Limit, figure: Figure, cost: int) -> int:
    """Microseconds until the earlier requests weigh so little that the cost fits."""
    current, previous, gone = figure
    span = limit.window_seconds * MICROSECONDS
    room = limit.requests - current - cost
    if previous * _weight(limit, gone) <= room * MILLIONTHS:
        return 0
    if room >= 0:
        return _gone_at(limit, previous, room) - gone
    # Not before the current window has become the earlier one.
    return span - gone + _gone_at(limit, current, max(0, limit.requests - cost))


def _gone_at(limit: Limit, previous: int, room: int) -> int:
    """How much of a window has to be gone for the one before it to fit into ``room``."""
    if previous <= room:
        return 0
    return (MILLIONTHS - room * MILLIONTHS // previous) * limit.window_seconds


def _weight(limit: Limit, gone: int) -> int:
    # A millionth of a window is as many microseconds as the window has seconds.
    return MILLIONTHS - gone // limit.window_seconds


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
