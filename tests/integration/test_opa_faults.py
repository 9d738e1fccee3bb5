"""OPA slow, away, broken or impersonated: what an evaluation does, and when it gives up."""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from sark.errors import ConfigurationError, EvaluationError
from sark.events import EvaluatorBreakerChanged, Hub
from sark.policy.evaluators import opa as evaluator
from sark.policy.evaluators import opa_breaker
from sark.policy.evaluators.opa import OpaHttp
from sark.policy.evaluators.opa_transport import OpaEndpoint
from tests.support.opa import (
    Fault,
    OpaServer,
    cut,
    cut_midway,
    flood,
    says,
    slow,
    status,
)
from tests.support.polling import until

TIMEOUT = 0.6
# What a loaded machine may add to a deadline, in seconds.
SLACK = 0.5
INPUT = b'{"action":"server:read","context":{"k":"s3cret-input"},"resource":"r","user_id":"u"}'
TOKEN = "s3cret-token"
ZIPPED = gzip.compress(b'{"result":{"allow":true}}')


@pytest.fixture
async def server() -> AsyncIterator[OpaServer]:
    async with OpaServer(token=TOKEN) as server:
        yield server


@pytest.fixture
def events() -> list[EvaluatorBreakerChanged]:
    return []


@pytest.fixture
async def opa(server: OpaServer, events: list[EvaluatorBreakerChanged]) -> AsyncIterator[OpaHttp]:
    hub = Hub()
    hub.on(EvaluatorBreakerChanged, events.append)
    endpoint = OpaEndpoint(server.url, token=SecretStr(TOKEN))
    async with OpaHttp(endpoint, timeout=TIMEOUT, hub=hub) as opa:
        server.seen.clear()
        yield opa


async def failure(opa: OpaHttp) -> str:
    with pytest.raises(EvaluationError) as caught:
        await opa.evaluate("full", INPUT)
    return str(caught.value)


async def test_the_request_is_as_documented(opa: OpaHttp, server: OpaServer) -> None:
    await opa.evaluate("full", INPUT)
    await opa.evaluate("a/../b?c#d", INPUT)
    first, second = server.seen
    assert (first.method, first.path) == ("POST", "/v1/data/sark/full/decision?provenance=true")
    assert first.body == b'{"input":' + INPUT + b"}"
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Authorization"] == f"Bearer {TOKEN}"
    assert second.path == "/v1/data/sark/a%2F..%2Fb%3Fc%23d/decision?provenance=true"


# Retries


@pytest.mark.parametrize("fault", [status(502), status(503), status(504), cut, cut_midway])
@pytest.mark.parametrize("times", [1, 3])
async def test_what_may_pass_is_tried_again(
    opa: OpaHttp, server: OpaServer, fault: Fault, times: int
) -> None:
    server.faults = [fault] * times
    evaluation = await opa.evaluate("full", INPUT)
    assert evaluation.decision is not None
    assert len(server.seen) == times + 1
    assert str(opa.breaker) == "closed"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            status(400, '{"code":"invalid_parameter","message":"s3cret-input"}'),
            " invalid_parameter",
        ),
        (status(401, '{"code":"unauthorized","message":"s3cret-token"}'), " unauthorized"),
        (status(401, '{"code":"undefined_document"}'), " undefined_document"),
        (status(500, '{"code":"internal_error","message":"s3cret-input"}'), " internal_error"),
        (status(500, "s3cret-input"), ""),
        (status(404, "404 page not found"), ""),
        (status(301), ", a redirect; they are not followed"),
        (status(307), ", a redirect; they are not followed"),
        (status(429), ""),
        (status(500, '{"code":"s3cret input"}'), ""),
        (says(b""), ", but not in OPA's form"),
        (says(b"<html>s3cret-input"), ", but not in OPA's form"),
        (says(b"[]"), ", but not in OPA's form"),
        (says(b'{"result":{"allow":true}'), ", but not in OPA's form"),
        (says(b'{"result":' + b"[" * 100_000), ", but not in OPA's form"),
        (says(b'{"provenance":{"bundles":{"a":7}}}'), ", but not in OPA's form"),
        (says(b"\xff\xfe"), ", but not in OPA's form"),
        (says(ZIPPED, **{"Content-Encoding": "gzip"}), ", but not in OPA's form"),
    ],
)
async def test_what_will_not_pass_is_not_tried_again(
    opa: OpaHttp, server: OpaServer, fault: Fault, message: str
) -> None:
    server.faults = [fault]
    text = await failure(opa)
    assert text.startswith("OPA answers ")
    assert text.partition("OPA answers ")[2][3:] == message
    assert "s3cret" not in text
    assert len(server.seen) == 1
    assert str(opa.breaker) == "closed"
    assert (await opa.evaluate("full", INPUT)).decision is not None


