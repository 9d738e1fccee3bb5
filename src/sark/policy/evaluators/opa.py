"""OPA over its REST API: the evaluator for production.

One evaluation is ``POST {OPA_URL}/v1/data/sark/{policy}/decision?provenance=true``. Each answer
carries the revisions of the bundles that it was decided under, so an evaluation knows its own
revision even while OPA activates another; see docs/opa.md.

Sources: OPA's REST API reference ("Data API", "Health API", "Provenance"), and for the order of
revision and decision within one transaction its HTTP server, ``v1/server/server.go``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from sark.errors import ConfigurationError, EvaluationError, EvaluatorBusyError
from sark.events import EvaluatorBreakerChanged, EvaluatorQueued, Hub
from sark.policy.evaluators.base import Evaluation
from sark.policy.evaluators.opa_answers import (
    PENDING_REVISION,
    OpaAnswer,
    OpaAnswerError,
    OpaReply,
    RevisionTracker,
    read_answer,
    read_health,
)
from sark.policy.evaluators.opa_breaker import Breaker, BreakerState, Permit
from sark.policy.evaluators.opa_line import Line
from sark.policy.evaluators.opa_transport import OpaEndpoint, OpaTransport, OpaUnreachableError
from sark.store import Deadline

__all__ = ["OpaHttp", "RevisionChanged"]

RevisionChanged = Callable[[str, str], None]
"""Called with the old and the new revision; must not block."""

DEFAULT_TIMEOUT_SECONDS = 1.0
DEFAULT_QUEUE_SECONDS = 5.0
DEFAULT_CONCURRENT = 50
# For health and revision, which must be told just when evaluations queue.
CHECK_CONNECTIONS = 2
MOST_RETRIES = 4
FIRST_RETRY_SECONDS = 0.025
HEALTH_PATH = "/health?bundles=true"
# A document that no policy can define, since policies' names begin with a letter: it is undefined,
# so OPA evaluates nothing, and has the form of all other queries for OPA's own authorization.
REVISION_PATH = "/v1/data/sark/_revision/decision?provenance=true"
REVISION_QUERY = b'{"input":{}}'
# Refusals of now, from a proxy; they don't say that the URL is wrong.
PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})

_log = logging.getLogger("sark.policy.opa")


class _Received(NamedTuple):
    """A reply and when its request left, on the loop's clock in seconds."""

    reply: OpaReply
    sent_at: float


