"""A change of OPA's bundles is noticed: by the next evaluation, and by the watch without any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from sark.policy.evaluators.opa import OpaHttp
from sark.policy.evaluators.opa_transport import OpaEndpoint
from tests.support.opa import OpaServer, cut, slow
from tests.support.polling import until

INPUT = b'{"action":"a","context":{},"resource":"r","user_id":"u"}'


@pytest.fixture
async def server() -> AsyncIterator[OpaServer]:
    async with OpaServer() as server:
        yield server


@pytest.fixture
def changes() -> list[tuple[str, str]]:
    return []


@pytest.fixture
async def opa(server: OpaServer, changes: list[tuple[str, str]]) -> AsyncIterator[OpaHttp]:
    endpoint = OpaEndpoint(server.url)
    async with OpaHttp(endpoint, on_revision=lambda *change: changes.append(change)) as opa:
        yield opa


async def test_the_start_learns_the_revision_without_evaluating(
    opa: OpaHttp, server: OpaServer, changes: list[tuple[str, str]]
) -> None:
    assert opa.revision.startswith("opa-")
    assert [seen.path.partition("?")[0] for seen in server.seen] == [
        "/v1/data/sark/_revision/decision"
    ]
    assert changes == []


async def test_the_same_bundles_have_the_same_revision(opa: OpaHttp, server: OpaServer) -> None:
    async with OpaHttp(OpaEndpoint(server.url)) as other:
        assert other.revision == opa.revision
        assert (await other.evaluate("full", INPUT)).revision == opa.revision


async def test_an_evaluation_notices_a_new_revision(
    opa: OpaHttp, server: OpaServer, changes: list[tuple[str, str]]
) -> None:
    old = opa.revision
    server.bundles["sark"] = "r2"
    assert opa.revision == old
    evaluation = await opa.evaluate("full", INPUT)
    assert evaluation.revision == opa.revision != old
    assert changes == [(old, opa.revision)]


async def test_undefined_and_failed_decisions_notice_it_too(
    opa: OpaHttp, server: OpaServer
) -> None:
    for number, policy in enumerate(("nothing", "words")):
        old = opa.revision
        server.bundles["sark"] = f"n{number}"
        await asyncio.gather(opa.evaluate(policy, INPUT), return_exceptions=True)
        assert opa.revision != old


async def test_the_watch_notices_it_without_evaluations(
    opa: OpaHttp, server: OpaServer, changes: list[tuple[str, str]]
) -> None:
    old = opa.revision
    watch = asyncio.create_task(opa.watch(0.02))
    server.faults = [cut] * 6
    server.bundles["more"] = "1"
    await until(lambda: opa.revision != old, within=5, what="the watch sees the new bundle")
    new = opa.revision
    server.is_activated = False
    await until(lambda: opa.revision == "unknown", within=5, what="the bundles are gone")
    assert not watch.done()
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
    assert changes == [(old, new), (new, "unknown")]


async def test_the_watch_closes_the_breaker_when_nobody_asks(server: OpaServer) -> None:
    async with OpaHttp(OpaEndpoint(server.url), timeout=0.1) as opa:
        server.always = slow(30)
        tasks = [opa.evaluate("full", INPUT) for _ in range(5)]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert str(opa.breaker) == "open"
        watch = asyncio.create_task(opa.watch(0.02))
        server.always = None
        await until(lambda: opa.breaker == "closed", within=5, what="the watch probes")
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_a_late_answer_brings_its_own_revision_but_not_the_old_one_back(
    opa: OpaHttp, server: OpaServer, changes: list[tuple[str, str]]
) -> None:
    old = opa.revision
    held = asyncio.Event()

    async def decided_before_the_change(request: web.Request) -> web.StreamResponse:
        document = server._answer(request, await request.read())
        await held.wait()
        return document

    server.faults = [decided_before_the_change]
    late = asyncio.create_task(opa.evaluate("full", INPUT))
    await until(lambda: len(server.seen) == 2, within=5, what="the first is under way")
    server.bundles["sark"] = "r2"
    new = (await opa.evaluate("full", INPUT)).revision
    held.set()
    assert (await late).revision == old
    assert opa.revision == new
    assert changes == [(old, new)]


async def test_a_failing_handler_breaks_nothing(
    server: OpaServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(old: str, new: str) -> None:
        raise ValueError(old, new)

    async with OpaHttp(OpaEndpoint(server.url), on_revision=fails) as opa:
        server.bundles["sark"] = "r2"
        assert (await opa.evaluate("full", INPUT)).decision is not None
    assert [record.getMessage() for record in caplog.records] == [
        "the handler of a changed revision failed"
    ]