@pytest.mark.parametrize(
    "fault", [flood(2**21), says(b" " * (2**20 + 1)), says(b'{"result":"' + b"x" * 2**23 + b'"}')]
)
async def test_a_huge_answer_is_refused(opa: OpaHttp, server: OpaServer, fault: Fault) -> None:
    server.faults = [fault]
    assert await failure(opa) == "OPA answers more than 1048576 bytes"
    assert (await opa.evaluate("full", INPUT)).decision is not None
    assert server.connections == 2, "the rest of the answer is not waited for"


async def test_huge_answers_never_open_the_breaker(opa: OpaHttp, server: OpaServer) -> None:
    server.always = says(b" " * (2**20 + 1))
    for _ in range(opa_breaker.FAILURES_TO_OPEN + 1):
        assert await failure(opa) == "OPA answers more than 1048576 bytes"
    assert opa.breaker == "closed"


async def test_a_large_answer_within_the_bound_is_read(opa: OpaHttp, server: OpaServer) -> None:
    body = b'{"result":{"allow":true}}'
    server.faults = [says(body + b" " * (2**20 - len(body)))]
    evaluation = await opa.evaluate("full", INPUT)
    assert evaluation.decision is not None
    assert evaluation.revision == "unknown"


@pytest.mark.parametrize("fault", [status(503), cut])
async def test_retries_end_before_the_deadline(
    opa: OpaHttp, server: OpaServer, fault: Fault
) -> None:
    server.always = fault
    started = time.monotonic()
    text = await failure(opa)
    assert time.monotonic() - started < TIMEOUT + SLACK
    assert text in ("OPA: a proxy answers 503", "OPA: it closed the connection")
    assert 2 <= len(server.seen) <= 5


async def test_no_retry_begins_that_could_not_end(
    opa: OpaHttp, server: OpaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "FIRST_RETRY_SECONDS", 4 * TIMEOUT)
    server.always = status(503)
    started = time.monotonic()
    assert await failure(opa) == "OPA: a proxy answers 503"
    assert time.monotonic() - started < TIMEOUT, "it does not wait for what it will not do"
    assert len(server.seen) == 1


async def test_a_slow_opa_costs_no_more_than_the_timeout(opa: OpaHttp, server: OpaServer) -> None:
    server.faults = [slow(30)]
    started = time.monotonic()
    assert await failure(opa) == f"OPA: no answer within {TIMEOUT} s"
    assert TIMEOUT <= time.monotonic() - started < TIMEOUT + SLACK
    assert len(server.seen) == 1


async def test_the_deadline_holds_over_all_tries(opa: OpaHttp, server: OpaServer) -> None:
    server.faults = [cut, slow(30)]
    started = time.monotonic()
    await failure(opa)
    assert time.monotonic() - started < TIMEOUT + SLACK


async def test_a_restart_of_opa_is_bridged(opa: OpaHttp, server: OpaServer) -> None:
    await opa.evaluate("full", INPUT)
    await server.stop()
    pending = asyncio.create_task(opa.evaluate("full", INPUT))
    await asyncio.sleep(0.02)
    await server.start()
    assert (await pending).decision is not None


