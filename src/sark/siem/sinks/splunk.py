"""Splunk's HTTP Event Collector (HEC), with indexer acknowledgement where asked for.

Events are stacked one behind the other, not an array, as Splunk documents it ("Format events for
HTTP Event Collector"). Answers carry a code beside the status ("Troubleshoot HTTP Event Collector",
possible error codes). With acknowledgement, events count as delivered once the indexer says that
they are safe; without it, once the collector has taken them into its queue.

Acknowledgements are numbered per channel, and a collector that is restarted numbers from the start
again. So a channel carries one batch at a time, and is left when the fate of that is not known:
otherwise a later batch that got the same number would answer for one that was lost.

What the collector does with the events before an invalid one is documented nowhere, and
``invalid-event-number`` counts from 0 for some codes and from 1 for others (an incorrect index). So
the number only says where to split: every event is sent until it was taken or refused alone, and
those that Splunk had indexed already arrive twice, under the same id.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from sark.siem.sinks.answers import Answer, by_status
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.http import HttpClient, address_url
from sark.siem.sinks.json_entries import as_json
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.options import flag, text, whole
from sark.siem.sinks.tls import TLS_OPTIONS
from sark.siem.sinks.verdict import (
    Delivered,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
    Verdict,
)

__all__ = ["SINK", "SplunkSink", "classify", "classify_ack"]

EVENTS_PATH: Final = "/services/collector/event"
ACK_PATH: Final = "/services/collector/ack"
CHANNEL_HEADER: Final = "X-Splunk-Request-Channel"
# The size that Splunk recommends for Splunk Cloud; its own limit is far above.
LARGEST_BYTES: Final = 1_000_000
MOST_EVENTS: Final = 1000
TIME_BYTES: Final = 20
NO_ACKNOWLEDGEMENT: Final = "indexer acknowledgement is asked for, and the token has it off"
FIRST_POLL_SECONDS: Final = 0.1
LONGEST_POLL_SECONDS: Final = 2.0

_HEAD = b'{"time":'
_BUSY = frozenset({9, 18, 19, 20, 23})
_FULL = frozenset({26, 27})
_NEARLY_FULL = frozenset({24, 25})
_BAD_DATA = frozenset({5, 6, 12, 13, 15})
_SERVER_ERROR = 8
# What holds for all events alike: token, index, channel, acknowledgement.
_REFUSALS_OF_US = frozenset({1, 2, 3, 4, 7, 10, 11, 14, 16, 21, 22})


class SplunkSink:
    """Sends to an HTTP Event Collector.

    Args:
        plan: Its options are those of ``SINK``.
    """

    def __init__(self, plan: SinkPlan) -> None:
        token = plan.token.get_secret_value() if plan.token else ""
        self._ack: bool = plan.options["ack"]
        self._ack_timeout: int = plan.options["ack_timeout"]
        self._longest = plan.common.timeout + self._ack_timeout if self._ack else 0.0
        headers = {"Authorization": f"Splunk {token}", "Content-Type": "application/json"}
        self._idle_channels: list[str] = []
        # A balancer in between must lead to the indexer that was sent the events, by its cookie.
        self._client = HttpClient(plan, address_url(plan), headers, keep_cookies=self._ack)
        self._json = plan.is_json
        self._tail = _metadata(plan)

    @property
    def limits(self) -> SinkLimits:
        """What one request may hold."""
        around = len(_HEAD) + TIME_BYTES + len(self._tail)
        # In JSON text a quote becomes two characters.
        growth = 1 if self._json else 2
        return SinkLimits(
            events=MOST_EVENTS,
            bytes=(LARGEST_BYTES - MOST_EVENTS * around) // growth,
            event_bytes=(LARGEST_BYTES - around) // growth,
            seconds=self._longest,
        )

    async def open(self) -> None:
        """Prepare the client."""
        await self._client.open()

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Send a batch; with acknowledgement, wait until it is indexed as well."""
        if self._ack:
            return await self._send_and_wait(entries)
        answer = await self._client.post(self._body(entries), path=EVENTS_PATH)
        return answer if isinstance(answer, Unavailable) else classify(answer, len(entries))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _body(self, entries: Sequence[Entry]) -> bytes:
        return b"\n".join(
            b"%b%.3f,%b%b}" % (_HEAD, entry.time, self._tail, as_json(entry, self._json))
            for entry in entries
        )

    async def _send_and_wait(self, entries: Sequence[Entry]) -> Verdict:
        channel = self._idle_channels.pop() if self._idle_channels else str(uuid.uuid4())
        headers = {CHANNEL_HEADER: channel}
        answer = await self._client.post(self._body(entries), path=EVENTS_PATH, headers=headers)
        if isinstance(answer, Unavailable):
            return answer
        verdict = classify(answer, len(entries))
        if isinstance(verdict, Delivered):
            ack_id = answer.json_object().get("ackId")
            if not isinstance(ack_id, int):
                return Unauthorized(NO_ACKNOWLEDGEMENT)
            failure = await self._wait_for_index(ack_id, headers)
            if failure is not None:
                return failure
        self._idle_channels.append(channel)
        return verdict

    async def _wait_for_index(self, ack_id: int, headers: Mapping[str, str]) -> Verdict | None:
        """Ask until the events are indexed; None when they are."""
        body = json.dumps({"acks": [ack_id]}).encode()
        pause = FIRST_POLL_SECONDS
        try:
            async with asyncio.timeout(self._ack_timeout):
                while True:
                    await asyncio.sleep(pause)
                    answer = await self._client.post(body, path=ACK_PATH, headers=headers)
                    if isinstance(answer, Answer):
                        verdict = classify_ack(answer, ack_id)
                        if not isinstance(verdict, Unavailable):
                            return None if isinstance(verdict, Delivered) else verdict
                    pause = min(pause * 2, LONGEST_POLL_SECONDS)
        except TimeoutError:
            return Unavailable(f"not indexed within {self._ack_timeout} s")


