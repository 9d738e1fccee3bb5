"""A stampede: many tasks miss one decision at the same moment."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from time import perf_counter_ns

from benchmarks.measure import BenchmarkError, percentile
from benchmarks.results import Result
from benchmarks.study import Advance, Study, row
from benchmarks.workload import POLICIES
from sark import Settings, open_runtime
from sark.policy import Question
from sark.policy.evaluators import Evaluation, Evaluator

__all__ = ["stampede_study"]

TASKS = 1000


class _Counted:
    """An evaluator that counts what it is asked."""

    def __init__(self, inner: Evaluator) -> None:
        self._inner = inner
        self.evaluations = 0

    @property
    def description(self) -> str:
        return self._inner.description

    @property
    def revision(self) -> str:
        return self._inner.revision

    async def evaluate(self, policy: str, input_json: bytes) -> Evaluation:
        self.evaluations += 1
        return await self._inner.evaluate(policy, input_json)

    async def ready(self) -> str | None:
        return await self._inner.ready()

    async def close(self) -> None:
        await self._inner.close()


def stampede_study(rounds: int) -> Study:
    """Evaluations for 1,000 tasks that ask one question that is not cached."""

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        settings = Settings(data_dir=directory, policy_dir=POLICIES, request_budget_ms=5000)
        async with open_runtime(settings, ephemeral=True) as runtime:
            decisions = runtime.gateway.decisions
            decisions.evaluations.evaluator = counted = _Counted(decisions.evaluations.evaluator)
            policy = settings.policies[0]
            most, times, numbers = 0, [], count()
            for _ in range(rounds):
                name = f"server/stampede-{next(numbers)}"
                question = Question.ask(policy, "user-0017", "server:read", name)
                counted.evaluations = 0
                began = perf_counter_ns()
                outcomes = await asyncio.gather(*(decisions.decide(question) for _ in range(TASKS)))
                times.append(perf_counter_ns() - began)
                if len({outcome.allow for outcome in outcomes}) != 1:
                    raise BenchmarkError("tasks of one stampede got different answers")
                most = max(most, counted.evaluations)
                advance()
        case = f"stampede of {TASKS:,} tasks"
        return [
            row(case, "evaluations", most, "1"),
            row(case, "p50", percentile(times, 0.5) / 1e6, "ms"),
        ]

    return Study("Stampede", rounds, measure)
