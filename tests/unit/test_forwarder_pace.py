"""Back-off and pace: bounded, honest to what a receiver asks, and back to full speed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.siem.forwarder.backoff import FIRST_PAUSE_SECONDS, Backoff
from sark.siem.forwarder.pace import MAX_GAP_SECONDS, Pace


def most() -> float:
    """Draw the largest number there is."""
    return 1.0


def least() -> float:
    """Draw the smallest."""
    return 0.0


def test_pauses_double_up_to_the_cap() -> None:
    backoff = Backoff(cap=1.0, draw=most)
    now, pauses = 0.0, []
    for _ in range(6):
        pauses.append(backoff.failed(sent=now, now=now))
        now += pauses[-1]
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0, 1.0])


def test_full_jitter_reaches_down_to_nothing() -> None:
    assert Backoff(cap=60, draw=least).failed(sent=0, now=0) == 0


def test_success_starts_over() -> None:
    backoff = Backoff(cap=60, draw=most)
    for now in range(10):
        backoff.failed(sent=now, now=now)
    backoff.succeeded()
    assert backoff.failed(sent=1000, now=1000) == pytest.approx(FIRST_PAUSE_SECONDS)


@pytest.mark.parametrize(
    ("after", "expected"), [(5.0, 5.5), (0.0, 0.2), (-3.0, 0.2), (3600.0, 60.0)]
)
def test_a_named_time_is_honoured_within_the_cap(after: float, expected: float) -> None:
    backoff = Backoff(cap=60, draw=most)
    assert backoff.failed(sent=0, now=0, after=after) == pytest.approx(expected)


def test_a_named_time_is_never_cut_short() -> None:
    assert Backoff(cap=60, draw=least).failed(sent=0, now=0, after=5.0) == pytest.approx(5.0)


def test_batches_that_fail_together_count_once() -> None:
    backoff = Backoff(cap=60, draw=most)
    first = backoff.failed(sent=0.0, now=1.0)
    assert backoff.failed(sent=0.5, now=1.0) == first
    assert backoff.failed(sent=0.9, now=1.1) == pytest.approx(first - 0.1)
    assert backoff.failed(sent=1.2, now=1.2) == pytest.approx(2 * FIRST_PAUSE_SECONDS)


@given(st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats(-10, 10**9)), max_size=80))
def test_no_pause_exceeds_the_cap(failures: list[tuple[float, float | None]]) -> None:
    backoff = Backoff(cap=7.0)
    now = 0.0
    for step, after in failures:
        now += step
        pause = backoff.failed(sent=now, now=now, after=after)
        assert 0 <= pause < 7.0 + 1e-9
        assert backoff.until <= now + 7.0


def test_complaints_halve_the_batches_under_way() -> None:
    pace = Pace(16)
    seen = []
    for now in range(5):
        pace.slow_down(sent=now, now=now)
        seen.append(pace.batches)
    assert seen == [8, 4, 2, 1, 1]


def test_complaints_about_what_was_sent_before_say_nothing_new() -> None:
    pace = Pace(16)
    pace.slow_down(sent=0, now=1)
    for _ in range(15):
        pace.slow_down(sent=0.5, now=1.5)
    assert (pace.batches, pace.gap) == (8, 0)
    pace.slow_down(sent=1.2, now=1.6)
    assert pace.batches == 4


def test_a_round_without_complaint_adds_one() -> None:
    pace = Pace(8)
    pace.slow_down(sent=0, now=0)
    for expected in (5, 6, 7, 8, 8):
        for _ in range(pace.batches + 1):
            pace.taken()
        assert pace.batches == expected


def test_a_single_batch_that_is_too_much_is_followed_by_a_pause() -> None:
    pace = Pace(1)
    assert pace.gap == 0
    for now in range(20):
        pace.slow_down(sent=now, now=now)
        assert pace.batches == 1
    assert pace.gap == MAX_GAP_SECONDS
    for _ in range(20):
        pace.taken()
    assert pace.gap == 0


@given(st.integers(1, 64), st.lists(st.booleans(), max_size=200))
def test_pace_stays_within_its_bounds(most_batches: int, complaints: list[bool]) -> None:
    pace = Pace(most_batches)
    for now, complaint in enumerate(complaints):
        if complaint:
            pace.slow_down(sent=now, now=now)
        else:
            pace.taken()
        assert 1 <= pace.batches <= most_batches
        assert 0 <= pace.gap <= MAX_GAP_SECONDS
