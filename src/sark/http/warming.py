"""``POST /v1/cache/warm``: the service decides questions before they are asked.

The answer is a line of JSON for the state of things every quarter of a second, the last one with
``ended``. Closing the connection ends the warming.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from sark.errors import InvalidRequestError, StoreError
from sark.gateway import Gateway
from sark.gateway import Request as Asked
from sark.http.bodies import decode_body
from sark.http.problems import HttpError, Problem
from sark.http.service import Service, ServiceOf, require_admin
from sark.policy import Question
from sark.policy.warm_up import hot_questions
from sark.policy.warming import Unusable, WarmReport, warm

__all__ = ["WARM_PATH", "WarmProgress", "WarmRequest", "router"]

WARM_PATH = "/v1/cache/warm"
MAX_QUESTIONS = 1000
INTERVAL_SECONDS = 0.25
MAX_RATE = 100_000
MAX_TOLD = 20

router = APIRouter(tags=["operations"], dependencies=[Depends(require_admin)])
_encode = msgspec.json.Encoder().encode
_ADMIN: dict[str, Any] = {"security": [{"bearer": []}]}


class WarmRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to warm.

    Attributes:
        questions: Requests as for ``POST /v1/authorize``, at most 1,000; the log of the most asked
            when left out.
        limit: Most questions to take from the log.
        rate: Evaluations per second; ``SARK_WARM_RATE`` when left out.
    """

    questions: list[msgspec.Raw] | None = None
    limit: int | None = None
    rate: int | None = None

    def check(self) -> None:
        """Refuse what is out of bounds."""
        count = len(self.questions or ())
        if count > MAX_QUESTIONS:
            reason = f"got {count}, expected at most {MAX_QUESTIONS}"
            raise InvalidRequestError("questions", reason)
        if self.limit is not None and self.limit < 1:
            raise InvalidRequestError("limit", f"got {self.limit}, expected at least 1")
        if self.rate is not None and not 1 <= self.rate <= MAX_RATE:
            raise InvalidRequestError("rate", f"got {self.rate}, expected 1 to {MAX_RATE}")


class WarmProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is.

    Attributes:
        total: Questions to deal with.
        asked: Questions read so far.
        cached: Those that were cached validly, or asked just before.
        evaluated: Those that the policy engine decided.
        stored: Those of them that were stored.
        failed: Those without decision.
        foreign: Always 0 here: a service replaces what is not valid under its policies.
        skipped: Those that cannot be asked.
        seconds: How long it has taken.
        reason: Why it ended before all were dealt with; empty when it did not.
        unusable: The first of those that cannot be asked, with their number, from 0.
        ended: Whether this is the last line.
    """

    total: int
    asked: int
    cached: int
    evaluated: int
    stored: int
    failed: int
    foreign: int
    skipped: int
    seconds: float
    reason: str
    unusable: list[Unusable]
    ended: bool


_decode = msgspec.json.Decoder(WarmRequest).decode
_decode_question = msgspec.json.Decoder(Asked).decode


@router.post(WARM_PATH, openapi_extra=_ADMIN)
async def warm_cache(request: Request, service: ServiceOf) -> Response:
    """Decide and store what is not cached; lines of JSON tell the progress, the last the result."""
    asked = await decode_body(request, _decode)
    asked.check()
    if service.warming:
        problem = Problem(
            "urn:sark:problem:warming", "The cache is being warmed", 409, retry_after=1
        )
        raise HttpError(problem)
    gateway = service.runtime.gateway
    questions: Iterator[Question | Unusable]
    if asked.questions is None:
        members = await service.runtime.hot.read(asked.limit)
        total, questions = len(members), hot_questions(members, gateway.decisions, gateway.policies)
    else:
        taken = asked.questions[: asked.limit]
        total, questions = len(taken), _read(taken, gateway)
    rate = asked.rate or service.runtime.settings.warm_rate
    lines = _Warming(service, total, rate).run(questions)
    return StreamingResponse(lines, media_type="application/x-ndjson")


def _read(questions: Sequence[msgspec.Raw], gateway: Gateway) -> Iterator[Question | Unusable]:
    """Read requests as their questions, cut for their policies as real ones are."""
    for number, raw in enumerate(questions):
        try:
            question, _ = gateway.check(_decode_question(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield Unusable(str(number), str(error))
        except InvalidRequestError as error:
            yield Unusable(str(number), str(error))
        else:
            yield question


class _Warming:
    """One answer."""

    def __init__(self, service: Service, total: int, rate: int) -> None:
        self._service = service
        self._total = total
        self._rate = rate
        self._report = WarmReport()
        self._unusable: list[Unusable] = []

    async def run(self, questions: Iterator[Question | Unusable]) -> AsyncIterator[bytes]:
        """Warm, and tell the progress until it ends."""
        if self._service.warming:  # since this request was looked at
            yield self._line("the cache is being warmed by another", ended=True)
            return
        task = asyncio.create_task(self._warm(questions), name="sark-warm")
        self._service.warming.add(task)
        task.add_done_callback(self._service.warming.discard)
        try:
            while not (await asyncio.wait({task}, timeout=INTERVAL_SECONDS))[0]:
                yield self._line("")
            yield self._line(task.result(), ended=True)
        finally:
            # What is under way is then stored; nothing more begins.
            task.cancel()

    async def _warm(self, questions: Iterator[Question | Unusable]) -> str:
        decisions = self._service.runtime.gateway.decisions
        try:
            report = await warm(
                decisions, self._noted(questions), rate=self._rate, on_progress=self._note
            )
        except StoreError as error:
            return str(error)
        self._report = report
        return report.reason

    def _note(self, report: WarmReport) -> None:
        self._report = report

    def _noted(self, questions: Iterator[Question | Unusable]) -> Iterator[Question | Unusable]:
        for item in questions:
            if isinstance(item, Unusable) and len(self._unusable) < MAX_TOLD:
                self._unusable.append(item)
            yield item

    def _line(self, reason: str, *, ended: bool = False) -> bytes:
        told = asdict(self._report) | {"reason": reason}
        progress = WarmProgress(
            **told, total=self._total, unusable=self._unusable if ended else [], ended=ended
        )
        return _encode(progress) + b"\n"
