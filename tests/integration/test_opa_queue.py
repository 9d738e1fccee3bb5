"""More evaluations at once than OPA is asked at a time: they wait in line, and that is all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from sark.batch import MAX_QUESTIONS, BatchQuestion, BatchRequest
from sark.errors import EvaluationError, EvaluatorBusyError
from sark.events import EvaluatorBreakerChanged, EvaluatorQueued, Hub
from sark.gateway import Request
from sark.ops.metrics import Metrics
from sark.policy.evaluators import opa_breaker
from sark.policy.evaluators.opa import OpaHttp
from sark.policy.evaluators.opa_transport import OpaEndpoint
from sark.runtime import Runtime, open_runtime
from sark.settings import ServerUrl, Settings
from tests.support.opa import Fault, OpaServer, slow
from tests.support.polling import until
from tests.support.servers import ValkeyServer

INPUT = b'{"action":"a","context":{},"resource":"r","user_id":"u"}'


@pytest.fixture
async def opa() -> AsyncIterator[OpaServer]:
    async with OpaServer() as server:
        yield server


def slow_evaluations(seconds: float) -> Fault:
    """Take long over decisions, and not over health and revision."""

    async def fault(request: web.Request) -> None:
        if request.path.startswith("/v1/data/sark/") and "_revision" not in request.path:
            await asyncio.sleep(seconds)

    return fault


@asynccontextmanager
async def opened(
    valkey: ValkeyServer, opa: OpaServer, folder: Path, hub: Hub, **settings: int
) -> AsyncIterator[Runtime]:
    given = Settings(
        valkey_url=ServerUrl(valkey.url),
        key_dir=folder,
        data_dir=folder / "data",
        opa_url=opa.url,
        policies=("full",),
        limit_per_minute=0,
        request_budget_ms=20_000,
        near_cache_entries=0,
        **settings,  # type: ignore[arg-type]
    )
    async with open_runtime(given, hub=hub) as runtime:
        yield runtime


def batch(count: int) -> BatchRequest:
    questions = [BatchQuestion(action="x:read", resource=f"r{n}") for n in range(count)]
    return BatchRequest(user_id="ann", questions=questions)


@pytest.mark.heavy
async def test_a_thousand_misses_on_a_slow_opa_are_all_decided(
    server: ValkeyServer, opa: OpaServer, tmp_path: Path
) -> None:
    """They take longer than one evaluation may, which each of them has for itself."""
    opa.always = slow(0.15)
    hub, changes = Hub(), list[EvaluatorBreakerChanged]()
    hub.on(EvaluatorBreakerChanged, changes.append)
    async with opened(server, opa, tmp_path, hub, evaluator_timeout_ms=2000) as runtime:
        answers = await runtime.authorize_many(batch(MAX_QUESTIONS))
        assert Counter(answer.reason for answer in answers) == {'é\n"': MAX_QUESTIONS}
        again = await runtime.authorize_many(batch(MAX_QUESTIONS))
        assert Counter(answer.cached for answer in again) == {"valkey": MAX_QUESTIONS}
    assert changes == []
    assert opa.most_under_way <= 50 + 2  # health and revision have places of their own


async def test_a_burst_of_single_misses_is_decided(
    server: ValkeyServer, opa: OpaServer, tmp_path: Path
) -> None:
    opa.always = slow(0.05)
    hub, waits = Hub(), list[EvaluatorQueued]()
    hub.on(EvaluatorQueued, waits.append)
    async with opened(
        server, opa, tmp_path, hub, evaluator_timeout_ms=1000, opa_pool_size=10
    ) as runtime:
        asked = [Request(user_id=f"u{n}", action="x:read", resource="r") for n in range(300)]
        answers = await asyncio.gather(*(runtime.authorize(request) for request in asked))
    assert Counter(answer.reason for answer in answers) == {'é\n"': 300}
    assert Counter(wait.served for wait in waits) == {True: 290}
    assert max(wait.seconds for wait in waits) > 1.0, "longer than an evaluation may take"


async def test_who_asks_during_a_batch_does_not_wait_for_its_end(
    server: ValkeyServer, opa: OpaServer, tmp_path: Path
) -> None:
    opa.always = slow(0.02)
    async with opened(server, opa, tmp_path, Hub(), opa_pool_size=4) as runtime:
        many = asyncio.create_task(runtime.authorize_many(batch(200)))
        await until(lambda: len(opa.seen) > 20, within=10, what="the batch is under way")
        answer = await runtime.authorize(Request(user_id="bob", action="x:read", resource="r"))
        assert answer.allow
        assert len(opa.seen) < 100
        assert all(answer.allow for answer in await many)


# The line itself


async def test_waiting_has_its_own_bound_and_is_no_verdict_on_opa(opa: OpaServer) -> None:
    hub, waits = Hub(), list[EvaluatorQueued]()
    hub.on(EvaluatorQueued, waits.append)
    endpoint = OpaEndpoint(opa.url)
    async with OpaHttp(
        endpoint, timeout=20, max_concurrent=1, queue_timeout=0.05, hub=hub
    ) as client:
        opa.always = slow(0.5)
        first = asyncio.create_task(client.evaluate("full", INPUT))
        await until(lambda: len(opa.seen) == 2, within=5, what="the first is under way")
        others = [client.evaluate("full", INPUT) for _ in range(2 * opa_breaker.FAILURES_TO_OPEN)]
        results = await asyncio.gather(*others, return_exceptions=True)
        assert {type(result) for result in results} == {EvaluatorBusyError}
        assert str(results[0]) == "OPA: 1 evaluations are under way, and none ended within 0.05 s"
        assert client.breaker == "closed"
        assert (await first).decision is not None
        assert client.waiting == 0
        opa.always = None
        assert (await client.evaluate("full", INPUT)).decision is not None
    assert Counter(wait.served for wait in waits) == {False: len(results)}
    assert all(wait.seconds >= 0.05 for wait in waits)


async def test_each_has_the_whole_timeout_once_it_is_its_turn(opa: OpaServer) -> None:
    opa.always = slow(0.15)
    async with OpaHttp(OpaEndpoint(opa.url), timeout=0.3, max_concurrent=1) as client:
        started = time.monotonic()
        results = await asyncio.gather(*(client.evaluate("full", INPUT) for _ in range(4)))
    assert time.monotonic() - started > 0.6
    assert all(result.decision for result in results)


async def test_a_cancelled_one_in_line_takes_no_place(opa: OpaServer) -> None:
    async with OpaHttp(OpaEndpoint(opa.url), timeout=20, max_concurrent=2) as client:
        opa.always = slow(0.05)
        tasks = [asyncio.create_task(client.evaluate("full", INPUT)) for _ in range(40)]
        await until(lambda: client.waiting == 38, within=5, what="the others wait")
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 20
        assert not any(isinstance(result, Exception) for result in results)
        assert client.waiting == 0
        await asyncio.gather(*(client.evaluate("full", INPUT) for _ in range(2)))


async def test_a_line_before_a_dead_opa_ends_when_the_breaker_opens(opa: OpaServer) -> None:
    """It is not a timeout for each turn."""
    async with OpaHttp(OpaEndpoint(opa.url), timeout=0.3, max_concurrent=5) as client:
        opa.always = slow(30)
        started = time.monotonic()
        results = await asyncio.gather(
            *(client.evaluate("full", INPUT) for _ in range(100)), return_exceptions=True
        )
        assert time.monotonic() - started < 2
        assert {type(result) for result in results} == {EvaluationError}
        assert client.breaker == "open"
        # Those that came after the first failures, and before the one that opened it.
        assert len(opa.seen) <= 1 + 5 + opa_breaker.FAILURES_TO_OPEN - 1


async def test_readiness_and_watch_do_not_wait_in_line(opa: OpaServer) -> None:
    async with OpaHttp(OpaEndpoint(opa.url), timeout=2, max_concurrent=3) as client:
        opa.always = slow_evaluations(1)
        tasks = [asyncio.create_task(client.evaluate("full", INPUT)) for _ in range(30)]
        await until(lambda: client.waiting == 27, within=5, what="there is a line")
        opa.bundles["sark"] = "r2"
        started = time.monotonic()
        assert await client.ready() is None
        before = client.revision
        await client.refresh()
        assert time.monotonic() - started < 0.5
        assert client.revision != before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_busy_engine_denies_with_its_own_reason(
    server: ValkeyServer, opa: OpaServer, tmp_path: Path
) -> None:
    hub = Hub()
    async with opened(
        server, opa, tmp_path, hub, opa_pool_size=1, evaluator_queue_ms=20
    ) as runtime:
        opa.always = slow(0.5)
        asked = [Request(user_id=f"u{n}", action="x:read", resource="r") for n in range(3)]
        answers = await asyncio.gather(*(runtime.authorize(request) for request in asked))
        assert Counter((a.allow, a.reason, a.ttl > 0) for a in answers) == {
            (True, 'é\n"', True): 1,
            (False, "busy", False): 2,
        }


async def test_the_line_is_visible(server: ValkeyServer, opa: OpaServer, tmp_path: Path) -> None:
    hub = Hub()
    metrics = Metrics(hub)
    async with opened(server, opa, tmp_path, hub, opa_pool_size=1) as runtime:
        opa.always = slow_evaluations(0.3)
        asked = [Request(user_id=f"u{n}", action="x:read", resource="r") for n in range(3)]
        tasks = [asyncio.create_task(runtime.authorize(request)) for request in asked]

        async def shown() -> bool:
            body, _ = await metrics.render(runtime)
            return b"sark_evaluator_queue_waiting 2.0" in body

        await until(shown, within=5, what="two are shown to wait")
        await asyncio.gather(*tasks)
        body, _ = await metrics.render(runtime)
        assert b'sark_evaluator_queue_seconds_count{result="served"} 2.0' in body


async def test_a_question_twice_in_a_batch_is_evaluated_once(
    server: ValkeyServer, opa: OpaServer, tmp_path: Path
) -> None:
    """Also when its first evaluation has ended before the second would begin."""
    async with opened(server, opa, tmp_path, Hub(), opa_pool_size=1) as runtime:
        opa.seen.clear()
        twice = BatchRequest(user_id="ann", questions=batch(5).questions * 2)
        assert all(answer.allow for answer in await runtime.authorize_many(twice))
    assert len(opa.seen) == 5
