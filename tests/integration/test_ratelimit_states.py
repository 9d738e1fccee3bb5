"""What the scripts make of the states they find: other algorithms, other rates, clocks set back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import valkey
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sark.ratelimit import Limit
from sark.ratelimit.algorithms import figure_of, wait_for
from tests.support.limit_clock import SECOND, START, Clocked
from tests.support.servers import ValkeyServer

FIXED, SLIDING, GCRA = (Limit(7, 10, algorithm) for algorithm in ("fixed", "sliding", "gcra"))
SMALL = Limit(7, 10, "gcra", 3)
SLOW = Limit(3, 10, "gcra", 2)
WINDOW = 10 * SECOND
KEY = "ratelimit:user:a:10"
numbers = count()


@pytest.fixture
def clocked(server: ValkeyServer) -> Iterator[Clocked]:
    with server.client() as client:
        yield Clocked(client)
        client.flushall()


def put(clocked: Clocked, value: str, *, ends: int = START + 5 * WINDOW, key: str = KEY) -> None:
    clocked.client.set(key, value, pxat=ends // 1000)


def found(clocked: Clocked, limit: Limit, value: str, ends: int = START + 5 * WINDOW) -> list[int]:
    """Tell the figure of a limit by what a key holds, at ``START``."""
    put(clocked, value, ends=ends)
    figure: list[int] = clocked.charge(START, [(KEY, limit, 0)])[2:]
    return figure


LIMITS = (FIXED, SLIDING, GCRA, SMALL, SLOW)
steps = st.lists(
    st.tuples(
        st.sampled_from(range(len(LIMITS))),
        st.booleans(),
        st.one_of(st.integers(-30 * SECOND, 30 * SECOND), st.sampled_from([0, 1, 999, WINDOW])),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
@example([*[(0, False, 0, 1)] * 7, (2, False, 0, 1)])
@example([*[(1, False, 0, 1)] * 7, (3, False, 0, 1)])
@example([*[(0, True, 0, 1)] * 7, (0, True, -30 * SECOND, 1)])
@example([*[(1, True, 0, 1)] * 7, (1, True, -30 * SECOND, 1)])
@example([*[(2, True, 0, 1)] * 7, (2, True, -30 * SECOND, 1)])
def test_who_waits_as_long_as_told_is_admitted(
    clocked: Clocked, asked: list[tuple[int, bool, int, int]]
) -> None:
    """Whatever the rule was before and the clock did: no false wait, and none too long."""
    key, now = f"ratelimit:user:w{next(numbers)}:10", START
    for number, plain, gap, cost in asked:
        limit, now = LIMITS[number], now + gap
        run = clocked.plain if plain and limit is FIXED else clocked.charge
        verdict, _, *figure = run(now, [(key, limit, cost)])
        if verdict:
            continue
        wait = wait_for(limit, tuple(figure), cost)
        longest = 2 * WINDOW if limit is SLIDING else limit.drain_seconds * SECOND
        assert wait <= longest + 1000
        # Looking does not help, and asking in between does not hurt.
        clocked.charge(now, [(key, limit, 0)])
        run(now + wait // 2, [(key, limit, limit.capacity)])
        copied = f"{key}:copy"
        clocked.client.copy(key, copied, replace=True)
        assert run(now + wait, [(copied, limit, cost)])[0] == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([GCRA, SMALL]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=4, max_size=30),
)
@example(SMALL, [*[(0, 1)] * 7, (2, 1), *[(0, 1)] * 7, (2, 1), (1, 1)])
def test_no_change_of_algorithm_gives_a_fresh_limit(
    clocked: Clocked, bucket: Limit, asked: list[tuple[int, int]]
) -> None:
    """Also back and forth, as by processes that have the rule in two forms for a while."""
    key, admitted = f"ratelimit:user:c{next(numbers)}:10", 0
    for number, cost in asked:
        limit = (FIXED, SLIDING, bucket, FIXED)[number]
        run = clocked.plain if number == 3 else clocked.charge
        admitted += cost * run(START, [(key, limit, cost)])[0]
    assert admitted <= 7


def test_what_was_counted_is_told_in_the_terms_of_the_new_algorithm(clocked: Clocked) -> None:
    left = START + 4 * SECOND
    # A window that has begun after the one that is written: five of it count by three quarters.
    rolled = f"s{START - WINDOW - WINDOW // 4}:5:2"
    assert found(clocked, FIXED, rolled) == [4, 7500]
    assert found(clocked, FIXED, f"s{START - WINDOW // 2}:1:4") == [3, 5000]
    assert found(clocked, SLIDING, "5", left) == [5, 0, 6 * SECOND]
    assert found(clocked, GCRA, "5", left) == [5 * WINDOW // 7, 5 * WINDOW % 7]
    assert found(clocked, SMALL, "5", left) == [3 * WINDOW // 7, 3 * WINDOW % 7]
    assert found(clocked, FIXED, f"g{START + 2 * SECOND}:0") == [2, 2001]
    clocked.client.set(KEY, "5")
    assert found_as(clocked, SLIDING, START) == [5, 0, 0]
    # A clock that was set back: no window ends later than a new one would.
    assert found(clocked, SLIDING, "5", START + 3 * WINDOW) == [5, 0, 0]
    assert found(clocked, FIXED, "5", START + 3 * WINDOW) == [5, 10_000]
    assert found(clocked, SLIDING, f"s{START + WINDOW}:5:2") == [5, 2, 0]
    assert found(clocked, GCRA, f"g{START + 3 * WINDOW}:0") == [WINDOW, 0]
    # Parts of another rate are a whole microsecond.
    assert found(clocked, SLOW, f"g{START + SECOND}:2") == [SECOND, 2]
    assert found(clocked, SLOW, f"g{START + SECOND}:3") == [SECOND + 1, 0]


@pytest.mark.parametrize("limit", [FIXED, SLIDING, GCRA, SMALL], ids=str)
@pytest.mark.parametrize("value", ["7", f"s{START}:7:0", f"g{START + WINDOW}:0"])
def test_a_look_writes_nothing_and_a_refusal_only_what_it_has_converted(
    clocked: Clocked, limit: Limit, value: str
) -> None:
    ends = START + WINDOW
    put(clocked, value, ends=ends)
    before = clocked.client.dump(KEY)
    clocked.charge(START, [(KEY, limit, 0)])
    assert clocked.client.dump(KEY) == before
    assert clocked.client.pexpiretime(KEY) == ends // 1000
    assert clocked.charge(START, [(KEY, limit, 1)])[0] == 0
    after = clocked.client.dump(KEY)
    assert clocked.charge(START + 1, [(KEY, limit, 1)])[0] == 0
    assert clocked.client.dump(KEY) == after
    expected = {"fixed": b"7", "sliding": b"s", "gcra": b"g"}[limit.algorithm]
    stored: Any = clocked.client.get(KEY)
    assert stored.startswith(expected)


@pytest.mark.parametrize("letters", ["ff", "fF", "plain"])
def test_a_window_without_an_end_is_given_one_whoever_asks(clocked: Clocked, letters: str) -> None:
    other = "ratelimit:user:b:10"
    clocked.client.set(KEY, "2")
    charged = [(KEY, FIXED, 1), (other, FIXED, 1)]
    if letters == "plain":
        clocked.plain(START, charged)
    else:
        clocked.charge(START, charged, letters)
    for key, used in ((KEY, b"3"), (other, b"1")):
        assert clocked.client.get(key) == used
        assert clocked.client.pexpiretime(key) == (START + WINDOW) // 1000


def test_a_state_lives_exactly_as_long_as_it_counts(clocked: Clocked) -> None:
    for limit, letter, ends in (
        (FIXED, "f", START + WINDOW),
        (FIXED, "F", START + WINDOW),
        (SLIDING, "s", START + 2 * WINDOW),
        (GCRA, "g", START + 1_429_000),
    ):
        clocked.client.delete(KEY)
        clocked.charge(START, [(KEY, limit, 1)], letter)
        assert clocked.client.pexpiretime(KEY) == ends // 1000, letter
        clocked.charge(START, [(KEY, limit, 1)], letter)
        later = START + 2_858_000 if limit is GCRA else ends
        assert clocked.client.pexpiretime(KEY) == later // 1000, letter
    # A sliding window keeps its beginning.
    clocked.client.delete(KEY)
    for gone in (0, 3, 6):
        clocked.charge(START + gone * SECOND, [(KEY, SLIDING, 1)])
        assert clocked.client.get(KEY) == f"s{START}:{gone // 3 + 1}:0".encode()


BROKEN = [
    *("-100", "1e3", "0x10", " 7 ", "nan", "inf", "1.5", "007", "", "9007199254740993", "9" * 20),
    *(
        "s1:2",
        f"s{'9' * 20}:0:0",
        f"s1:{'9' * 20}:0",
        f"g{'9' * 20}:0",
        f"g1:0:{'9' * 20}:{START + 1}",
    ),
]


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("limit", [FIXED, SLIDING, GCRA], ids=str)
def test_what_is_no_state_is_an_error_before_anything_is_charged(
    clocked: Clocked, limit: Limit, value: str
) -> None:
    other = "ratelimit:user:b:10"
    put(clocked, value, key=other)
    runs = [clocked.charge, clocked.plain] if limit is FIXED else [clocked.charge]
    for run in runs:
        with pytest.raises(valkey.ResponseError, match=f"{other} holds no state of a limit"):
            run(START, [(KEY, limit, 1), (other, limit, 1)])
    assert clocked.client.exists(KEY) == 0
    assert clocked.client.get(other) == value.encode()


@pytest.mark.parametrize("limit", [FIXED, SLIDING, GCRA], ids=str)
def test_a_key_of_another_type_is_an_error_before_anything_is_charged(
    clocked: Clocked, limit: Limit
) -> None:
    other = "ratelimit:user:b:10"
    clocked.client.rpush(other, "x")
    clocked.client.expire(other, 60)
    runs = [clocked.charge, clocked.plain] if limit is FIXED else [clocked.charge]
    for run in runs:
        with pytest.raises(valkey.ResponseError, match="holds no state of a limit"):
            run(START, [(KEY, limit, 1), (other, limit, 1)])
    assert clocked.client.exists(KEY) == 0
    assert clocked.client.type(other) == b"list"


@pytest.mark.parametrize("limit", [FIXED, SLIDING, GCRA], ids=str)
def test_a_refund_keeps_the_window_and_knows_it_when_it_has_passed(
    clocked: Clocked, limit: Limit
) -> None:
    reply = clocked.charge(START, [(KEY, limit, 2)])
    clocked.charge(START, [(KEY, limit, 1)])
    later = START + SECOND
    assert clocked.refund(later, (KEY, limit, 2), reply) == 1
    state = clocked.charge(later, [(KEY, limit, 0)])[2:]
    if limit is FIXED:
        assert state == [1, 9000]
    elif limit is SLIDING:
        assert state == [1, 0, SECOND]
        assert clocked.client.pexpiretime(KEY) == (START + 2 * WINDOW) // 1000
    else:
        # Without the two, the one would have come when the bucket was empty for a second already.
        assert sum(state) <= 3 * WINDOW // 7
        assert state[0] >= 3 * WINDOW // 7 - SECOND - (2 * WINDOW // 7 - SECOND)
    clocked.client.delete(KEY)
    reply = clocked.charge(START, [(KEY, limit, 2)])
    clocked.charge(START + WINDOW, [(KEY, limit, 1)])
    given = clocked.refund(START + WINDOW + SECOND, (KEY, limit, 2), reply)
    state = clocked.charge(START + WINDOW + SECOND, [(KEY, limit, 0)])[2:]
    if limit is SLIDING:
        assert (given, state) == (1, [1, 0, SECOND])
    else:
        assert given == 0


def test_a_plain_charge_is_refunded(clocked: Clocked) -> None:
    reply = clocked.plain(START, [(KEY, FIXED, 2)])
    assert clocked.refund(START + SECOND, (KEY, FIXED, 2), reply) == 1
    assert clocked.client.get(KEY) == b"0"
    assert clocked.plain(START + SECOND, [(KEY, FIXED, 7)])[2:] == [7, 9000]


def test_a_refund_of_a_bucket_gives_back_no_more_than_it_still_holds(clocked: Clocked) -> None:
    reply = clocked.charge(START, [(KEY, GCRA, 1)])
    # It has drained since; what came later is not its own.
    clocked.charge(START + SECOND, [(KEY, GCRA, 3)])
    clocked.refund(START + SECOND, (KEY, GCRA, 1), reply)
    ahead = clocked.charge(START + SECOND, [(KEY, GCRA, 0)])[2]
    assert ahead >= 3 * WINDOW // 7 - 1


def test_a_refund_leaves_what_stands_behind_a_bucket(clocked: Clocked) -> None:
    put(clocked, "5", ends=START + WINDOW)
    clocked.charge(START, [(KEY, SMALL, 1)])
    later = START + 6 * SECOND
    reply = clocked.charge(later, [(KEY, SMALL, 1)])
    assert clocked.refund(later, (KEY, SMALL, 1), reply) == 1
    assert found_as(clocked, FIXED, later) == [6, 4000]
    assert clocked.client.pexpiretime(KEY) == (START + WINDOW) // 1000


def found_as(clocked: Clocked, limit: Limit, now: int) -> Any:
    return clocked.charge(now, [(KEY, limit, 0)])[2:]


def test_the_plain_functions_know_a_clock_that_is_set_back() -> None:
    """The local limiter's clock never is; they are the model of the scripts."""
    from sark.ratelimit.algorithms import State

    assert figure_of(FIXED, State((START + 3 * WINDOW) // 1000, 5), START) == (5, 10_000)
    assert figure_of(SLIDING, State(START + WINDOW, 5, 2), START) == (5, 2, 0)
    assert figure_of(GCRA, State(START + 3 * WINDOW, 0), START) == (WINDOW, 0)
