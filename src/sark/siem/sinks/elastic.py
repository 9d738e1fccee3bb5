"""Elasticsearch and OpenSearch, by their bulk API.

Each event is a ``create`` under its own id, the only action that data streams take. An event that
is there already answers 409 and counts as delivered, so sending one again makes no second document
(in a data stream: unless it has rolled over in between, since ids count per backing index).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from sark.siem.sinks.answers import Answer, by_status
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.http import HttpClient, address_url
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.options import text
from sark.siem.sinks.tls import TLS_OPTIONS
from sark.siem.sinks.verdict import (
    Delivered,
    Partly,
    Throttled,
    Unauthorized,
    Unavailable,
    Verdict,
)

__all__ = ["SINK", "ElasticSink", "classify"]

# Only what is judged, or an answer would hold a few hundred bytes for each event.
ANSWER_PARTS: Final = "filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason"
ANSWER_BYTES: Final = 8 * 2**20
# The server's limit is 100 MB; its documentation advises to stay far below.
LARGEST_BYTES: Final = 5_000_000
MOST_EVENTS: Final = 1000
AROUND_BYTES: Final = 160

_REFUSALS_OF_US = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
# An index that is read-only because the disk is full answers 403, and recovers by itself.
_BLOCKED = "cluster_block_exception"


class ElasticSink:
    """Sends to a bulk API.

    Args:
        plan: Its options are those of ``SINK``.
    """

    def __init__(self, plan: SinkPlan) -> None:
        headers = {"Content-Type": "application/x-ndjson"}
        if plan.token is not None:
            headers["Authorization"] = _authorization(plan.token.get_secret_value())
        self._client = HttpClient(plan, f"{address_url(plan)}/{plan.options['index']}", headers)
        # Data streams need the field, and only ECS has it.
        self._timestamped = plan.format == "ecs"

    @property
    def limits(self) -> SinkLimits:
        """What one request may hold."""
        largest = LARGEST_BYTES - MOST_EVENTS * AROUND_BYTES
        return SinkLimits(events=MOST_EVENTS, bytes=largest, event_bytes=largest)

    async def open(self) -> None:
        """Prepare the client."""
        await self._client.open()

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Send a batch as one bulk request."""
        lines = b"".join(map(self._lines, entries))
        answer = await self._client.post(
            lines, path=f"/_bulk?{ANSWER_PARTS}", answer_bytes=ANSWER_BYTES
        )
        return answer if isinstance(answer, Unavailable) else classify(answer, len(entries))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _lines(self, entry: Entry) -> bytes:
        action = msgspec.json.encode({"create": {"_id": entry.id}})
        document = entry.body
        if not self._timestamped:
            time = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds")
            document = b'{"@timestamp":"%b",%b' % (time.encode(), document[1:])
        return b"%b\n%b\n" % (action, document)


def classify(answer: Answer, count: int) -> Verdict:
    """Judge an answer to a bulk request, item by item.

    Args:
        answer: What came.
        count: How many events were sent.
    """
    if not answer.is_success:
        return by_status(answer)
    said = answer.json_object()
    if said.get("errors") is False:
        return Delivered()
    items = said.get("items")
    if not isinstance(items, list) or len(items) != count:
        # Which events it means cannot be told. Sending them again makes no second document.
        return Unavailable(answer.said("an answer that is not that of a bulk API"), answer.after)
    return _combine([_item(item) for item in items], answer)


class _Item(NamedTuple):
    """What an answer says of one event."""

    status: int
    kind: str
    reason: str


def _combine(items: Sequence[_Item], answer: Answer) -> Verdict:
    bad: dict[int, str] = {}
    retry: dict[int, int] = {}
    why = ""
    for position, item in enumerate(items):
        if item.status < HTTPStatus.MULTIPLE_CHOICES or item.status == HTTPStatus.CONFLICT:
            continue
        told = answer.said(f"item {item.status}, {item.kind}: {item.reason}")
        if _is_transient(item):
            retry[position] = item.status
            why = told
        elif item.status in _REFUSALS_OF_US:
            # It holds for all events alike. Those that were taken are found again by their ids.
            return Unauthorized(told)
        else:
            bad[position] = told
    if not retry:
        return Partly(bad) if bad else Delivered()
    if len(retry) < len(items):
        return Partly(bad, frozenset(retry), why, answer.after)
    if set(retry.values()) == {HTTPStatus.TOO_MANY_REQUESTS}:
        return Throttled(why, answer.after)
    return Unavailable(why, answer.after)


def _is_transient(item: _Item) -> bool:
    return (
        item.status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
        or item.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or item.kind == _BLOCKED
    )


def _item(item: object) -> _Item:
    """Read one item, ``{"create": {...}}``; one that cannot be read has to be sent again."""
    result = next(iter(item.values()), None) if isinstance(item, dict) else None
    if not isinstance(result, dict) or type(result.get("status")) is not int:
        return _Item(HTTPStatus.INTERNAL_SERVER_ERROR, "unreadable", "")
    error = result.get("error")
    if not isinstance(error, dict):
        return _Item(result["status"], "", str(error or ""))
    return _Item(result["status"], str(error.get("type", "")), str(error.get("reason", "")))


def _authorization(token: str) -> str:
    """Tell a user with password from an API key, which is Base64 and has no colon."""
    if ":" in token:
        return f"Basic {base64.b64encode(token.encode()).decode()}"
    return f"ApiKey {token}"


SINK = SinkKind(
    schemes=("elastic+https", "elastic+http"),
    formats=("ecs", "ocsf", "sark"),
    make=ElasticSink,
    options={
        **TLS_OPTIONS,
        "index": text(
            "the name of an index or data stream",
            r"[a-z0-9][a-z0-9._-]{0,200}",
            default="logs-sark.audit-default",
        ),
    },
)
