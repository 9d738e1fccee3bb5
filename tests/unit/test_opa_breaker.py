"""The breaker's transitions, and what holds after any sequence of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.policy.evaluators import opa_breaker
from sark.policy.evaluators.opa_breaker import Breaker, Permit

LIMIT = opa_breaker.FAILURES_TO_OPEN
# Longer than any pause.
LATER = 2 * opa_breaker.LONGEST_PAUSE_SECONDS


def admitted(breaker: Breaker, now: float) -> Permit:
    permit = breaker.admit(now)
    assert permit is not None
    return permit


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(LIMIT):
        breaker.failed(admitted(breaker, now), now, "away")
    return breaker


def test_consecutive_failures_open_it_and_only_the_last_tells() -> None:
    breaker = Breaker()
    told = [breaker.failed(admitted(breaker, 0), 0, f"away {n}") for n in range(LIMIT)]
    assert told == [False] * (LIMIT - 1) + [True]
    assert (breaker.state, breaker.reason) == ("open", f"away {LIMIT - 1}")
    assert breaker.admit(0) is None


def test_a_success_starts_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(LIMIT - 1):
            breaker.failed(admitted(breaker, 0), 0, "away")
        assert not breaker.succeeded(admitted(breaker, 0))
    assert str(breaker.state) == "closed"


def test_one_probe_after_the_pause() -> None:
    breaker = opened()
    wait = breaker.wait(0)
    first = opa_breaker.FIRST_PAUSE_SECONDS
    assert first / 2 <= wait <= first
    assert breaker.admit(wait - 0.001) is None
    probe = admitted(breaker, wait)
    assert probe.is_probe
    assert str(breaker.state) == "half_open"
    assert breaker.wait(wait) == 0
    assert breaker.admit(LATER) is None
    assert breaker.succeeded(probe)
    assert str(breaker.state) == "closed"
    assert not admitted(breaker, wait).is_probe


def test_pauses_grow_to_a_cap_and_start_small_again() -> None:
    breaker, now, pauses = opened(), 0.0, list[float]()
    for _ in range(40):
        pauses.append(breaker.wait(now))
        now += LATER
        assert breaker.failed(admitted(breaker, now), now, "away")
    first, longest = opa_breaker.FIRST_PAUSE_SECONDS, opa_breaker.LONGEST_PAUSE_SECONDS
    for number, pause in enumerate(pauses):
        full = min(first * 2**number, longest)
        assert full / 2 <= pause <= full
    breaker.succeeded(admitted(breaker, now + LATER))
    for _ in range(LIMIT):
        breaker.failed(admitted(breaker, now), now, "away")
    assert breaker.wait(now) <= first


def test_pauses_are_jittered() -> None:
    assert len({opened().wait(0) for _ in range(20)}) > 10


def test_a_cancelled_probe_leaves_room_for_the_next() -> None:
    breaker = opened()
    probe = admitted(breaker, LATER)
    assert breaker.abandoned(probe)
    assert str(breaker.state) == "open"
    assert admitted(breaker, LATER).is_probe
    assert not breaker.abandoned(probe), "it is another's turn now"
    assert str(breaker.state) == "half_open"


def test_a_cancelled_call_is_no_verdict() -> None:
    breaker = Breaker()
    assert not breaker.abandoned(admitted(breaker, 0))
    assert (breaker.state, breaker.failures) == ("closed", 0)


@pytest.mark.parametrize("result", ["succeeded", "failed"])
def test_results_of_an_earlier_period_do_not_count(result: str) -> None:
    breaker = Breaker()
    late = admitted(breaker, 0)
    for _ in range(LIMIT):
        breaker.failed(admitted(breaker, 0), 0, "away")
    probe = admitted(breaker, LATER)
    if result == "succeeded":
        assert not breaker.succeeded(late)
    else:
        assert not breaker.failed(late, LATER, "away")
    assert str(breaker.state) == "half_open"
    assert breaker.succeeded(probe)


@given(st.lists(st.tuples(st.sampled_from(["ask", "good", "bad", "gone", "wait"]), st.integers())))
def test_never_two_probes_and_never_stuck(steps: list[tuple[str, int]]) -> None:
    breaker, now, held = Breaker(), 0.0, list[Permit]()
    for step, number in steps:
        if step == "wait":
            now += abs(number) % 12
        elif step == "ask":
            permit = breaker.admit(now)
            assert (permit is None) <= (breaker.state != "closed")
            held += [permit] if permit else []
        elif held:
            permit = held.pop(number % len(held))
            if step == "good":
                breaker.succeeded(permit)
            elif step == "bad":
                breaker.failed(permit, now, "away")
            else:
                breaker.abandoned(permit)
        probes = [permit for permit in held if permit.is_probe]
        assert len(probes) <= 1
        assert (breaker.state == "half_open") == (len(probes) == 1)
    for permit in held:
        breaker.abandoned(permit)
    assert breaker.admit(now + LATER) is not None
