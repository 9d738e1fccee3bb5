"""The benchmark's arithmetic and the form of what it writes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cases import Case
from benchmarks.measure import (
    BenchmarkError,
    Sample,
    in_order,
    no_collection,
    on_one_core,
    one_after_the_other,
    percentile,
    ratios,
    several_at_once,
)
from benchmarks.results import Result, goals, reduce, write
from benchmarks.workload import read_requests

MEMBERS = {"case", "metric", "value", "unit", "baseline", "ratio"}


async def never() -> Sample:
    raise AssertionError


def sample(*microseconds: int) -> Sample:
    latencies = [us * 1000 for us in microseconds]
    return Sample(latencies, sum(latencies))


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7], 0.99, 7),
        ([3, 1, 2], 0.5, 2),
        ([1, 2, 3, 4], 0.5, 2.5),
        (range(101), 0.95, 95),
        ([10, 20], 0.25, 12.5),
        ([1, 2, 3], 1.0, 3),
        ([1, 2, 3], 0.0, 1),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


@given(st.lists(st.integers(0, 10**12), min_size=1), st.floats(0, 1))
def test_a_percentile_lies_between_the_extremes_and_the_half_is_the_median(
    values: list[int], share: float
) -> None:
    assert min(values) <= percentile(values, share) <= max(values)
    assert percentile(values, 0.5) == pytest.approx(median(values))


def test_ratios_are_taken_within_a_round() -> None:
    # The second round was ten times slower for both: the ratio doesn't know.
    ours, theirs = [sample(30), sample(300)], [sample(20), sample(200)]
    assert ratios(ours, theirs, lambda s: s.latency(0.5)) == [1.5, 1.5]


def test_ratios_of_different_numbers_of_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratios([sample(1)], [sample(1), sample(2)], lambda s: s.latency(0.5))


def test_each_round_has_every_case_and_each_case_begins_and_ends_equally_often() -> None:
    cases = list("abcd")
    rounds = [in_order(cases, number) for number in range(2 * len(cases))]
    assert all(sorted(order) == cases for order in rounds)
    for end in (0, -1):
        places = [order[end] for order in rounds]
        assert {case: places.count(case) for case in cases} == dict.fromkeys(cases, 2)


async def test_a_lone_caller_is_timed_call_by_call() -> None:
    seen: list[int] = []

    async def operation(number: int) -> bool:
        seen.append(number)
        await asyncio.sleep(0.002)
        return True

    timed = await one_after_the_other(operation, 3, first=10, accept=bool)
    assert seen == [10, 11, 12]
    assert all(latency >= 2_000_000 for latency in timed.latencies)
    assert timed.elapsed == sum(timed.latencies)


async def test_several_callers_share_the_calls() -> None:
    running = most = 0

    async def operation(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number

    timed = await several_at_once(operation, 20, callers=5, first=1, accept=bool)
    assert most == 5
    assert len(timed.latencies) == 20
    assert timed.elapsed < sum(timed.latencies)
    assert timed.per_second == pytest.approx(20 / (timed.elapsed / 1e9))


async def test_what_was_not_meant_to_be_measured_is_an_error() -> None:
    async def miss(_: int) -> None:
        return None

    with pytest.raises(BenchmarkError, match="unexpected result: None"):
        await one_after_the_other(miss, 1, first=0, accept=bool)
    with pytest.raises(BenchmarkError, match="unexpected result: None"):
        await several_at_once(miss, 9, callers=3, first=0, accept=bool)


def test_garbage_is_collected_again_afterwards() -> None:
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no processes")
def test_pinning_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with on_one_core(os.getpid()) as pinned:
        assert pinned
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_without_a_server_nothing_is_pinned() -> None:
    with on_one_core(None) as pinned:
        assert not pinned


def test_a_row_per_metric_and_baseline() -> None:
    cases = [
        Case("base", never),
        Case("other", never, concurrent=True),
        Case("ours", never, ("base", "other", "not measured"), concurrent=True),
    ]
    samples = {
        "base": [sample(10, 10), sample(100, 100)],
        "other": [sample(20, 20), sample(200, 200)],
        "ours": [sample(15, 15), sample(150, 150)],
    }
    rows = reduce(cases, samples)
    found = {(row.case, row.metric, row.baseline): (row.value, row.unit, row.ratio) for row in rows}
    assert len(found) == len(rows) == 3 + 4 + 2 * 4
    assert found["base", "p50", None] == (55.0, "us", None)
    assert found["ours", "p50", "base"] == (82.5, "us", 1.5)
    assert found["ours", "p99", "other"] == (150.0, "us", 0.75)
    assert found["ours", "requests_per_second", "base"][1:] == ("1/s", 0.667)


def test_the_file_is_a_list_of_objects_with_exactly_these_members(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    rows = [
        Result("driver GET", "p50", 57.1, "us", None, None),
        Result("cached decision", "p50", 57.6, "us", "driver GET", 1.01),
    ]
    write(rows, path)
    read = json.loads(path.read_text())
    assert [set(row) for row in read] == [MEMBERS, MEMBERS]
    assert read[0] | {"baseline": None, "ratio": None} == read[0]
    assert read[1]["ratio"] == 1.01


@pytest.mark.parametrize(("ratio", "verdict"), [(1.5, "PASS"), (1.501, "FAIL"), (None, "-")])
def test_the_goal_for_a_cached_decision(ratio: float | None, verdict: str) -> None:
    rows = [Result("cached decision", "p50", 60.0, "us", "driver GET", ratio)]
    assert goals(rows)[0].verdict == verdict


def test_the_goals_of_the_guide() -> None:
    rows = [
        Result("driver GET", "p95", 999.0, "us", None, None),
        Result("cached decision", "p95", 1001.0, "us", "driver GET", 1.0),
        Result("driver SET", "p95", 1999.0, "us", None, None),
        Result("stored decision", "p95", 2001.0, "us", "driver SET", 1.0),
    ]
    verdicts = [goal.verdict for goal in goals(rows)]
    assert verdicts[:6] == ["-", "-", "PASS", "FAIL", "PASS", "FAIL"]
    assert set(verdicts[6:]) == {"-"}


@pytest.mark.parametrize(("ratio", "verdict"), [(0.85, "PASS"), (0.849, "FAIL")])
def test_a_goal_may_be_a_least_figure(ratio: float, verdict: str) -> None:
    case, baseline = "decide, Valkey hit, 50 callers", "driver MGET, 50 callers"
    rows = [Result(case, "requests_per_second", 9.0, "1/s", baseline, ratio)]
    assert [goal.verdict for goal in goals(rows) if goal.value is not None] == [verdict]


def test_the_longest_wait_of_many_callers_is_compared_with_the_median() -> None:
    name = "ours, 50 callers"
    rounds = [sample(10, 10, 20), sample(10, 10, 40), sample(10, 10, 900)]
    rows = reduce([Case(name, never, concurrent=True)], {name: rounds})
    assert [row.value for row in rows if row.metric == "slowest_to_median"] == [4.0]


def test_the_sample_requests_name_three_identities_and_ask_each_question_once() -> None:
    requests = read_requests()
    assert all(request.ip and request.api_key_id for request in requests)
    asked = [(r.user_id, r.action, r.resource, json.dumps(r.context)) for r in requests]
    assert len(set(asked)) == len(asked) > 356
