"""Warming: deciding questions before they are asked.

Whoever starts with an empty cache evaluates everything at once, just when everybody asks. Warming
asks ahead, at a rate that leaves the policy engine time for real requests. Questions that are
cached validly are left alone; look-ups travel a hundred at a time.

A warmed decision is made and stored as any other: its stamp is read before it is evaluated, so an
invalidation in between makes it a miss. Nobody is answered, so no limit is charged and nothing is
audited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from sark.policy.decisions import Decisions
from sark.policy.evaluation import Flight
from sark.policy.question import Question

__all__ = ["Pace", "Unusable", "WarmReport", "warm"]

BATCH = 100  # look-ups in one exchange
# So many failures in a row raise the question whether the engine is there at all.
FAILURES_TO_ASK = 3
NO_CACHE = "the cache server does not answer"
# A process that woke up late makes up for this much; a timer alone can't keep high rates.
BURST_SECONDS = 0.01


class Unusable(msgspec.Struct, frozen=True):
    """A question that cannot be asked.

    Attributes:
        place: Where it stands.
        reason: What is wrong with it.
    """

    place: str
    reason: str


@dataclass(slots=True)
class WarmReport:
    """What became of the questions.

    Attributes:
        asked: Questions read so far.
        cached: Those that were cached validly, or asked just before.
        evaluated: Those that the policy engine decided.
        stored: Those of them that were stored; the others may not be kept, or could not be.
        failed: Those without decision: the engine, or the cache server, did not answer.
        foreign: Those that are cached under another stamp, and were left so: revoked, or decided by
            other policies than this process has.
        skipped: Those that cannot be asked, or whose policy's decisions are never kept.
        seconds: How long it took.
        reason: Why it ended before all were dealt with; empty when it did not.
    """

    asked: int = 0
    cached: int = 0
    evaluated: int = 0
    stored: int = 0
    failed: int = 0
    foreign: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def done(self) -> int:
        """Questions that are dealt with."""
        return self.cached + self.evaluated + self.failed + self.foreign + self.skipped


Progress = Callable[[WarmReport], None]


class Pace:
    """Spreads turns evenly; time in which nobody took one is not saved up.

    Within any ``t`` seconds there are at most ``rate * (t + BURST_SECONDS) + 1`` turns.

    Args:
        rate: Turns per second.
        clock: Tells the time in seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._interval = 1 / rate
        self._clock = clock
        self._next = clock()

    def delay(self) -> float:
        """Take the next turn; seconds to wait for it."""
        now = self._clock()
        turn = max(self._next, now - BURST_SECONDS)
        self._next = turn + self._interval
        return max(0.0, turn - now)


async def warm(
    decisions: Decisions,
    questions: Iterable[Question | Unusable],
    *,
    rate: float,
    concurrency: int = 8,
    replace: bool = True,
    on_progress: Progress | None = None,
) -> WarmReport:
    """Evaluate and store what is not cached.

    May be cancelled at any point: no further evaluation begins, and those under way, which requests
    may have joined, are waited for (their deadline bounds that).

    A question that fails is left behind. When several fail in a row and the engine says that it is
    not ready, or when the cache server is away, the rest is given up: see ``WarmReport.reason``.

    Args:
        decisions: Looks up, decides and stores.
        questions: Read as they are needed.
        rate: Most evaluations per second.
        concurrency: Most evaluations at a time.
        replace: Whether to replace decisions that are not valid here. To be denied where they may
            be valid for others, who have other policies.
        on_progress: Given the report, always the same object, whenever it has changed.

    Raises:
        StoreError: The ``state`` server did not answer.
    """
    warming = _Warming(decisions, rate, concurrency, on_progress, replace=replace)
    source = iter(questions)
    try:
        # Few enough that what a look-up found is about a second old, at most, when it is used.
        size = max(1, min(BATCH, int(rate)))
        while not warming.report.reason and (batch := list(islice(source, size))):
            await warming.batch(batch)
            await asyncio.sleep(0)
        await warming.finish()
        await warming.ask_after_failures(1)
    finally:
        await warming.finish()
    return warming.report


class _Warming:
    """One call of ``warm``."""

    def __init__(
        self,
        decisions: Decisions,
        rate: float,
        concurrency: int,
        on_progress: Progress | None,
        *,
        replace: bool,
    ) -> None:
        self.report = WarmReport()
        self._decisions = decisions
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._pace = Pace(rate, self._loop.time)
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._replace = replace
        self._under_way: set[asyncio.Task[None]] = set()
        self._failed_in_a_row = 0

    async def batch(self, batch: Sequence[Question | Unusable]) -> None:
        """Look a batch up and evaluate what is missing."""
        report = self.report
        cacheable = self._decisions.cache.rules.cacheable
        asked = [i for i in batch if isinstance(i, Question) and cacheable(i.policy)]
        usable = {question.key: question for question in asked}
        report.asked += len(batch)
        report.skipped += len(batch) - len(asked)
        report.cached += len(asked) - len(usable)
        if usable:
            await self._warm(list(usable.values()))
        self._progress()

    async def _warm(self, questions: Sequence[Question]) -> None:
        decisions, report = self._decisions, self.report
        glances = [decisions.glance(question, use_entry=False) for question in questions]
        looked = await decisions.cache.get_many(questions, decisions.revision)
        missing = []
        if all(found.result == "unavailable" for found in looked):
            report.reason = NO_CACHE
        for question, glance, found in zip(questions, glances, looked, strict=True):
            if found.decision is not None:
                report.cached += 1
            elif found.result == "unavailable":
                # Nothing could be stored, so nothing is evaluated.
                report.failed += 1
            elif found.result != "absent" and not self._replace:
                report.foreign += 1
            else:
                missing.append((question, glance, found))
        self._progress()
        for question, glance, found in missing:
            await self._turn()
            await self.ask_after_failures(FAILURES_TO_ASK)
            if report.reason:
                return
            self._watch(decisions.fill(question, glance, found, replace=self._replace))

    async def ask_after_failures(self, count: int) -> None:
        """Ask the engine whether it is ready when the last ``count`` evaluations failed."""
        if self._failed_in_a_row < count or self.report.reason:
            return
        self._failed_in_a_row = 0
        # Ready: then it is the questions, or their policy.
        self.report.reason = await self._decisions.evaluations.evaluator.ready() or ""

    async def _turn(self) -> None:
        while len(self._under_way) >= self._concurrency:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        delay = self._pace.delay()
        if delay:
            await asyncio.sleep(delay)

    def _watch(self, flight: Flight) -> None:
        task = flight.task
        assert task is not None  # noqa: S101 - every flight that was started has one
        self._under_way.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._under_way.discard(task)
            self._count(flight)
            self._progress()

        task.add_done_callback(ended)

    def _count(self, flight: Flight) -> None:
        report, stored = self.report, flight.stored
        broken = not stored.done() or stored.exception() is not None
        if broken or flight.decided.result().source == "failed":
            report.failed += 1
            self._failed_in_a_row += 1
        else:
            self._failed_in_a_row = 0
            report.evaluated += 1
            report.stored += stored.result() > 0

    async def finish(self) -> None:
        """Wait for the evaluations under way."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._progress()

    def _progress(self) -> None:
        self.report.seconds = self._loop.time() - self._started
        if self._on_progress is not None:
            self._on_progress(self.report)