class OpaHttp:
    """Evaluates policies with OPA. Safe to share between tasks of one event loop.

    Args:
        endpoint: Where OPA is.
        timeout: Seconds for one evaluation, retries included, from the moment that it is its turn.
        max_concurrent: Most evaluations under way at a time; the others wait in line.
        queue_timeout: Seconds that an evaluation waits in line at most.
        hub: Where changes of the breaker are reported.
        on_revision: Called when OPA's policies have changed.
    """

    def __init__(
        self,
        endpoint: OpaEndpoint,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_concurrent: int = DEFAULT_CONCURRENT,
        queue_timeout: float = DEFAULT_QUEUE_SECONDS,
        hub: Hub | None = None,
        on_revision: RevisionChanged | None = None,
    ) -> None:
        self._timeout = timeout
        self._url = endpoint.url
        self._queue_timeout = queue_timeout
        self._evaluations, self._checks = Line(max_concurrent), Line(CHECK_CONNECTIONS)
        # Never more requests than connections: waiting for one would count as OPA's time.
        self._transport = OpaTransport(endpoint, max_concurrent + CHECK_CONNECTIONS)
        self._breaker = Breaker()
        self._tracker = RevisionTracker()
        self._unusable = ""
        self._hub = hub or Hub()
        self._on_revision = on_revision

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def description(self) -> str:
        """Which engine this is."""
        return f"OPA, {self._url}"

    @property
    def revision(self) -> str:
        """Digest of the bundles in force, as far as known; see ``revision_of`` for its forms."""
        return self._tracker.revision

    @property
    def breaker(self) -> BreakerState:
        """Where the breaker stands."""
        return self._breaker.state

    @property
    def waiting(self) -> int:
        """How many evaluations wait for their turn."""
        return self._evaluations.waiting

    async def start(self) -> str | None:
        """Open the client, ask OPA once, and learn its revision.

        Returns:
            None when OPA answered; else why not. It is then asked again by ``watch``, ``ready``
            and every evaluation.

        Raises:
            ConfigurationError: The settings can't lead to OPA, or something else answers there.
        """
        self._transport.open()
        try:
            return await self._introduce()
        except BaseException:
            await self.close()
            raise

    async def evaluate(self, policy: str, input_json: bytes) -> Evaluation:
        """Evaluate ``data.sark.<policy>.decision``; see ``Evaluator``.

        Raises:
            EvaluatorBusyError: Its turn did not come in time. That says nothing about OPA.
            EvaluationError: OPA gave no decision within the timeout. Its text is short and holds
                neither the input nor credentials.
        """
        path = f"/v1/data/sark/{quote(policy, safe='')}/decision?provenance=true"
        async with self._turn():
            answer = await self._query(path, b'{"input":' + input_json + b"}")
        return Evaluation(answer.decision(policy), answer.revision, answer.decision_id)

    async def refresh(self) -> None:
        """Ask OPA for its revision.

        Raises:
            EvaluationError: It was not told.
        """
        async with self._checks.place(self._timeout):
            await self._query(REVISION_PATH, REVISION_QUERY)

    async def watch(self, interval: float) -> None:
        """Ask for the revision again and again, until cancelled.

        Certificates are read again when their files have changed. It also closes the breaker when
        no evaluation comes to probe.

        Args:
            interval: Seconds from one answer to the next question, jittered by a tenth.
        """
        while True:
            await asyncio.sleep(interval * random.uniform(0.9, 1.1))  # noqa: S311 - no cryptography
            await self.renew()
            with suppress(EvaluationError):
                await self.refresh()

    async def renew(self) -> None:
        """Read the certificates again if their files have changed; unusable ones are logged."""
        try:
            if await self._transport.renew():
                _log.info("the certificates for OPA were read again")
            self._unusable = ""
        except ConfigurationError as error:
            if str(error) != self._unusable:
                self._unusable = str(error)
                _log.warning("the earlier certificates for OPA stay in use: %s", error)

    async def ready(self) -> str | None:
        """Tell whether evaluations can be expected to succeed.

        Returns:
            None when OPA is healthy, with its bundles activated; else what is wrong.
        """
        try:
            async with asyncio.timeout(self._timeout), self._checks.place(self._timeout):
                reason = read_health(await self._transport.get(HEALTH_PATH))
            if reason is None and (self.breaker != "closed" or self.revision == PENDING_REVISION):
                await self.refresh()
        except TimeoutError:
            return self._too_late()
        except EvaluationError as error:
            return str(error)
        return reason

    async def close(self) -> None:
        """Close all connections; evaluations under way fail."""
        await self._transport.close()

    async def _introduce(self) -> str | None:
        try:
            await self.refresh()
        except OpaUnreachableError as error:
            if not error.is_transient:
                raise ConfigurationError(f"OPA_URL: {error}") from None
            return str(error)
        except OpaAnswerError as error:
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR and error.status not in PASSING:
                raise ConfigurationError(f"OPA_URL: {_advice(error)}") from None
            return str(error)
        except EvaluationError as error:
            return str(error)
        return None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait in line for an evaluation's turn; not at all while the breaker refuses anyway."""
        loop = asyncio.get_running_loop()
        line, came = self._evaluations, loop.time()
        if line.is_full and self._breaker.refuses(came):
            raise self._refusal(came)
        has_to_wait, served = line.is_full, False
        try:
            async with line.place(self._queue_timeout):
                served = True
                if has_to_wait:
                    self._hub.emit(EvaluatorQueued(loop.time() - came, served))
                yield
        except EvaluatorBusyError:
            if not served:
                self._hub.emit(EvaluatorQueued(loop.time() - came, served))
            raise

    async def _query(self, path: str, body: bytes) -> OpaAnswer:
        received = await self._call(lambda: self._transport.post(path, body))
        answer = read_answer(received.reply)
        self._learn(answer.revision, received.sent_at)
        return answer

    async def _call(self, send: Callable[[], Awaitable[OpaReply]]) -> _Received:
        """Send a request under the breaker and the deadline."""
        permit = self._admit()
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            with Deadline(deadline):
                received = await _persist(send, deadline, 0 if permit.is_probe else MOST_RETRIES)
        except TimeoutError:
            raise self._failed(permit, EvaluationError(self._too_late())) from None
        except OpaUnreachableError as error:
            raise self._failed(permit, error) from None
        except EvaluationError:
            self._succeeded(permit)
            raise
        except BaseException:
            if self._breaker.abandoned(permit):
                self._report()
            raise
        self._succeeded(permit)
        return received

    def _admit(self) -> Permit:
        now = asyncio.get_running_loop().time()
        permit = self._breaker.admit(now)
        if permit is None:
            raise self._refusal(now)
        if permit.is_probe:
            self._report()
        return permit

    def _refusal(self, now: float) -> EvaluationError:
        wait = self._breaker.wait(now)
        return EvaluationError(
            f"OPA failed repeatedly and is asked again in {wait:.1f} s; "
            f"last: {self._breaker.reason}"
        )

    def _succeeded(self, permit: Permit) -> None:
        if self._breaker.succeeded(permit):
            self._report()

    def _failed(self, permit: Permit, error: EvaluationError) -> EvaluationError:
        if self._breaker.failed(permit, asyncio.get_running_loop().time(), str(error)):
            self._report()
        return error

    def _report(self) -> None:
        self._hub.emit(EvaluatorBreakerChanged(self._breaker.state, self._breaker.reason))

    def _too_late(self) -> str:
        return f"OPA: no answer within {self._timeout:g} s"

    def _learn(self, revision: str, sent_at: float) -> None:
        old, now = self._tracker.revision, asyncio.get_running_loop().time()
        is_new = self._tracker.observe(revision, sent_at=sent_at, now=now)
        if not is_new or old == PENDING_REVISION or self._on_revision is None:
            return
        try:
            self._on_revision(old, revision)
        except Exception:  # noqa: BLE001 - an observer must not break what it observes
            _log.exception("the handler of a changed revision failed")


async def _persist(
    send: Callable[[], Awaitable[OpaReply]], deadline: float, retries: int
) -> _Received:
    """Send, and send again while OPA is away and a retry can still begin before the deadline."""
    loop = asyncio.get_running_loop()
    pauses = retry_pauses(retries)
    while True:
        sent_at = loop.time()
        try:
            return _Received(await send(), sent_at)
        except OpaUnreachableError as error:
            pause = next(pauses, None) if error.is_transient else None
            if pause is None or loop.time() + pause >= deadline:
                raise
        await asyncio.sleep(pause)


def retry_pauses(retries: int) -> Iterator[float]:
    """Seconds before each retry: doubling, each between half and all of it at random."""
    for attempt in range(retries):
        pause = FIRST_RETRY_SECONDS * 2**attempt
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is not cryptography


def _advice(error: OpaAnswerError) -> str:
    if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"{error}: it refuses OPA_TOKEN, the client certificate, or that neither is set"
    return f"{error}: expected the address of OPA's REST API"