async def test_nothing_secret_is_told(
    opa: OpaHttp, server: OpaServer, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_debug(True)
    caplog.set_level(logging.DEBUG)
    told = [repr(opa), repr(OpaEndpoint(server.url, SecretStr(TOKEN)))]
    for fault in (cut, cut_midway, status(401, TOKEN), status(503), says(TOKEN.encode())):
        server.always = fault
        with pytest.raises(EvaluationError) as caught:
            await opa.evaluate("full", INPUT)
        error = caught.value
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
        told += [str(error), repr(error)]
    assert "s3cret" not in "".join(told) + caplog.text


# The breaker


@pytest.fixture
def brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opa_breaker, "FIRST_PAUSE_SECONDS", 0.1)


@pytest.mark.usefixtures("brief_pauses")
async def test_the_breaker_opens_probes_and_closes(
    opa: OpaHttp, server: OpaServer, events: list[EvaluatorBreakerChanged]
) -> None:
    await server.stop()
    for _ in range(opa_breaker.FAILURES_TO_OPEN):
        assert str(opa.breaker) == "closed"
        assert await failure(opa) == "OPA: connection refused"
    assert str(opa.breaker) == "open"
    started = time.monotonic()
    assert (await failure(opa)).startswith("OPA failed repeatedly and is asked again in 0.")
    assert time.monotonic() - started < 0.05
    await asyncio.sleep(0.11)
    started = time.monotonic()
    assert await failure(opa) == "OPA: connection refused"
    assert time.monotonic() - started < SLACK, "a probe is not tried again"
    assert str(opa.breaker) == "open"
    await server.start()
    await until(lambda: answered(opa), within=5, what="a probe closes the breaker")
    assert str(opa.breaker) == "closed"
    states = [event.state for event in events]
    assert states[:4] == ["open", "half_open", "open", "half_open"]
    assert states[-1] == "closed"
    assert {event.reason for event in events} == {"OPA: connection refused"}


async def answered(opa: OpaHttp) -> bool:
    try:
        await opa.evaluate("full", INPUT)
    except EvaluationError:
        return False
    return True


async def open_breaker(opa: OpaHttp, server: OpaServer) -> None:
    server.always = slow(30)
    tasks = [asyncio.create_task(answered(opa)) for _ in range(opa_breaker.FAILURES_TO_OPEN)]
    assert not any(await asyncio.gather(*tasks))
    assert str(opa.breaker) == "open"


@pytest.mark.usefixtures("brief_pauses")
async def test_one_probe_at_a_time(opa: OpaHttp, server: OpaServer) -> None:
    await open_breaker(opa, server)
    server.always = slow(0.1)
    server.seen.clear()
    await asyncio.sleep(0.11)
    results = await asyncio.gather(*(answered(opa) for _ in range(20)))
    assert sum(results) == 1
    assert len(server.seen) == 1
    assert str(opa.breaker) == "closed"


@pytest.mark.usefixtures("brief_pauses")
async def test_a_probe_is_not_tried_again(opa: OpaHttp, server: OpaServer) -> None:
    await open_breaker(opa, server)
    server.always = status(503)
    server.seen.clear()
    await asyncio.sleep(0.11)
    assert await failure(opa) == "OPA: a proxy answers 503"
    assert len(server.seen) == 1
    assert opa.breaker == "open"


@pytest.mark.usefixtures("brief_pauses")
async def test_a_cancelled_probe_is_no_verdict(opa: OpaHttp, server: OpaServer) -> None:
    await open_breaker(opa, server)
    await asyncio.sleep(0.11)
    probe = asyncio.create_task(opa.evaluate("full", INPUT))
    await until(lambda: opa.breaker == "half_open", within=5, what="the probe runs")
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert str(opa.breaker) == "open"
    server.always = None
    assert (await opa.evaluate("full", INPUT)).decision is not None
    assert str(opa.breaker) == "closed"


async def test_errors_that_opa_answers_never_open_the_breaker(
    opa: OpaHttp, server: OpaServer
) -> None:
    server.always = status(500, '{"code":"internal_error"}')
    for _ in range(opa_breaker.FAILURES_TO_OPEN * 2):
        await failure(opa)
    assert str(opa.breaker) == "closed"


async def test_a_success_between_failures_counts(opa: OpaHttp, server: OpaServer) -> None:
    for _ in range(opa_breaker.FAILURES_TO_OPEN):
        server.faults = [cut] * 5
        await failure(opa)
        await opa.evaluate("full", INPUT)
    assert str(opa.breaker) == "closed"


