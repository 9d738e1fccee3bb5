"""OTLP over HTTP: log records in the protocol's JSON encoding (OTLP 1.x, "OTLP/HTTP").

The specification names the statuses after which a request may be sent again: 429, 502, 503, 504.
Any other failure means that the receiver will not take the request, 500 as well. A partial success
must never be sent again, although the answer only tells how many records were rejected and not
which. So all events of such a batch become dead letters: those that were rejected are kept, and
those that were taken arrive a second time, under the same id, should somebody replay them.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from sark.siem.sinks.answers import Answer, by_status
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.http import HttpClient, address_url
from sark.siem.sinks.json_entries import as_json_text
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.options import text
from sark.siem.sinks.tls import TLS_OPTIONS
from sark.siem.sinks.verdict import (
    Delivered,
    Partly,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
    Verdict,
)

__all__ = ["SINK", "OtlpSink", "classify"]

LOGS_PATH: Final = "/v1/logs"
# Collectors take 20 MiB and more; others behind proxies take less.
LARGEST_BYTES: Final = 4_000_000
MOST_EVENTS: Final = 1000
AROUND_BYTES: Final = 260
# In JSON text a quote becomes two characters.
ESCAPED: Final = 2
SEVERITY_INFO: Final = 9
NANOSECONDS: Final = 1_000_000_000
MICROSECONDS: Final = 1_000_000

_AGAIN = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


class OtlpSink:
    """Sends log records.

    Args:
        plan: Its options are those of ``SINK``.
    """

    def __init__(self, plan: SinkPlan) -> None:
        url = address_url(plan)
        headers = {"Content-Type": "application/json"}
        if plan.token is not None:
            token, name = plan.token.get_secret_value(), plan.options["header"]
            headers[name or "Authorization"] = token if name else f"Bearer {token}"
        self._client = HttpClient(
            plan, url if url.endswith(LOGS_PATH) else url + LOGS_PATH, headers
        )
        self._head = _resource(plan.options["service"])

    @property
    def limits(self) -> SinkLimits:
        """What one request may hold."""
        largest = (LARGEST_BYTES - MOST_EVENTS * AROUND_BYTES) // ESCAPED
        return SinkLimits(events=MOST_EVENTS, bytes=largest, event_bytes=largest)

    async def open(self) -> None:
        """Prepare the client."""
        await self._client.open()

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Send a batch as one request."""
        body = b"%b%b]}]}]}" % (self._head, b",".join(map(_record, entries)))
        answer = await self._client.post(body)
        return answer if isinstance(answer, Unavailable) else classify(answer, len(entries))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def classify(answer: Answer, count: int) -> Verdict:
    """Judge an answer.

    Args:
        answer: What came.
        count: How many events were sent.
    """
    if answer.is_success:
        return _partial(answer, count)
    if answer.status in _AGAIN:
        return Unavailable(answer.said(), answer.after)
    verdict = by_status(answer)
    if isinstance(verdict, Throttled | TooLarge | Unauthorized):
        return verdict
    return Rejected(answer.said())


def _partial(answer: Answer, count: int) -> Verdict:
    # Success by its status; a body in another encoding must not make it a failure.
    partial = answer.json_object().get("partialSuccess")
    if not isinstance(partial, dict):
        return Delivered()
    rejected = _whole(partial.get("rejectedLogRecords"))
    if rejected <= 0:
        return Delivered()
    why = answer.said(f"{rejected} of {count} rejected: {partial.get('errorMessage', '')}")
    if rejected < count:
        why = f"{why} (which of them is not said; this one may have been taken)"
    return Partly(bad=dict.fromkeys(range(count), why))


def _whole(value: object) -> int:
    """Read a 64-bit number, which the JSON encoding of Protocol Buffers writes as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:18])
    return value if isinstance(value, int) else 0


def _resource(service: str) -> bytes:
    """Return all that stands before the records."""
    resource: dict[str, Any] = {
        "attributes": [{"key": "service.name", "value": {"stringValue": service}}]
    }
    return (
        b'{"resourceLogs":[{"resource":%b,"scopeLogs":[{"scope":{"name":"sark"},"logRecords":['
        % msgspec.json.encode(resource)
    )


def _record(entry: Entry) -> bytes:
    # A float does not hold nanoseconds; the last three digits would be noise.
    nanoseconds = round(entry.time * MICROSECONDS) * (NANOSECONDS // MICROSECONDS)
    return (
        b'{"timeUnixNano":"%d","observedTimeUnixNano":"%d","severityNumber":%d,'
        b'"severityText":"INFO","body":{"stringValue":%b},'
        b'"attributes":[{"key":"log.record.uid","value":{"stringValue":%b}}]}'
    ) % (
        nanoseconds,
        nanoseconds,
        SEVERITY_INFO,
        as_json_text(entry),
        msgspec.json.encode(entry.id),
    )


SINK = SinkKind(
    schemes=("otlp+https", "otlp+http"),
    formats=("ocsf", "ecs", "sark", "cef"),
    make=OtlpSink,
    options={
        **TLS_OPTIONS,
        "service": text("1 to 200 characters without spaces", r"[!-~]{1,200}", default="sark"),
        "header": text("the name of the header that carries the credential", r"[A-Za-z0-9-]{1,64}"),
    },
)
