"""The rules on the server and those in Python do the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sark.breaker import BreakerConfig, Outcome
from sark.breaker import rules as python
from sark.breaker.state import BreakerState
from tests.support.breakers import SECOND, START, Clocked, tally_of
from tests.support.servers import ValkeyServer

JITTER = st.floats(0, 1, allow_nan=False)
REASONS = st.sampled_from(["TimeoutError", "", "503 ä"])
CONFIGS = (
    BreakerConfig(failures=3),
    BreakerConfig(failures=4, probes=3, open_seconds=2, open_cap=5, probe_lease=4),
    BreakerConfig(failures=0, failure_rate=0.5, window_seconds=5, minimum_calls=4, successes=2),
    BreakerConfig(
        failures=50, slow_rate=0.5, slow_seconds=1, window_seconds=0.5, minimum_calls=3, probes=2
    ),
)


class BothRules(RuleBasedStateMachine):
    """The same calls to both; old periods and tokens are tried again and again."""

    server: ClassVar[ValkeyServer]
    config: ClassVar[BreakerConfig]

    def __init__(self) -> None:
        super().__init__()
        self.client = self.server.client()
        self.client.flushdb()
        self.lua = Clocked(self.client, "billing", self.config)
        self.now = START
        self.python = BreakerState(since=START)
        self.seen = self.lua.report(START, 0, "", "", 0.0)
        self.periods, self.tokens = [0], [0]

    @rule(micros=st.one_of(st.integers(0, 3 * SECOND), st.integers(0, 70 * SECOND)))
    def wait(self, micros: int) -> None:
        self.now += micros

    @rule()
    def wait_until_a_call_may_run(self) -> None:
        self.now += self.seen.retry

    @rule()
    def open(self) -> None:
        """Fail as often as it takes; time and again, so that it stays open for longer."""
        for _ in range(3):
            self._report("x" * max(self.config.failures, 4), 0, "x", 0.5)
            self.now += self.seen.retry
            self._admit()
            self._conclude(0, "failed", "y", 0.25)
            self._compare()

    @rule(succeeded=st.integers(0, 2), to_the_end=st.booleans())
    def take_all_places(self, succeeded: int, to_the_end: bool) -> None:
        """Run as many probes as there may be, end some, and try again at once or in time."""
        self.now += self.seen.retry
        for _ in range(self.config.probes):
            self._admit()
        for number in range(succeeded):
            self._conclude(number, "succeeded", "", 0.0)
        self._admit()
        if to_the_end:
            self._compare()
            self.now += self.seen.retry
            self._admit()

    @rule(micros=st.integers(0, 10 * SECOND))
    def clock_steps_back(self, micros: int) -> None:
        self.now -= micros

    @rule(results=st.text(".xs", max_size=8), late=st.integers(0, 2), reason=REASONS, jitter=JITTER)
    def report(self, results: str, late: int, reason: str, jitter: float) -> None:
        self._report(results, late, reason, jitter)

    def _report(self, results: str, late: int, reason: str, jitter: float) -> None:
        period = self.periods[-1 - late % len(self.periods)]
        tally = tally_of(results)
        self.seen = self.lua.report(self.now, period, results, reason, jitter)
        python.report(
            self.python,
            self.config,
            self.now,
            period=period,
            tally=tally,
            reason=reason,
            jitter=jitter,
        )

    @rule()
    def admit(self) -> None:
        self._admit()

    def _admit(self) -> None:
        granted, self.seen = self.lua.admit(self.now)
        assert granted == python.admit(self.python, self.config, self.now)
        if granted > 0:
            assert granted not in self.tokens
            self.tokens.append(granted)

    @rule(
        late=st.integers(0, 3),
        outcome=st.sampled_from(["succeeded", "failed", "neutral"]),
        reason=REASONS,
        jitter=JITTER,
    )
    def conclude(self, late: int, outcome: str, reason: str, jitter: float) -> None:
        self._conclude(late, outcome, reason, jitter)

    def _conclude(self, late: int, outcome: str, reason: str, jitter: float) -> None:
        token, how = self.tokens[-1 - late % len(self.tokens)], cast("Outcome", outcome)
        self.seen = self.lua.conclude(self.now, token, how, reason, jitter)
        python.advance(self.python, self.now)
        python.conclude(
            self.python,
            self.config,
            self.now,
            token=token,
            outcome=how,
            reason=reason,
            jitter=jitter,
        )

    @rule(opened=st.booleans(), span=st.sampled_from([0, SECOND, 30 * SECOND]))
    def force(self, opened: bool, span: int) -> None:
        self.seen = self.lua.force(self.now, "open" if opened else "closed", span)
        until = self.now + span if span else 0
        python.force(self.python, self.now, forced="open" if opened else "closed", until=until)

    @rule()
    def reset(self) -> None:
        self.seen = self.lua.force(self.now, "reset", 0)
        python.reset(self.python, self.now)

    @invariant()
    def they_agree(self) -> None:
        self._compare()

    def _compare(self) -> None:
        # Time passes for Python only when it is asked; for the server, in every script.
        seen = self.seen = self.lua.report(self.now, 0, "", "", 0.0)
        python.advance(self.python, self.now)
        assert seen == python.view(self.python, self.config, self.now)
        if seen.period != self.periods[-1]:
            self.periods.append(seen.period)
        assert seen.probes <= self.config.probes

    @invariant()
    def the_guides_keys_are_readable(self) -> None:
        state, count, last, _ = self.lua.keys
        assert self.client.get(state) == self.python.state.encode()
        assert self.client.get(count) == str(self.python.failures).encode()
        told = cast("bytes | None", self.client.get(last))
        if self.python.last_failure:
            assert told is not None
            moment = datetime.fromisoformat(told.decode())
            expected = datetime.fromtimestamp(self.python.last_failure // SECOND, UTC)
            assert moment == expected.replace(microsecond=self.python.last_failure % SECOND)
        else:
            assert told is None

    def teardown(self) -> None:
        self.client.flushdb()


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_the_server_and_python_agree(server: ValkeyServer, number: int) -> None:
    BothRules.server = server
    BothRules.config = CONFIGS[number]
    run_state_machine_as_test(
        BothRules,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize(
    "day", ["1970-01-01", "2000-02-29", "2026-12-31", "2028-03-01", "2100-02-28"]
)
def test_the_time_of_the_last_failure(server: ValkeyServer, day: str) -> None:
    moment = datetime.fromisoformat(f"{day}T23:59:58.000007+00:00")
    with server.client() as client:
        clocked = Clocked(client, "billing", BreakerConfig())
        clocked.report(round(moment.timestamp()) * SECOND + 7, 0, "x", "TimeoutError", 0.0)
        assert client.get(clocked.keys[2]) == f"{day}T23:59:58.000007Z".encode()


def test_what_another_tool_writes_into_the_state_is_obeyed(server: ValkeyServer) -> None:
    with server.client() as client:
        clocked = Clocked(client, "billing", BreakerConfig(failures=1))
        assert clocked.report(START, 0, "x", "TimeoutError", 0.0).state == "open"
        client.set(clocked.keys[0], "closed")
        assert clocked.admit(START)[0] == python.PASSED
        client.set(clocked.keys[0], "nonsense")
        assert clocked.admit(START)[1].state == "closed"