# Start and readiness


async def test_an_opa_that_is_not_up_does_not_stop_the_start(server: OpaServer) -> None:
    await server.stop()
    opa = OpaHttp(OpaEndpoint(server.url, SecretStr(TOKEN)), timeout=TIMEOUT)
    try:
        assert await opa.start() == "OPA: connection refused"
        assert opa.revision == "pending"
        assert await opa.ready() == "OPA: connection refused"
        await server.start()
        assert await opa.ready() is None
        assert opa.revision.startswith("opa-")
    finally:
        await opa.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (slow(30), f"OPA: no answer within {TIMEOUT} s"),
        (status(503), "OPA: a proxy answers 503"),
        (status(500, '{"code":"internal_error"}'), "OPA answers 500 internal_error"),
        (status(429), "OPA answers 429"),
    ],
)
async def test_an_opa_in_trouble_does_not_stop_the_start(
    server: OpaServer, fault: Fault, reason: str
) -> None:
    server.always = fault
    opa = OpaHttp(OpaEndpoint(server.url, SecretStr(TOKEN)), timeout=TIMEOUT)
    try:
        assert await opa.start() == reason
    finally:
        await opa.close()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (status(404), "OPA answers 404: expected the address of OPA's REST API"),
        (status(302), "OPA answers 302, a redirect; they are not followed: expected the address"),
        (says(b"<html>"), "OPA answers 200, but not in OPA's form: expected the address"),
        (status(401, '{"code":"unauthorized"}'), "OPA answers 401 unauthorized: it refuses"),
    ],
)
async def test_what_is_not_opa_stops_the_start(server: OpaServer, fault: Fault, why: str) -> None:
    server.always = fault
    opa = OpaHttp(OpaEndpoint(server.url, SecretStr(TOKEN)), timeout=TIMEOUT)
    with pytest.raises(ConfigurationError) as caught:
        await opa.start()
    assert str(caught.value).startswith(f"OPA_URL: {why}")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


async def test_a_wrong_token_stops_the_start(server: OpaServer) -> None:
    for token in (None, SecretStr("wr0ng")):
        with pytest.raises(ConfigurationError, match="401 unauthorized: it refuses OPA_TOKEN"):
            await OpaHttp(OpaEndpoint(server.url, token)).start()


async def test_bundles_that_are_not_activated_are_undefined_and_not_ready(
    opa: OpaHttp, server: OpaServer
) -> None:
    server.is_activated = False
    evaluation = await opa.evaluate("full", INPUT)
    assert (evaluation.decision, evaluation.revision) == (None, "unknown")
    reason = "OPA is not ready: one or more bundles are not activated"
    assert await opa.ready() == reason
    server.is_activated = True
    assert await opa.ready() is None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (slow(30), f"OPA: no answer within {TIMEOUT} s"),
        (cut, "OPA: it closed the connection"),
        (status(500, "{}"), "OPA is not ready: its bundles are not activated"),
        (status(401, '{"code":"unauthorized"}'), "OPA answers 401 to /health unauthorized"),
        (status(404), "OPA answers 404 to /health"),
    ],
)
async def test_not_ready(opa: OpaHttp, server: OpaServer, fault: Fault, reason: str) -> None:
    # The client itself repeats a GET once, on a fresh connection.
    server.faults = [cut, cut] if fault is cut else [fault]
    assert await opa.ready() == reason
    assert await opa.ready() is None


@pytest.mark.usefixtures("brief_pauses")
async def test_an_open_breaker_is_not_ready_and_readiness_probes(
    opa: OpaHttp, server: OpaServer
) -> None:
    await open_breaker(opa, server)
    server.always = None
    await until(lambda: is_ready(opa), within=5, what="readiness closes the breaker")
    assert str(opa.breaker) == "closed"


async def is_ready(opa: OpaHttp) -> bool:
    return await opa.ready() is None


async def test_a_client_that_is_not_open_says_so(server: OpaServer) -> None:
    opa = OpaHttp(OpaEndpoint(server.url))
    assert await failure(opa) == "OPA: the client is not open"
    await opa.close()
