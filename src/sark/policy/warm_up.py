"""Warming up: what a service does at its start with the log of the most asked questions.

It happens in the background. Readiness waits for it only when the operator says so, and then for a
bounded time. When the policy engine or a server is not there yet, or goes away meanwhile, it is
tried again, since just then warming is what is needed once they come.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence

from sark.errors import InvalidRequestError, StoreError
from sark.events import Hub, Warmed
from sark.policy.decisions import Decisions
from sark.policy.hot import HotRequests, recall
from sark.policy.question import Question
from sark.policy.warming import Unusable, WarmReport, warm

__all__ = ["WarmUp", "hot_questions"]

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class WarmUp:
    """Warms the cache from the hot log, once, as soon as it can be done.

    Args:
        decisions: Looks up, decides and stores.
        hot: The log.
        policies: The names that are served.
        rate: Most evaluations per second.
        ready_within: Seconds that readiness waits for the end, at most; 0: not at all.
        hub: Where the outcome is reported, and each new reason why it has to wait.
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
        self._waits = False
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
        doing = "waits to try again" if self._waits else "under way"
        return f"{'ended' if self._task.done() else doing}, {self._report.done} questions"

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
        pause, told = FIRST_PAUSE_SECONDS, ""
        while True:
            reason = await self._attempt()
            if not reason or reason != told:
                self._tell(reason)
            if not reason:
                return
            told = reason
            self._waits = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no cryptography
            self._waits = False
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _attempt(self) -> str:
        """Warm; returns why it could not be done to the end."""
        self._report = WarmReport()
        # Asked first: with an engine that is away every question would fail.
        reason = await self._decisions.evaluations.evaluator.ready()
        if reason is not None:
            return reason
        try:
            members = await self._hot.read()
            questions = hot_questions(members, self._decisions, self._policies)
            await warm(self._decisions, questions, rate=self._rate, on_progress=self._note)
        except StoreError as error:
            return str(error)
        return self._report.reason

    def _tell(self, reason: str) -> None:
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
