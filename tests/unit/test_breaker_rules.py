"""The rules of a breaker, one by one, without a server."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.breaker import BreakerConfig, Outcome
from sark.breaker.rules import (
    PASSED,
    REFUSED,
    admit,
    advance,
    conclude,
    force,
    report,
    reset,
    view,
)
from sark.breaker.state import BreakerState
from sark.breaker.tally import Tally
from sark.errors import ConfigurationError
from tests.support.breakers import SECOND, START, tally_of


class Bench:
    """One breaker and a clock."""

    def __init__(self, **config: Any) -> None:
        self.config = BreakerConfig(**config)
        self.state = BreakerState(since=START)
        self.now = START

    def results(self, results: str, period: int | None = None, jitter: float = 0.0) -> str:
        report(
            self.state,
            self.config,
            self.now,
            period=self.state.period if period is None else period,
            tally=tally_of(results),
            reason="TimeoutError",
            jitter=jitter,
        )
        return self.state.state

    def admit(self) -> int:
        return admit(self.state, self.config, self.now)

    def end(self, token: int, outcome: str, jitter: float = 0.0) -> str:
        conclude(
            self.state,
            self.config,
            self.now,
            token=token,
            outcome=cast("Outcome", outcome),
            reason="TimeoutError",
            jitter=jitter,
        )
        return self.state.state

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)
        advance(self.state, self.now)

    def retry(self) -> float:
        return view(self.state, self.config, self.now).retry / SECOND


def test_consecutive_failures_open_it_also_across_reports() -> None:
    bench = Bench()
    assert bench.results("xx.") == "closed"
    assert bench.results("xx") == "closed"
    assert bench.results("xx") == "closed"
    assert bench.state.failures == 4
    assert bench.results("x..") == "open"
    assert bench.state.reason == "TimeoutError"


def test_a_success_ends_the_run() -> None:
    bench = Bench()
    for _ in range(10):
        assert bench.results("xxxx.") == "closed"
    assert bench.state.failures == 0


def test_open_it_refuses_until_its_time_is_over_which_doubles_up_to_the_cap() -> None:
    bench = Bench(failures=1, open_seconds=1, open_cap=5)
    bench.results("x")
    for expected in (1, 2, 4, 5, 5):
        assert bench.retry() == expected
        bench.wait(expected - 0.001)
        assert bench.admit() == REFUSED
        bench.wait(0.001)
        token = bench.admit()
        assert token > 0
        assert bench.end(token, "failed") == "open"
    bench.wait(5)
    assert bench.end(bench.admit(), "succeeded") == "closed"
    bench.results("x")
    assert bench.retry() == 1


@given(jitter=st.floats(0, 1, allow_nan=False))
def test_chance_takes_off_at_most_a_fifth(jitter: float) -> None:
    bench = Bench(failures=1, open_seconds=10)
    bench.results("x", jitter=jitter)
    assert 8 <= bench.retry() <= 10


def test_half_open_exactly_the_permitted_probes_run() -> None:
    bench = Bench(failures=1, probes=3)
    bench.results("x")
    bench.wait(1)
    tokens = [bench.admit() for _ in range(50)]
    granted = [token for token in tokens if token > 0]
    assert len(granted) == len(set(granted)) == 3
    assert bench.end(granted[0], "succeeded") == "half_open"
    # The two under way may be enough.
    assert bench.admit() == REFUSED
    assert bench.end(granted[1], "neutral") == "half_open"
    spare = bench.admit()
    assert spare > 0
    assert bench.admit() == REFUSED
    bench.end(granted[2], "succeeded")
    assert bench.end(spare, "succeeded") == "closed"
    assert bench.admit() == PASSED


def test_more_successes_than_probes_come_one_after_the_other() -> None:
    bench = Bench(failures=1, probes=1, successes=3)
    bench.results("x")
    bench.wait(1)
    for expected in ("half_open", "half_open", "closed"):
        token = bench.admit()
        assert bench.admit() == REFUSED
        assert bench.end(token, "succeeded") == expected


def test_a_lease_that_has_run_out_frees_its_place_and_silences_its_holder() -> None:
    bench = Bench(failures=1, probe_lease=4)
    bench.results("x")
    bench.wait(1)
    dead = bench.admit()
    bench.wait(3)
    assert bench.admit() == REFUSED
    assert bench.retry() == 1
    bench.wait(1)
    living = bench.admit()
    assert living > dead
    assert bench.end(dead, "failed") == "half_open"
    assert bench.end(dead, "succeeded") == "half_open"
    assert bench.end(living, "succeeded") == "closed"


def test_results_of_an_earlier_period_change_nothing() -> None:
    bench = Bench(failures=2, open_seconds=1)
    early = bench.state.period
    bench.results("xx")
    assert bench.results("....", period=early) == "open"
    bench.wait(1)
    bench.end(bench.admit(), "succeeded")
    before = view(bench.state, bench.config, bench.now)
    assert bench.results("xxxx", period=early) == "closed"
    assert view(bench.state, bench.config, bench.now) == before


def test_a_rate_needs_a_minimum_of_calls_in_the_window() -> None:
    bench = Bench(failures=0, failure_rate=0.5, minimum_calls=10, window_seconds=10)
    assert bench.results("x.x.x.x.x") == "closed"
    bench.wait(11)  # they have left the window
    assert bench.results("x.x.x.x.x") == "closed"
    assert bench.results(".") == "open"


def test_slow_calls_open_it_by_their_rate() -> None:
    bench = Bench(slow_rate=0.5, slow_seconds=1, minimum_calls=4)
    assert bench.results("s..") == "closed"
    assert bench.results("s") == "open"


def test_held_open_no_call_runs_until_the_time_is_over() -> None:
    bench = Bench()
    force(bench.state, bench.now, forced="open", until=bench.now + 90 * SECOND)
    bench.wait(89)
    assert (bench.admit(), bench.retry()) == (REFUSED, 1)
    bench.wait(1)
    assert bench.admit() > 0


def test_held_closed_nothing_opens_it() -> None:
    bench = Bench(failures=1)
    force(bench.state, bench.now, forced="closed", until=0)
    assert bench.results("xxxxxx") == "closed"
    bench.wait(10**6)
    assert bench.admit() == PASSED
    reset(bench.state, bench.now)
    assert bench.results("x") == "open"


def test_time_in_each_state_adds_up() -> None:
    bench = Bench(failures=1, open_seconds=2)
    bench.wait(3)
    bench.results("x")
    bench.wait(5)
    token = bench.admit()
    bench.wait(7)
    bench.end(token, "succeeded")
    bench.wait(11)
    seen = view(bench.state, bench.config, bench.now)
    assert (seen.closed, seen.open, seen.half_open) == (14 * SECOND, 5 * SECOND, 7 * SECOND)
    assert (seen.age, seen.opened) == (11 * SECOND, 1)


@given(st.text(".xs", max_size=30), st.integers(0, 9))
def test_a_tally_knows_the_runs_across_its_ends(results: str, before: int) -> None:
    tally, whole = tally_of(results), "x" * before + results
    runs = whole.replace("s", ".").split(".")
    assert tally.longest_run(before) >= max(map(len, runs)) or not results
    assert tally.trailing_run(before) == len(runs[-1])
    assert tally.longest_run(before) <= max(before, *map(len, runs))
    assert (tally.calls, tally.failures, tally.slow) == (
        len(results),
        results.count("x"),
        results.count("s"),
    )
    assert tally.longest == max(map(len, results.replace("s", ".").split(".")))


def test_an_empty_tally_says_nothing() -> None:
    assert Tally() == tally_of("")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"failures": 0}, "nothing opens it"),
        ({"failures": -1}, "failures: got -1"),
        ({"probes": 0}, "probes: got 0"),
        ({"probes": 101}, "probes: got 101"),
        ({"failure_rate": 1.5}, "failure_rate: got 1.5"),
        ({"slow_rate": 0.5}, "expected slow_seconds"),
        ({"open_seconds": 0}, "open_seconds: got 0"),
        ({"open_seconds": 90}, "open_cap is less"),
        ({"window_seconds": float("nan")}, "window_seconds: got nan"),
    ],
)
def test_rules_that_make_no_sense_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        BreakerConfig(**config)