def _metadata(plan: SinkPlan) -> bytes:
    """Return what stands between an event's time and its body."""
    given = {name: plan.options[name] for name in ("host", "source", "sourcetype", "index")}
    named = {name: value for name, value in given.items() if value is not None}
    return msgspec.json.encode(named)[1:-1] + b',"event":'


def classify(answer: Answer, count: int) -> Verdict:
    """Judge an answer to events, by its code where it has one.

    Args:
        answer: What came.
        count: How many events were sent.
    """
    said = answer.json_object()
    code = said.get("code")
    reason = _reason(answer, said)
    verdict = _by_code(code, answer, reason) or by_status(answer, reason)
    if isinstance(verdict, Rejected):
        return Rejected(reason, _suspect(said.get("invalid-event-number"), count))
    if isinstance(verdict, Delivered) and not said:
        # A collector says so in JSON; the page of a proxy or a login must not swallow events.
        return Unavailable(f"not the answer of a collector: {reason}")
    return verdict


def classify_ack(answer: Answer, ack_id: int) -> Verdict:
    """Judge an answer to the question whether events are indexed.

    Returns:
        ``Delivered`` if they are, ``Unavailable`` if the question has to be asked again, else
        ``Unauthorized``.
    """
    said = answer.json_object()
    if not answer.is_success:
        verdict = classify(answer, 0)
        return verdict if isinstance(verdict, Unauthorized) else Unavailable(answer.said())
    acks = said.get("acks")
    if isinstance(acks, dict) and acks.get(str(ack_id)) is True:
        return Delivered()
    return Unavailable("not indexed yet")


def _by_code(code: object, answer: Answer, reason: str) -> Verdict | None:
    """Judge an answer by its code; None where the status says more."""
    verdict: Verdict | None = None
    if not isinstance(code, int) or answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return None
    if code in _REFUSALS_OF_US:
        verdict = Unauthorized(reason)
    elif code in _BUSY or code == _SERVER_ERROR:
        verdict = Unavailable(reason, answer.after)
    elif code in _FULL:
        verdict = Throttled(reason, answer.after)
    elif code in _BAD_DATA:
        verdict = Rejected(reason)
    elif answer.is_success:
        verdict = Delivered(slow_down=code in _NEARLY_FULL)
    return verdict


def _reason(answer: Answer, said: dict[str, Any]) -> str:
    named = said.get("text")
    if not isinstance(named, str):
        return answer.said()
    return answer.said(f"{named} (code {said.get('code')})")


def _suspect(number: object, count: int) -> int | None:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= count:
        return None
    # Counted from 1 it may lie one behind the last.
    return min(number, count - 1) if count else None


_NAME = text("1 to 256 printable ASCII characters", r"[ -~]{1,256}")

SINK = SinkKind(
    schemes=("splunk+https", "splunk+http"),
    formats=("ocsf", "ecs", "sark", "cef"),
    make=SplunkSink,
    options={
        **TLS_OPTIONS,
        "index": text("the name of an index", r"[a-z0-9_][a-z0-9_-]{0,79}"),
        "host": _NAME,
        "source": text("1 to 256 printable ASCII characters", r"[ -~]{1,256}", default="sark"),
        "sourcetype": _NAME,
        "ack": flag(),
        "ack_timeout": whole(1, 600, default=120),
    },
    credential="needed",
)
