"""The pace of warming, by a clock that the test sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.policy.warming import BURST_SECONDS, Pace


@given(
    rate=st.sampled_from([1, 7, 50, 200, 5000]),
    pauses=st.lists(st.floats(0, 0.3), min_size=2, max_size=200),
)
def test_no_span_of_time_has_more_turns_than_it_may(rate: int, pauses: list[float]) -> None:
    now = 100.0
    pace = Pace(rate, lambda: now)
    turns = []
    for pause in pauses:
        now += pace.delay()
        turns.append(now)
        now += pause * (pause > 0.1)
    for first in range(0, len(turns), 7):
        for last in range(first, len(turns)):
            allowed = rate * (turns[last] - turns[first] + BURST_SECONDS) + 1
            assert last - first + 1 <= allowed + 1e-6


def test_whoever_keeps_waiting_gets_the_full_rate() -> None:
    now = 0.0
    pace = Pace(1000, lambda: now)
    for _ in range(1000):
        now += pace.delay() + 0.0005  # always half a turn late
    assert now == pytest.approx(1.0, abs=0.02)
