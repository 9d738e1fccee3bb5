"""What HTTP sinks send, and what they make of receivers, on real HTTP servers.

The receivers are stand-ins written from the vendors' documentation; ``tests/heavy`` has real ones.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from sark.errors import ConfigurationError, SinkError
from sark.siem.sinks.base import Entry
from sark.siem.sinks.kind import SinkOptions
from sark.siem.sinks.verdict import (
    Delivered,
    Partly,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from tests.support.polling import until
from tests.support.receivers_stub import (
    TOKEN,
    BulkStub,
    DatadogStub,
    HecStub,
    OtlpStub,
    Received,
    WebhookStub,
)
from tests.support.sinks import entries, entry, opened_sink, sink_at

FAST = SinkOptions(timeout=0.3, retry_cap=60.0)


def answering(
    status: int, body: str = "", headers: dict[str, str] | None = None
) -> Callable[[Received], web.StreamResponse]:
    return lambda _: web.Response(status=status, text=body, headers=headers)


def ids(events: list[Entry]) -> list[str]:
    return [each.id for each in events]


# Splunk


async def test_splunk_gets_stacked_objects() -> None:
    sent = entries(3)
    async with HecStub() as receiver:
        address = receiver.address("splunk+http", "?index=audit&host=a%20b&sourcetype=_json")
        async with opened_sink(address, TOKEN) as sink:
            assert await sink.send(sent) == Delivered()
    assert [taken["event"] for taken in receiver.events] == [json.loads(e.body) for e in sent]
    first = receiver.events[0]
    assert first.pop("event")
    assert first == {
        "time": 1_700_000_000.123,
        "host": "a b",
        "source": "sark",
        "sourcetype": "_json",
        "index": "audit",
    }
    assert not receiver.requests[0].body.startswith(b"["), "stacked, not an array"


async def test_splunk_gets_text_as_text() -> None:
    line = 'CEF:0|SARK|sark|1|decision|a "b" \\| c|3|msg=x\\=y'
    async with HecStub() as receiver:
        address = receiver.address("splunk+http", "?format=cef")
        async with opened_sink(address, TOKEN) as sink:
            assert await sink.send([Entry("id", 1.0, line.encode())]) == Delivered()
    assert receiver.events[0]["event"] == line


@pytest.mark.parametrize("format_", ["ocsf", "cef"])
async def test_the_largest_batch_for_splunk_is_within_what_it_recommends(format_: str) -> None:
    long = "x" * 256
    options = f"?format={format_}&host={long}&source={long}&sourcetype={long}&index={long[:80]}"
    body = b'{"x":1}' if format_ == "ocsf" else b'"' * 7
    async with (
        HecStub() as receiver,
        opened_sink(receiver.address("splunk+http", options), TOKEN) as sink,
    ):
        limits = sink.limits
        size = limits.bytes // limits.events
        assert size > len(body)
        filled = Entry("x", 1.7e9, body[:1] + body[1:-1].ljust(size - 2) + body[-1:])
        assert await sink.send([filled] * limits.events) == Delivered()
    assert len(receiver.requests[0].body) <= 1_000_000


async def test_splunk_says_which_event_it_blames() -> None:
    sent = [entry(0), entry(1, {"bad": True}), entry(2)]
    async with (
        HecStub(keeps_earlier=True) as receiver,
        opened_sink(receiver.address("splunk+http"), TOKEN) as sink,
    ):
        verdict = await sink.send(sent)
        assert verdict == Rejected("HTTP 400: Event field cannot be blank (code 13)", 1)
        assert await sink.send(sent[1:2]) == Rejected(verdict.reason, 0)
        assert await sink.send([sent[0], sent[2]]) == Delivered()


async def test_splunk_acknowledges_what_is_indexed() -> None:
    async with HecStub(ack=True, index_after=2) as receiver:
        address = receiver.address("splunk+http", "?ack=true")
        async with opened_sink(address, TOKEN) as sink:
            assert await sink.send(entries(2)) == Delivered()
        asked = [json.loads(r.body) for r in receiver.requests if r.path.endswith("/ack")]
        assert asked == [{"acks": [1]}] * 3
        (channel,) = set(receiver.channels)
        assert channel, "one channel of its own"


async def test_splunk_that_never_acknowledges_is_sent_it_again() -> None:
    async with HecStub(ack=True, index_after=10**6) as receiver:
        address = receiver.address("splunk+http", "?ack=true&ack_timeout=1")
        async with opened_sink(address, TOKEN) as sink:
            assert await sink.send(entries(1)) == Unavailable("not indexed within 1 s")


async def test_splunk_batches_under_way_have_channels_of_their_own() -> None:
    """A collector that was restarted gives a later batch of a channel the number of an earlier."""
    async with HecStub(ack=True, index_after=4) as receiver:
        address = receiver.address("splunk+http", "?ack=true&ack_timeout=1")
        async with opened_sink(address, TOKEN) as sink:
            for _ in range(2):
                sending = (sink.send(entries(1)), sink.send(entries(1)))
                assert set(await asyncio.gather(*sending)) == {Delivered()}
            known = set(receiver.channels)
            assert len(known) == 2
            receiver.index_after = 10**6
            for _ in range(2):
                assert isinstance(await sink.send(entries(1)), Unavailable)
            receiver.index_after = 0
            for _ in range(2):
                assert await sink.send(entries(1)) == Delivered()
    # Both were left when the fate of their batch was not known.
    assert receiver.channels[-1] == receiver.channels[-3]
    assert receiver.channels[-1] not in known


async def test_splunk_acknowledgement_outlives_disturbances() -> None:
    def broken(_: Received) -> web.StreamResponse:
        raise ConnectionResetError

    async with HecStub(ack=True) as receiver:
        address = receiver.address("splunk+http", "?ack=true")
        async with opened_sink(address, TOKEN, FAST) as sink:
            receiver.script = [receiver.answer, answering(503, "busy"), answering(200, "?")]
            assert await sink.send(entries(1)) == Delivered()
    assert [r.path for r in receiver.requests[1:]] == ["/services/collector/ack"] * 3


async def test_splunk_without_the_acknowledgement_that_was_asked_for() -> None:
    async with (
        HecStub(ack=False) as receiver,
        opened_sink(receiver.address("splunk+http", "?ack=true"), TOKEN) as sink,
    ):
        assert isinstance(await sink.send(entries(1)), Unauthorized)
    async with (
        HecStub(ack=True) as receiver,
        opened_sink(receiver.address("splunk+http"), TOKEN) as sink,
    ):
        verdict = await sink.send(entries(1))
        assert verdict == Unauthorized("HTTP 400: Data channel is missing (code 10)")


# Datadog


async def test_datadog_gets_logs() -> None:
    sent = entries(2)
    async with DatadogStub() as receiver:
        url = receiver.address("http", "/api/v2/logs")
        address = f"datadog://datadoghq.eu?tags=env:prod%2Cteam:iam&host=h&url={url}"
        async with opened_sink(address, TOKEN) as sink:
            assert await sink.send(sent) == Delivered()
        async with opened_sink(address, "wrong") as sink:
            assert isinstance(await sink.send(sent), Unauthorized)
    assert [log.pop("message") for log in receiver.events] == [e.body.decode() for e in sent]
    assert receiver.events[0] == {
        "ddsource": "sark",
        "service": "sark",
        "ddtags": "env:prod,team:iam",
        "hostname": "h",
        "timestamp": 1_700_000_000_123,
    }


async def test_the_largest_batch_for_datadog_is_within_its_limits() -> None:
    async with DatadogStub() as receiver:
        url = receiver.address("http", "/api/v2/logs")
        async with opened_sink(f"datadog://site?url={url}", TOKEN) as sink:
            limits = sink.limits
            size = limits.bytes // limits.events
            worst = Entry("x", 1.7e9, b'"' * size)
            assert await sink.send([worst] * limits.events) == Delivered()
            large = Entry("x", 1.7e9, b'"' * limits.event_bytes)
            assert await sink.send([large]) == Delivered()
    bodies = [request.body for request in receiver.requests]
    assert len(bodies[0]) <= 5_000_000
    assert len(bodies[1]) <= 1_000_000


# Elastic


async def test_bulk_outcomes_are_for_each_event() -> None:
    sent = [entry(0), entry(1, {"bad": 1}), entry(2), entry(3)]
    async with BulkStub() as receiver:
        receiver.busy = {sent[2].id}
        address = receiver.address("elastic+http", "?index=audit&format=ocsf")
        async with opened_sink(address) as sink:
            verdict = await sink.send(sent)
            assert isinstance(verdict, Partly)
            assert verdict.bad == {
                1: "HTTP 200: item 400, document_parsing_exception: failed to parse"
            }
            assert verdict.retry == {2}
            again = [sent[0], sent[2]]
            assert await sink.send(again) == Delivered(), "what is there already counts"
    assert sorted(receiver.documents) == sorted(ids([sent[0], sent[2], sent[3]]))
    assert receiver.documents[sent[0].id]["@timestamp"] == "2023-11-14T22:13:20.123+00:00"
    assert receiver.requests[0].path == "/audit/_bulk"


@pytest.mark.parametrize(
    ("token", "header"),
    [
        ("elastic:secret", "Basic ZWxhc3RpYzpzZWNyZXQ="),
        ("VnVhQ2ZHY0JDZGJrU", "ApiKey VnVhQ2ZHY0JDZGJrU"),
        (None, None),
    ],
)
async def test_elastic_credentials(token: str | None, header: str | None) -> None:
    async with BulkStub() as receiver, opened_sink(receiver.address("elastic+http"), token) as sink:
        await sink.send(entries(1))
    assert receiver.requests[0].headers.get("Authorization") == header


# OTLP


async def test_otlp_records() -> None:
    sent = entries(2)
    async with OtlpStub() as receiver:
        for path in ("", "/v1/logs", "/"):
            async with opened_sink(receiver.address("otlp+http", f"{path}")) as sink:
                assert await sink.send(sent) == Delivered()
    record = receiver.events[1]
    assert record["timeUnixNano"] == "1700000001123000000"
    assert record["body"] == {"stringValue": sent[1].body.decode()}
    assert record["attributes"] == [{"key": "log.record.uid", "value": {"stringValue": sent[1].id}}]
    assert len(receiver.events) == 6


async def test_otlp_partial_success_is_not_sent_again() -> None:
    async with OtlpStub(rejects=1) as receiver, opened_sink(receiver.address("otlp+http")) as sink:
        verdict = await sink.send(entries(2))
    assert isinstance(verdict, Partly)
    assert (list(verdict.bad), verdict.retry) == ([0, 1], frozenset())


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [("", "Authorization", "Bearer tok"), ("?header=x-api-key", "x-api-key", "tok")],
)
async def test_otlp_credentials(query: str, name: str, value: str) -> None:
    async with (
        OtlpStub() as receiver,
        opened_sink(receiver.address("otlp+http", query), "tok") as sink,
    ):
        await sink.send(entries(1))
    assert receiver.requests[0].headers[name] == value


# Webhooks


@pytest.mark.parametrize("body", ["array", "ndjson"])
async def test_webhooks_are_signed_and_idempotent(body: str) -> None:
    sent = entries(3)
    secret = base64.b64encode(b"k" * 24).decode()
    async with WebhookStub() as receiver:
        address = receiver.address("webhook+http", f"/hook/?body={body}&gzip=true")
        async with opened_sink(address, f"whsec_{secret}") as sink:
            assert await sink.send(sent) == Delivered()
            assert await sink.send(sent) == Delivered()
            assert await sink.send(sent[:2]) == Delivered()
    first, second, third = (request.headers for request in receiver.requests)
    assert first["Idempotency-Key"] == second["Idempotency-Key"] == first["webhook-id"]
    assert first["Idempotency-Key"] != third["Idempotency-Key"]
    request = receiver.requests[0]
    assert request.path == "/hook/"
    signed = f"{first['webhook-id']}.{first['webhook-timestamp']}.".encode() + request.body
    digest = hmac.new(b"k" * 24, signed, hashlib.sha256).digest()
    assert first["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert receiver.events[:3] == [json.loads(e.body) for e in sent]


async def test_webhooks_without_a_credential_are_not_signed() -> None:
    async with (
        WebhookStub() as receiver,
        opened_sink(receiver.address("webhook+http", "/")) as sink,
    ):
        assert await sink.send(entries(1)) == Delivered()
    assert "webhook-signature" not in receiver.requests[0].headers


# HTTP, by the webhook, which adds least


async def test_large_bodies_are_compressed_where_asked_for() -> None:
    async with WebhookStub() as receiver:
        address = receiver.address("webhook+http", "/")
        for query, count in (("", 500), ("?gzip=true", 1), ("?gzip=true", 20), ("?gzip=true", 900)):
            async with opened_sink(address + query) as sink:
                assert await sink.send(entries(count)) == Delivered()
        async with opened_sink(f"{address}?gzip=true", common=SinkOptions(gzip=False)) as sink:
            assert await sink.send(entries(500)) == Delivered()
    assert [r.compressed for r in receiver.requests] == [False, False, True, True, False]
    assert len(receiver.events) == 500 + 1 + 20 + 900 + 500


async def test_connections_are_kept() -> None:
    ports: set[Any] = set()

    class Counting(WebhookStub):
        async def _handle(self, request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            ports.add(request.transport.get_extra_info("peername"))
            return await super()._handle(request)

    async with Counting() as receiver, opened_sink(receiver.address("webhook+http", "/")) as sink:
        for _ in range(5):
            assert await sink.send(entries(2)) == Delivered()
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (302, {"Location": "http://127.0.0.1:1/"}, Unauthorized("HTTP 302: why")),
        (429, {"Retry-After": "7"}, Throttled("HTTP 429: why", 7.0)),
        (503, {"Retry-After": "9999"}, Unavailable("HTTP 503: why", 60.0)),
        (
            503,
            {
                "Retry-After": "Sun, 01 Mar 2026 12:00:09 GMT",
                "Date": "Sun, 01 Mar 2026 12:00:00 GMT",
            },
            Unavailable("HTTP 503: why", 9.0),
        ),
        (413, {}, TooLarge("HTTP 413: why")),
        (500, {"Content-Encoding": "gzip"}, Unavailable("HTTP 500: why")),
    ],
)
async def test_answers(status: int, headers: dict[str, str], expected: object) -> None:
    async with WebhookStub() as receiver:
        receiver.script = [answering(status, "why", headers)]
        async with opened_sink(receiver.address("webhook+http", "/")) as sink:
            assert await sink.send(entries(1)) == expected
            assert await sink.send(entries(1)) == Delivered()
    assert len(receiver.requests) == 2, "no redirect is followed, nothing is sent twice"


async def test_an_endless_answer_is_cut() -> None:
    async with WebhookStub() as receiver:
        receiver.script = [answering(400, "x" * 10**6)]
        async with opened_sink(receiver.address("webhook+http", "/")) as sink:
            verdict = await sink.send(entries(1))
            assert isinstance(verdict, Rejected)
            assert len(verdict.reason) < 230
            assert await sink.send(entries(1)) == Delivered()


async def test_a_credential_that_comes_back_is_masked() -> None:
    async with WebhookStub() as receiver:
        echo = f"bad header {TOKEN}, {base64.b64encode(TOKEN.encode()).decode()}"
        receiver.script = [answering(400, echo)]
        async with opened_sink(receiver.address("webhook+http", "/"), TOKEN) as sink:
            verdict = await sink.send(entries(1))
    assert verdict == Rejected("HTTP 400: bad header ***, ***")
    assert TOKEN not in repr(sink)


async def test_receivers_that_are_not_there(unused_tcp_port: int) -> None:
    async with opened_sink(f"webhook+http://127.0.0.1:{unused_tcp_port}/", common=FAST) as sink:
        assert await sink.send(entries(1)) == Unavailable("connection refused")
    async with opened_sink("webhook+http://no-such-host.invalid/", common=FAST) as sink:
        assert isinstance(await sink.send(entries(1)), Unavailable)


async def test_receivers_that_hang_hang_up_or_talk_nonsense() -> None:
    replies = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", b"SSH-2.0\r\n\r\n", None]
    expected = {"it closed the connection", "its answer is not HTTP", "no answer in time"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        reply = replies.pop(0)
        if reply is None:
            await reader.read()
        else:
            writer.write(reply)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        served.append(reply)

    served: list[bytes | None] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with opened_sink(f"webhook+http://127.0.0.1:{port}/", common=FAST) as sink:
            found = [await sink.send(entries(1)) for _ in range(4)]
        await until(lambda: len(served) == 4, within=5, what="the server is done with all four")
    assert all(isinstance(verdict, Unavailable) for verdict in found)
    assert {getattr(verdict, "reason", None) for verdict in found} == expected


async def test_a_cancelled_sending_leaves_the_sink_usable() -> None:
    async with (
        WebhookStub() as receiver,
        opened_sink(receiver.address("webhook+http", "/")) as sink,
    ):
        for _ in range(20):
            task = asyncio.create_task(sink.send(entries(5)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await sink.send(entries(1)) == Delivered()


# TLS


async def test_tls_trusts_the_given_authority_and_shows_a_certificate(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = authority.issue_cert("sark.example")
    ca, cert, key, other = (tmp_path / name for name in ("ca", "cert", "key", "other"))
    authority.cert_pem.write_to_path(ca)
    ours.private_key_pem.write_to_path(key)
    ours.cert_chain_pems[0].write_to_path(cert)
    stranger.cert_pem.write_to_path(other)
    async with WebhookStub(context) as receiver:
        address = receiver.address("webhook+https", "/")
        async with opened_sink(f"{address}?ca={ca}&cert={cert}&key={key}") as sink:
            assert await sink.send(entries(1)) == Delivered()
        async with opened_sink(f"{address}?ca={ca}") as sink:
            assert isinstance(await sink.send(entries(1)), Unavailable), "it asks for ours"
        async with opened_sink(f"{address}?ca={other}") as sink:
            assert await sink.send(entries(1)) == Unavailable("its certificate is refused")


@pytest.mark.parametrize("content", [None, b"no PEM"])
async def test_unusable_files_are_found_when_the_sink_opens(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    sink = sink_at(f"webhook+https://h/?ca={file}")
    with pytest.raises(SinkError, match=str(file)):
        await sink.open()


def test_options_that_contradict_each_other() -> None:
    for address, why in (
        ("webhook+http://h/?ca=/x", "got the option 'ca', expected a scheme with TLS"),
        ("webhook+https://h/?cert=/x", "expected the options 'cert' and 'key' together"),
        ("datadog://site:80", "got 'site:80', expected a site such as datadoghq.eu"),
    ):
        with pytest.raises(ConfigurationError, match="SARK_SIEM_SINKS: the sink main: ") as caught:
            sink_at(address, TOKEN)
        assert why in str(caught.value)


async def test_a_sink_that_is_not_open_says_so() -> None:
    with pytest.raises(SinkError, match="not open"):
        await sink_at("webhook+http://h/").send(entries(1))
