"""The scripts against the plain functions, over random times that the server is told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sark.ratelimit import Limit
from sark.ratelimit.algorithms import State, charge, figure_of, standing, wait_for
from sark.ratelimit.rules import Applied
from tests.support.limit_clock import SECOND, START, Clocked
from tests.support.servers import ValkeyServer

LIMITS = (
    Limit(1, 1),
    Limit(7, 10),
    Limit(1, 1, "sliding"),
    Limit(7, 10, "sliding"),
    Limit(1000, 60, "sliding"),
    Limit(1, 1, "gcra"),
    Limit(7, 10, "gcra"),
    Limit(7, 10, "gcra", 3),
    Limit(3, 1, "gcra", 10),
    Limit(999_983, 86_400, "gcra", 5),
)
numbers = count()


@pytest.fixture
def clocked(server: ValkeyServer) -> Iterator[Clocked]:
    with server.client() as client:
        yield Clocked(client)
        client.flushall()


arrivals = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 3 * SECOND),
            st.integers(0, 30 * SECOND),
            st.sampled_from([0, 1, 999, 1000, SECOND, 10 * SECOND, 60 * SECOND, 120 * SECOND]),
        ),
        st.sampled_from([1, 1, 1, 2, 3, 7]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(LIMITS), st.sampled_from(["plain", "all"]), st.integers(0, SECOND), arrivals)
@example(LIMITS[1], "plain", 0, [(0, 7), (9 * SECOND, 1), (SECOND, 3), (0, 7)])
@example(LIMITS[3], "all", 0, [(0, 7), (10 * SECOND, 1), (5 * SECOND, 3), (0, 1)])
@example(LIMITS[7], "all", 0, [(0, 3), (0, 1), (1_428_571, 1), (1, 1)])
def test_a_script_does_what_the_plain_functions_do(
    clocked: Clocked, limit: Limit, script: str, offset: int, gaps: list[tuple[int, int]]
) -> None:
    key = f"ratelimit:user:m{next(numbers)}:{limit.window_seconds}"
    now, state = START + offset, None
    for gap, asked in gaps:
        now, cost = now + gap, min(asked, limit.capacity)
        after = charge(limit, state, now, cost)
        run = clocked.plain if script == "plain" and limit.algorithm == "fixed" else clocked.charge
        verdict, at, *figure = run(now, [(key, limit, cost)])
        assert (verdict, at) == (int(after is not None), now)
        state = after or state
        assert tuple(figure) == figure_of(limit, state, now)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(LIMITS), min_size=2, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    arrivals,
)
def test_several_limits_are_charged_together_or_not_at_all(
    clocked: Clocked, limits: list[Limit], reports: list[bool], gaps: list[tuple[int, int]]
) -> None:
    space = next(numbers)
    keys = [f"ratelimit:user:t{space}:{limit.window_seconds}:{n}" for n, limit in enumerate(limits)]
    applied = [
        Applied("user", limit, "x", shadow=shadow)
        for limit, shadow in zip(limits, reports, strict=False)
    ]
    letters = "".join(each.letter for each in applied)
    states: list[State | None] = [None] * len(limits)
    now = START
    for gap, asked in gaps:
        now += gap
        costs = [min(asked, limit.capacity) for limit in limits]
        after = [charge(li, s, now, c) for li, s, c in zip(limits, states, costs, strict=True)]
        refused = any(a is None and not e.shadow for a, e in zip(after, applied, strict=True))
        verdict, _, *figures = clocked.charge(
            now, list(zip(keys, limits, costs, strict=True)), letters
        )
        shadows = sum(2 << n for n, a in enumerate(after) if a is None)
        assert verdict == (0 if refused else 1 + shadows)
        if not refused:
            states = [a or s for a, s in zip(after, states, strict=True)]
        expected = [n for li, s in zip(limits, states, strict=True) for n in figure_of(li, s, now)]
        assert figures == expected


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(LIMITS), st.integers(0, SECOND), arrivals)
def test_a_wait_is_exactly_as_long_as_it_has_to_be(
    clocked: Clocked, limit: Limit, offset: int, gaps: list[tuple[int, int]]
) -> None:
    now, state = START + offset, None
    for gap, asked in gaps:
        now, cost = now + gap, min(asked, limit.capacity)
        wait = wait_for(limit, figure_of(limit, state, now), cost)
        after = charge(limit, state, now, cost)
        assert (wait == 0) is (after is not None)
        if after is None:
            precision = 1000 if limit.algorithm == "fixed" else 1
            assert charge(limit, state, now + wait, cost) is not None
            assert charge(limit, state, now + wait - precision, cost) is None
        state = after or state


@settings(max_examples=100)
@given(st.sampled_from(LIMITS), arrivals)
def test_what_remains_is_admitted_and_not_one_more(
    limit: Limit, gaps: list[tuple[int, int]]
) -> None:
    now, state = START, None
    for gap, asked in gaps:
        now += gap
        state = charge(limit, state, now, min(asked, limit.capacity)) or state
        remaining, _ = standing(limit, figure_of(limit, state, now))
        if remaining:
            assert charge(limit, state, now, remaining) is not None
        assert charge(limit, state, now, remaining + 1) is None


@pytest.mark.parametrize("limit", [limit for limit in LIMITS if limit.requests <= 7], ids=str)
def test_steady_clients_of_the_server_get_what_they_may(clocked: Clocked, limit: Limit) -> None:
    """One at 40% of its limit is never refused; one at 150% gets all of it."""
    window = limit.window_seconds * SECOND
    space, windows = next(numbers), 12
    steady = f"ratelimit:user:s{space}:{limit.window_seconds}"
    gap = window * 10 // (4 * limit.requests)
    for number in range(40):
        assert clocked.charge(START + number * gap, [(steady, limit, 1)])[0] == 1
    eager, gap, admitted = f"{steady}:eager", window * 2 // (3 * limit.requests), 0
    now = START
    begin = START + (2 * limit.capacity // limit.requests + 2) * window
    while now < begin + windows * window:
        verdict = clocked.charge(now, [(eager, limit, 1)])[0]
        # Once the burst is used up.
        admitted += verdict if now >= begin else 0
        now += gap
    assert abs(admitted - windows * limit.requests) <= 1 + windows * (limit.requests % 3 > 0)


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_a_steady_client_at_40_percent_is_never_refused(limit: Limit) -> None:
    gap = limit.window_seconds * SECOND * 10 // (4 * limit.requests)
    state, now = None, START
    for _ in range(400):
        state = charge(limit, state, now)
        assert state is not None
        now += gap


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_a_client_at_150_percent_gets_all_of_its_limit(limit: Limit) -> None:
    """After the burst is used up, it is admitted as often as the limit says, within one request."""
    gap = limit.window_seconds * SECOND * 2 // (3 * limit.requests)
    windows = 20 if limit.requests < 100 else 3
    windows = windows if limit.requests < 10_000 else 0
    state, now, admitted = None, START, 0
    for _ in range(limit.capacity * 3):
        state, now = charge(limit, state, now) or state, now + gap
    end = now + windows * limit.window_seconds * SECOND
    while now < end:
        after = charge(limit, state, now)
        admitted += after is not None
        state, now = after or state, now + gap
    assert abs(admitted - windows * limit.requests) <= 1 + windows * (limit.requests % 3 > 0)
