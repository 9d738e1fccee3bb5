"""The guard as a state machine: any order of answers, failures and checks."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sark.errors import StoreUnavailableError
from sark.store.guard import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Guard,
)

ADDRESS = "valkey.example:6379"


class GuardMachine(RuleBasedStateMachine):
    """Compares the guard with what its description says, after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.guard = Guard(ADDRESS)
        self.consecutive = 0
        self.open = False
        self.opened = 0
        self.reason = ""

    @rule()
    def an_answer_closes_it(self) -> None:
        assert self.guard.succeeded() is self.open
        self.open, self.consecutive = False, 0

    @rule(reason=st.sampled_from(["refused", "no answer in time"]))
    def a_failure_opens_it_when_it_is_the_last_straw(self, reason: str) -> None:
        self.consecutive += 1
        opens = not self.open and self.consecutive >= FAILURES_TO_OPEN
        assert self.guard.failed(reason) is opens
        if opens:
            self.open, self.opened, self.reason = True, self.opened + 1, reason

    @rule()
    def a_pause_is_positive_and_bounded(self) -> None:
        assert FIRST_PAUSE_SECONDS / 2 <= self.guard.next_pause() <= LONGEST_PAUSE_SECONDS

    @invariant()
    def it_refuses_exactly_when_open(self) -> None:
        assert self.guard.is_open is self.open
        assert self.guard.failures == self.consecutive
        assert self.guard.opened == self.opened
        if not self.open:
            self.guard.check()
            return
        with pytest.raises(StoreUnavailableError) as refused:
            self.guard.check()
        assert ADDRESS in str(refused.value)
        assert self.reason in str(refused.value)
        assert refused.value.retry_after > 0


TestGuard = GuardMachine.TestCase


def test_every_short_history() -> None:
    for history in product((True, False), repeat=8):
        guard = Guard(ADDRESS)
        for answered in history:
            if answered:
                guard.succeeded()
            else:
                guard.failed("refused")
        failed_since_answer = (history[::-1].index(True)) if True in history else len(history)
        assert guard.is_open is (failed_since_answer >= FAILURES_TO_OPEN), history


def test_pauses_grow_and_start_again_after_an_answer() -> None:
    guard = Guard(ADDRESS)
    pauses = [guard.next_pause() for _ in range(12)]
    assert pauses[0] <= FIRST_PAUSE_SECONDS
    assert min(pauses[8:]) >= LONGEST_PAUSE_SECONDS / 2
    guard.succeeded()
    assert guard.next_pause() <= FIRST_PAUSE_SECONDS


def test_pauses_stay_bounded_for_a_server_that_is_down_for_weeks() -> None:
    guard = Guard(ADDRESS)
    pauses = [guard.next_pause() for _ in range(5000)]
    assert max(pauses) <= LONGEST_PAUSE_SECONDS


def test_pauses_differ_between_processes() -> None:
    assert len({Guard(ADDRESS).next_pause() for _ in range(50)}) > 1
