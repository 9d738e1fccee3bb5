"""The calls that are timed in this process.

Each returns the awaitable of the thing itself, so that no layer of the benchmark's own is timed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Self

from valkey.asyncio import Valkey

from benchmarks.driver import Drivers
from benchmarks.measure import BenchmarkError, Operation
from benchmarks.workload import Workload
from sark.gateway import Request
from sark.policy import Decision, Question
from sark.policy.decision import decode_entry
from sark.policy.found import Found
from sark.runtime import Runtime

__all__ = ["Operations"]

SET_TTL_SECONDS = 3600
NEAR_SECONDS = 10.0


class Operations:
    """Calls of the library, and the driver's calls for the same keys and values.

    Build it with ``of``.

    Args:
        runtime: What is measured.
        near: The same with a near cache.
        drivers: What it is compared with, connected to the same server.
        workload: What is asked.
        found: The first hit, looked up.
        value: What the server holds of it.
        with_tokens: The hits with access tokens.
        checks: Of each of them the index, the session's id, its hash and its token's key.
    """

    def __init__(
        self,
        runtime: Runtime,
        near: Runtime,
        drivers: Drivers,
        workload: Workload,
        *,
        found: Found,
        value: bytes,
        with_tokens: Sequence[Request],
        checks: Sequence[Sequence[str]],
    ) -> None:
        self.drivers = drivers
        self._runtime = runtime
        self._near = near
        self._workload = workload
        self._cache = runtime.gateway.decisions.cache
        self._revision = runtime.gateway.decisions.revision
        self._questions = [workload.question(request) for request in workload.hits]
        self._asked = workload.asked()
        self._with_tokens = with_tokens
        self._tokens = [request.access_token or "" for request in with_tokens]
        self._checks = checks
        self._decision_keys = [self._cache.decision_key(q) for q in self._questions]
        self._lookup_keys = [
            [*self._cache.generation_keys(q), key]
            for q, key in zip(self._questions, self._decision_keys, strict=True)
        ]
        missed = [workload.question(request) for request in workload.misses]
        self._missed_keys = [self._cache.decision_key(q) for q in missed]
        # Written without effect on the hits: other questions, other keys of the same length.
        self._written_questions = [
            Question.ask("written", q.user_id, q.action, q.user_id) for q in self._questions
        ]
        self._written_keys = [
            f"benchmark:{n:0{len(key) - len('benchmark:')}}"
            for n, key in enumerate(self._decision_keys)
        ]
        self._value = value
        self._stamp = found.stamp
        entry = decode_entry(value)
        if entry is None:
            raise BenchmarkError(f"not a cached decision: {value!r}")
        self._decision = Decision(entry.allow, entry.reason)

    @classmethod
    async def of(
        cls, runtime: Runtime, near: Runtime, drivers: Drivers, workload: Workload
    ) -> Self:
        """Read a cached decision, so that the driver writes what the library writes."""
        cache = runtime.gateway.decisions.cache
        question = workload.question(workload.hits[0])
        found = await cache.get(question, runtime.gateway.decisions.revision)
        value: bytes = await drivers.lean.get(cache.decision_key(question))
        with_tokens, checks = await workload.with_tokens(runtime), []
        names = runtime.store.keys
        for request in with_tokens:
            claims = await runtime.sessions.authenticate(request.access_token or "")
            user, session = claims.user_id, claims.session_id
            checks.append(
                (
                    names.session_index(user),
                    session,
                    names.session_user(user, session),
                    names.session_token(user, claims.jti),
                )
            )
        return cls(
            runtime,
            near,
            drivers,
            workload,
            found=found,
            value=value,
            with_tokens=with_tokens,
            checks=checks,
        )

    @property
    def value_bytes(self) -> int:
        """Size of a cached decision."""
        return len(self._value)

    def get(self, client: Valkey) -> Operation:
        """Read a decision's key with the driver."""
        keys = self._decision_keys
        return lambda i: client.get(keys[i % len(keys)])

    def set(self, client: Valkey) -> Operation:
        """Write a decision's value with the driver, with a life as decisions have."""
        keys, value = self._written_keys, self._value
        return lambda i: client.set(keys[i % len(keys)], value, ex=SET_TTL_SECONDS)

    def mget(self, client: Valkey) -> Operation:
        """Read the four keys of a look-up with the driver: three generations and a decision."""
        keys = self._lookup_keys
        return lambda i: client.mget(keys[i % len(keys)])

    def session_pipeline(self, client: Valkey) -> Operation:
        """Send the commands of a session's check with the driver, in one pipeline."""
        checks = self._checks

        def send(i: int) -> Awaitable[Any]:
            index, session, fields, token = checks[i % len(checks)]
            pipe = client.pipeline(transaction=False)
            pipe.zscore(index, session)
            pipe.hmget(fields, ["last_seen", "expires_at", "network", "agent"])
            pipe.get(token)
            return pipe.execute()

        return send

    def session_check(self, i: int) -> Awaitable[Any]:
        """Accept an access token that has been verified before: its session alone."""
        return self._runtime.sessions.authenticate(self._tokens[i % len(self._tokens)])

    def authorize_with_token(self, i: int) -> Awaitable[Any]:
        """Answer a request with an access token from the cache."""
        return self._runtime.authorize(self._with_tokens[i % len(self._with_tokens)])

    def cached_decision(self, i: int) -> Awaitable[Any]:
        """Look a cached decision up, and judge it."""
        return self._cache.get(self._questions[i % len(self._questions)], self._revision)

    def decide(self, i: int) -> Awaitable[Any]:
        """Derive the key of a question and decide it, without a near cache."""
        return self._runtime.gateway.decisions.decide(
            Question.ask(*self._asked[i % len(self._asked)])
        )

    def decide_near(self, i: int) -> Awaitable[Any]:
        """Derive the key of a question and decide it from the near cache."""
        return self._near.gateway.decisions.decide(Question.ask(*self._asked[i % len(self._asked)]))

    async def fill_near(self) -> None:
        """See to it that the near cache serves and holds every hit.

        Raises:
            BenchmarkError: It doesn't.
        """
        decisions = self._near.gateway.decisions
        assert decisions.near is not None  # noqa: S101 - it was opened with one
        async with asyncio.timeout(NEAR_SECONDS):
            while not decisions.near.serving:  # noqa: ASYNC110 - it tells nobody else
                await asyncio.sleep(0.01)
        for _ in range(2):
            sources = {(await self.decide_near(i)).source for i in range(len(self._asked))}
        if sources != {"near"}:
            raise BenchmarkError(f"the near cache does not hold every hit: {sorted(sources)}")

    async def decisions(self) -> list[tuple[Any, dict[str, Any]]]:
        """Read every hit's decision as plain data, with what is asked."""
        found = []
        for question, asked in zip(self._questions, self._asked, strict=True):
            outcome = await self._runtime.gateway.decisions.decide(question)
            found.append((asked, {"allow": outcome.allow, "reason": outcome.reason}))
        return found

    def stored_decision(self, i: int) -> Awaitable[Any]:
        """Store a decision."""
        question = self._written_questions[i % len(self._written_questions)]
        return self._cache.put(question, self._decision, self._stamp)

    def authorize(self, i: int) -> Awaitable[Any]:
        """Answer a request from the cache: limits, decision, audit event."""
        return self._runtime.authorize(self._workload.hits[i % len(self._workload.hits)])

    def authorize_near(self, i: int) -> Awaitable[Any]:
        """Answer a request whose decision is near: limits, generations, audit event."""
        return self._near.authorize(self._workload.hits[i % len(self._workload.hits)])

    def authorize_missed(self, i: int) -> Awaitable[Any]:
        """Answer a request whose decision ``forget`` removed."""
        return self._runtime.authorize(self._workload.misses[i % len(self._workload.misses)])

    async def forget(self) -> None:
        """Remove the decisions of the misses."""
        await self.drivers.lean.unlink(*self._missed_keys)

    async def drain(self) -> None:
        """Empty the audit queue, which is bounded."""
        await self._runtime.gateway.queue.purge()
        await self._near.gateway.queue.purge()
