"""Warming up: what a service does at its start with the log of the most asked questions.

It happens in the background. Readiness waits for it only when the operator says so, and then for a
bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from sark.errors import InvalidRequestError, StoreError
from sark.events import Hub, Warmed
from sark.policy.decisions import Decisions
from sark.policy.hot import HotRequests, recall
from sark.policy.question import Question
from sark.policy.warming import Unusable, WarmReport, warm

__all__ = ["WarmUp", "hot_questions"]


class WarmUp:
    """Warms the cache from the hot log, once.

    Args:
        decisions: Looks up, decides and stores.
        hot: The log.
        policies: The names that are served.
        rate: Most evaluations per second.
        ready_within: Seconds that readiness waits for the end, at most; 0: not at all.
        hub: Where the outcome is reported.
    """

    def __init__(
        self,
        decisions: Decisions,
        hot: HotRequests,
        *,
        policies: Sequence[str],
        rate: float,
        ready_within: float,
        hub: Hub,
    ) -> None:
        self._decisions = decisions
        self._hot = hot
        self._policies = tuple(policies)
        self._rate = rate
        self._ready_within = ready_within
        self._hub = hub
        self._report = WarmReport()
        self._ready_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def holds_readiness(self) -> bool:
        """Whether the service should not be called ready yet."""
        task = self._task
        if task is None or task.done():
            return False
        return asyncio.get_running_loop().time() < self._ready_at

    @property
    def state(self) -> str:
        """What it is doing, for people."""
        if self._task is None:
            return "not asked for"
        return f"{'ended' if self._task.done() else 'under way'}, {self._report.done} questions"

    def start(self) -> None:
        """Begin in the background; ``close`` ends it."""
        self._ready_at = asyncio.get_running_loop().time() + self._ready_within
        self._task = asyncio.create_task(self._run(), name="sark-warm-up")

    async def close(self) -> None:
        """Stop; waits for the evaluations under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        reason = ""
        try:
            members = await self._hot.read()
            questions = hot_questions(members, self._decisions, self._policies)
            await warm(self._decisions, questions, rate=self._rate, on_progress=self._note)
        except StoreError as error:
            reason = str(error)
        report = self._report
        self._hub.emit(
            Warmed(
                cached=report.cached,
                evaluated=report.evaluated,
                stored=report.stored,
                failed=report.failed,
                skipped=report.skipped,
                seconds=report.seconds,
                reason=reason,
            )
        )

    def _note(self, report: WarmReport) -> None:
        self._report = report


def hot_questions(
    members: Iterable[bytes], decisions: Decisions, policies: Sequence[str]
) -> Iterator[Question | Unusable]:
    """Read the questions of the log.

    Args:
        members: As ``HotRequests.read`` returns them.
        decisions: Knows what each policy sees of a request.
        policies: The names that are served.
    """
    for number, member in enumerate(members, 1):
        try:
            yield recall(member, decisions.cache.rules, policies)
        except InvalidRequestError as error:
            yield Unusable(f"hot question {number}", str(error))
