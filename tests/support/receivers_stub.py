"""Stand-ins for receivers that cannot be had here, written from their vendors' documentation.

They are real HTTP servers, and no more than what the documentation says: a green test with one of
them shows that we do what is written, not that the product does. Nobody's code is behind them.

- ``HecStub``: Splunk, "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer
  Acknowledgment", and the table of error codes.
- ``DatadogStub``: Datadog, "Send logs" (API v2).
- ``BulkStub``: Elasticsearch, "Bulk API".
- ``OtlpStub``: OpenTelemetry, "OTLP/HTTP", with a partial success where asked for.
- ``WebhookStub``: Standard Webhooks; it keeps what came.
"""

from __future__ import annotations

import gzip
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

__all__ = [
    "BulkStub",
    "DatadogStub",
    "HecStub",
    "OtlpStub",
    "Received",
    "StubReceiver",
    "WebhookStub",
]

TOKEN = "stub-token-0123456789"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; the body no longer compressed."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    compressed: bool


class StubReceiver:
    """An HTTP server on a free port of loopback.

    Attributes:
        requests: What came, in order.
        script: Answers for the next requests, before it answers by itself.
        events: What it has taken, in order.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.script: list[Callable[[Received], web.StreamResponse]] = []
        self.events: list[Any] = []
        self.port = 0
        self._context = context
        self._runner: web.AppRunner | None = None

    def address(self, scheme: str, rest: str = "") -> str:
        """Return the address of a sink that sends here; ``rest`` is its path and options."""
        return f"{scheme}://127.0.0.1:{self.port}{rest}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._context)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def answer(self, received: Received) -> web.StreamResponse:
        """Answer as the product does."""
        raise NotImplementedError

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        compressed = request.headers.get("Content-Encoding") == "gzip"
        # aiohttp's server has unpacked it already.
        body = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        received = Received(
            request.path, dict(request.query), dict(request.headers), body, compressed
        )
        self.requests.append(received)
        if self.script:
            return self.script.pop(0)(received)
        return self.answer(received)


def _told(status: int, text: str, code: int, **more: Any) -> web.Response:
    return web.json_response({"text": text, "code": code, **more}, status=status)


class HecStub(StubReceiver):
    """Splunk's HTTP Event Collector.

    Args:
        ack: Whether the token has indexer acknowledgement.
        index_after: How often an acknowledgement is asked for until it is there.
        keeps_earlier: Whether the events before an invalid one are indexed; nobody documents it.
    """

    def __init__(
        self, *, ack: bool = False, index_after: int = 0, keeps_earlier: bool = False
    ) -> None:
        super().__init__()
        self._ack = ack
        self.index_after = index_after
        self._keeps_earlier = keeps_earlier
        self._asked = 0
        self.channels: list[str | None] = []

    def answer(self, received: Received) -> web.StreamResponse:
        if received.headers.get("Authorization") != f"Splunk {TOKEN}":
            return _told(403, "Invalid token", 4)
        channel = received.headers.get("X-Splunk-Request-Channel")
        self.channels.append(channel)
        if received.path == "/services/collector/ack":
            self._asked += 1
            acks = json.loads(received.body)["acks"]
            done = self._asked > self.index_after
            return web.json_response({"acks": {str(each): done for each in acks}})
        if received.path != "/services/collector/event":
            return web.Response(status=404, text="Not Found")
        if self._ack and channel is None:
            return _told(400, "Data channel is missing", 10)
        return self._take(received.body.decode())

    def _take(self, text: str) -> web.StreamResponse:
        decoder, taken, position = json.JSONDecoder(), list[Any](), 0
        while position < len(text):
            event, position = decoder.raw_decode(text, position)
            while text[position : position + 1].isspace():
                position += 1
            if not event.get("event") or event["event"] == {"bad": True}:
                self.events += taken if self._keeps_earlier else []
                number = {"invalid-event-number": len(taken)}
                return _told(400, "Event field cannot be blank", 13, **number)
            taken.append(event)
        self.events += taken
        more = {"ackId": len(self.requests)} if self._ack else {}
        return _told(200, "Success", 0, **more)


class DatadogStub(StubReceiver):
    """Datadog's intake of logs."""

    def answer(self, received: Received) -> web.StreamResponse:
        if received.headers.get("DD-API-KEY") != TOKEN:
            return web.json_response({"errors": [{"title": "Forbidden"}]}, status=403)
        logs = json.loads(received.body)
        if len(received.body) > 5_000_000 or len(logs) > 1000:
            return web.json_response({"errors": [{"title": "Payload Too Large"}]}, status=413)
        if any("message" not in log for log in logs):
            return web.json_response({"errors": [{"title": "Bad Request"}]}, status=400)
        self.events += logs
        return web.json_response({}, status=202)


class BulkStub(StubReceiver):
    """Elasticsearch's bulk API.

    Attributes:
        documents: What is stored, by id.
        busy: Ids that are refused with 429 once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[str, Any] = {}
        self.busy: set[str] = set()

    def answer(self, received: Received) -> web.StreamResponse:
        if not received.path.endswith("/_bulk"):
            return web.json_response({"error": "no handler found"}, status=405)
        *lines, last = received.body.split(b"\n")
        assert last == b"", "the body ends with a line break"
        items = [
            self._create(json.loads(action)["create"], json.loads(document))
            for action, document in zip(lines[::2], lines[1::2], strict=True)
        ]
        errors = any("error" in item for item in items)
        told = {"errors": errors, "items": [{"create": item} for item in items]}
        return web.json_response(told)

    def _create(self, action: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
        name = action["_id"]
        if name in self.busy:
            self.busy.remove(name)
            return _item(429, "es_rejected_execution_exception", "rejected execution")
        if name in self.documents:
            return _item(409, "version_conflict_engine_exception", "document already exists")
        if "bad" in document or "@timestamp" not in document:
            return _item(400, "document_parsing_exception", "failed to parse")
        self.documents[name] = document
        return {"status": 201}


def _item(status: int, kind: str, reason: str) -> dict[str, Any]:
    return {"status": status, "error": {"type": kind, "reason": reason}}


class OtlpStub(StubReceiver):
    """A receiver of OTLP logs.

    Args:
        rejects: How many records of each request it says it has rejected.
    """

    def __init__(self, rejects: int = 0) -> None:
        super().__init__()
        self._rejects = rejects

    def answer(self, received: Received) -> web.StreamResponse:
        if received.path != "/v1/logs":
            return web.Response(status=404)
        for resource in json.loads(received.body)["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                self.events += scope["logRecords"]
        if not self._rejects:
            return web.json_response({})
        partial = {"rejectedLogRecords": str(self._rejects), "errorMessage": "too old"}
        return web.json_response({"partialSuccess": partial})


class WebhookStub(StubReceiver):
    """Anything that takes a POST."""

    def answer(self, received: Received) -> web.StreamResponse:
        if received.headers["Content-Type"] == "application/json":
            self.events += json.loads(received.body)
        else:
            self.events += map(json.loads, received.body.splitlines())
        return web.Response(status=204)
