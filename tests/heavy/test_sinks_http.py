"""HTTP sinks against real receivers: Tenzir's and Fluent Bit's collectors, Datadog's test agent."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.kind import SinkOptions
from sark.siem.sinks.verdict import (
    Delivered,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from tests.support.envoy import Envoy
from tests.support.polling import until
from tests.support.receivers import (
    HEC_TOKEN,
    OtlpAgent,
    Tenzir,
    bulk_receiver,
    fluent_bit_receiver,
    hec_receiver,
    otlp_receiver,
)
from tests.support.sinks import entries, opened_sink

pytestmark = pytest.mark.heavy

WITHIN = 15.0
PATIENT = SinkOptions(timeout=10.0)


@asynccontextmanager
async def hec_sink(port: int, query: str = "", token: str = HEC_TOKEN) -> AsyncIterator[Sink]:
    async with opened_sink(f"splunk+http://127.0.0.1:{port}{query}", token, PATIENT) as sink:
        yield sink


async def arrive(arrived: Callable[[], Sequence[object]], sent: Sequence[Entry]) -> None:
    expected = [entry.id for entry in sent]
    await until(lambda: arrived() == expected, within=WITHIN, what=f"{len(sent)} events arrived")


def hec_ids(receiver: Tenzir) -> list[Any]:
    """The ids of what a collector was sent; Fluent Bit wraps it once more."""
    return [found.get("message", found)["event"]["id"] for found in receiver.arrived]


# Fluent Bit hands on no more than about a hundred events a second here.
@pytest.mark.parametrize(("receiver", "count"), [(hec_receiver, 1200), (fluent_bit_receiver, 150)])
async def test_collectors_take_whole_batches(receiver: Callable[[], Tenzir], count: int) -> None:
    sent = entries(count)
    with receiver() as collector:
        async with hec_sink(collector.port, "?host=h&sourcetype=sark:audit") as sink:
            assert await sink.send(sent[:1]) == Delivered()
            assert await sink.send(sent[1:50]) == Delivered()
            assert await sink.send(sent[50:]) == Delivered()
        await arrive(lambda: hec_ids(collector), sent)
        first = collector.arrived[0].get("message", collector.arrived[0])
        assert first["event"] == json.loads(sent[0].body)
        assert (first.get("host"), first.get("source")) == ("h", "sark")


@pytest.mark.parametrize("receiver", [hec_receiver, fluent_bit_receiver])
async def test_collectors_refuse_another_token(receiver: Callable[[], Tenzir]) -> None:
    with receiver() as collector:
        async with hec_sink(collector.port, token="another-token") as sink:
            verdict = await sink.send(entries(1))
    assert isinstance(verdict, Unauthorized)
    assert "another-token" not in verdict.reason


async def test_a_collector_refuses_what_is_too_large() -> None:
    with hec_receiver(max_request_size=1000) as collector:
        async with hec_sink(collector.port) as sink:
            assert isinstance(await sink.send(entries(100)), TooLarge)
            assert await sink.send(entries(2)) == Delivered()


async def test_a_collector_that_falls_behind_is_unavailable() -> None:
    with hec_receiver(ack=True, most_pending=1, events_a_second=1) as collector:
        async with hec_sink(collector.port, "?ack=true&ack_timeout=1") as sink:
            assert await sink.send(entries(5)) == Unavailable("not indexed within 1 s")
            busy = await sink.send(entries(1))
            assert busy == Unavailable("HTTP 503: Server is busy (code 9)")


async def test_a_collector_without_a_channel_refuses() -> None:
    with hec_receiver(ack=True) as collector:
        async with hec_sink(collector.port) as sink:
            assert isinstance(await sink.send(entries(1)), Unauthorized)


async def test_an_event_that_a_collector_cannot_read_is_told_apart() -> None:
    good, bad = entries(2), Entry("bad", 1.7e9, b"{]")
    with hec_receiver() as collector:
        async with hec_sink(collector.port) as sink:
            assert isinstance(await sink.send([good[0], bad, good[1]]), Rejected)
            assert isinstance(await sink.send([bad]), Rejected)
            assert await sink.send(good) == Delivered()


async def test_a_killed_collector_is_unavailable_until_it_is_back() -> None:
    sent = entries(2)
    with hec_receiver() as collector:
        async with hec_sink(collector.port) as sink:
            assert await sink.send(sent[:1]) == Delivered()
            await arrive(lambda: hec_ids(collector), sent[:1])
            collector.kill()
            assert isinstance(await sink.send(sent[1:]), Unavailable)
            collector.start()
            assert await sink.send(sent[1:]) == Delivered()
            await arrive(lambda: hec_ids(collector)[-1:], sent[1:])


async def test_what_a_proxy_answers_in_place_of_a_collector() -> None:
    expected: dict[int, type] = {
        401: Unauthorized,
        413: TooLarge,
        429: Throttled,
        500: Unavailable,
        503: Unavailable,
    }
    with hec_receiver() as collector, Envoy(collector.port) as proxy:
        async with hec_sink(proxy.port) as sink:
            assert await sink.send(entries(1)) == Delivered()
            for status, kind in expected.items():
                proxy.inject({status: 100})
                assert type(await sink.send(entries(1))) is kind
            proxy.inject()
            assert await sink.send(entries(1)) == Delivered()


async def test_the_bulk_api_takes_documents() -> None:
    sent = entries(300)
    with bulk_receiver() as receiver:
        address = f"elastic+http://127.0.0.1:{receiver.port}?index=audit&format=ocsf"
        async with opened_sink(address) as sink:
            assert await sink.send(sent) == Delivered()
        await until(lambda: len(receiver.arrived) == 600, within=WITHIN, what="all lines arrived")
        actions, documents = receiver.arrived[::2], receiver.arrived[1::2]
    assert [action["create"]["_id"] for action in actions] == [entry.id for entry in sent]
    assert [document["id"] for document in documents] == [entry.id for entry in sent]


@pytest.mark.parametrize("kind", [otlp_receiver, OtlpAgent])
async def test_logs_are_taken(kind: Any) -> None:
    sent = entries(300)
    with kind() as receiver:
        async with opened_sink(f"otlp+http://127.0.0.1:{receiver.port}") as sink:
            assert await sink.send(sent) == Delivered()
        await until(lambda: len(receiver.arrived) == 300, within=WITHIN, what="all logs arrived")
        first = json.dumps(receiver.arrived[0])
    assert sent[0].id in first
    assert json.dumps(sent[0].body.decode())[1:-1] in first


async def test_how_fast_a_collector_is_fed() -> None:
    """Prints events a second of 1 KB each; what matters is that all arrive."""
    sent = [
        Entry(e.id, e.time, b'{"id":"%b","x":"%b"}' % (e.id.encode(), b"y" * 960))
        for e in entries(20_000)
    ]
    with hec_receiver() as collector:
        async with hec_sink(collector.port) as sink:
            most = min(sink.limits.events, sink.limits.bytes // len(sent[0].body))
            started = time.perf_counter()
            for start in range(0, len(sent), most):
                assert await sink.send(sent[start : start + most]) == Delivered()
            seconds = time.perf_counter() - started
        print(f"{len(sent) / seconds:,.0f} events/s in requests of {most}")  # noqa: T201
        await arrive(lambda: hec_ids(collector), sent)
