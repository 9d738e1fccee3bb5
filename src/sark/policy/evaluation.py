"""Evaluations: one at a time for a question, whoever asks.

When many requests miss the same decision at once, one evaluation serves them all. It runs in a task
of its own: a caller who is cancelled, the first one included, takes nothing away from the others.
Only callers who read the same stamp may share, so nobody joins an evaluation that began before a
revocation that they have already seen; the same holds for a decision that was withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Literal

import msgspec

from sark.errors import EvaluationError, EvaluatorBusyError
from sark.events import EvaluationEnded, EvaluationFailed, Hub
from sark.policy.decision import Decision
from sark.policy.evaluators import Evaluator
from sark.policy.question import Question

__all__ = [
    "REASON_BUSY",
    "REASON_EVALUATION_FAILED",
    "REASON_UNDEFINED",
    "Evaluated",
    "Evaluations",
    "Flight",
]

# The policy engine was not asked: too many evaluations were before this one.
REASON_BUSY = "busy"
REASON_UNDEFINED = "undefined"
REASON_EVALUATION_FAILED = "evaluation_failed"
MOST_AT_ONCE = 50


class Evaluated(msgspec.Struct, frozen=True):
    """What became of an evaluation.

    Attributes:
        allow: The decision; False when there is none.
        reason: The policy's reason, or why there is no decision.
        source: ``evaluated``, ``undefined`` or ``failed``.
        decision: The policy's own words; None when there are none.
        revision: The policies that it was evaluated under.
        engine_decision_id: The engine's own id of the decision; empty without one.
    """

    allow: bool
    reason: str
    source: Literal["evaluated", "undefined", "failed"]
    decision: Decision | None
    revision: str
    engine_decision_id: str = ""


Store = Callable[[Evaluated], Awaitable[int]]


class Flight:
    """An evaluation under way.

    Attributes:
        decided: Resolves to what came out of it.
        stored: Resolves to the seconds that the decision is kept; 0 when it is not.
    """

    __slots__ = ("decided", "stored", "task")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.decided: asyncio.Future[Evaluated] = loop.create_future()
        self.stored: asyncio.Future[int] = loop.create_future()
        self.task: asyncio.Task[None] | None = None

    async def decision(self) -> Evaluated:
        """Wait for the decision; a cancelled waiter leaves the evaluation alone."""
        return await asyncio.shield(self.decided)

    async def ttl(self) -> int:
        """Wait until the decision has been stored; seconds that it is kept."""
        return await asyncio.shield(self.stored)


class Evaluations:
    """Runs evaluations.

    Args:
        evaluator: The policy engine.
        timeout: Seconds for one evaluation, the wait for its turn included.
        hub: Where failures are reported.
        most_at_once: How many one caller should ask for at a time; more would only wait in the
            engine's line, before others who ask for one.
    """

    def __init__(
        self, evaluator: Evaluator, *, timeout: float, hub: Hub, most_at_once: int = MOST_AT_ONCE
    ) -> None:
        self.evaluator = evaluator
        self.most_at_once = most_at_once
        self._timeout = timeout
        self._hub = hub
        self._flights: dict[tuple[bytes, object], Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """How many evaluations run now."""
        return len(self._tasks)

    def join(self, question: Question, seen: object, store: Store) -> Flight:
        """Join the evaluation that callers who have seen the same share, or start it.

        Args:
            question: What to evaluate.
            seen: What the caller read from the server and demands; hashable.
            store: Keeps the decision, or what else came of it; called once per evaluation.
        """
        key = (question.key, seen)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = self.start(question, store)
            if flight.task is not None:
                flight.task.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight

    def start(self, question: Question, store: Store) -> Flight:
        """Start an evaluation that nobody else joins."""
        flight = Flight()
        flight.task = asyncio.create_task(self._fly(flight, question, store), name="sark-evaluate")
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return flight

    async def close(self) -> None:
        """Wait for the evaluations under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fly(self, flight: Flight, question: Question, store: Store) -> None:
        try:
            started = perf_counter()
            evaluated = await self._evaluate(question)
            seconds = perf_counter() - started
            self._hub.emit(EvaluationEnded(question.policy, evaluated.source, seconds))
            flight.decided.set_result(evaluated)
            flight.stored.set_result(await store(evaluated))
        except BaseException as error:
            for future in (flight.decided, flight.stored):
                if not future.done():
                    future.set_exception(error)
                    # Retrieved here, so that a failure nobody waits for is told once, by the task.
                    future.exception()
            raise

    async def _evaluate(self, question: Question) -> Evaluated:
        """Ask the engine; whatever goes wrong there is a denial that is not kept."""
        policy = question.policy
        revision = self.evaluator.revision
        try:
            async with asyncio.timeout(self._timeout):
                evaluation = await self.evaluator.evaluate(policy, question.input)
        except (EvaluationError, TimeoutError) as error:
            reason = str(error) or f"no decision within {self._timeout:g} s"
            self._hub.emit(EvaluationFailed(policy, reason))
            is_busy = isinstance(error, EvaluatorBusyError)
            return Evaluated(
                allow=False,
                reason=REASON_BUSY if is_busy else REASON_EVALUATION_FAILED,
                source="failed",
                decision=None,
                revision=revision,
            )
        decision = evaluation.decision
        return Evaluated(
            allow=decision.allow if decision else False,
            reason=decision.reason if decision else REASON_UNDEFINED,
            source="evaluated" if decision else "undefined",
            decision=decision,
            revision=evaluation.revision,
            engine_decision_id=evaluation.decision_id,
        )
