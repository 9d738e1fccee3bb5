"""Datadog's intake of logs over HTTP, version 2.

Limits and statuses are those of the documentation ("Send logs": 5 MB uncompressed, 1 MB for a
single log, 1,000 logs; 202 when accepted). An accepted log that is longer than 1 MB is truncated
without a word, so none is sent. The event stands in ``message`` as text, where Datadog reads JSON
by itself, and no attribute of a format can collide with a reserved one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sark.errors import ConfigurationError
from sark.siem.sinks.answers import Answer, by_status
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.http import HttpClient
from sark.siem.sinks.json_entries import as_json_text
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.options import text
from sark.siem.sinks.tls import TLS_OPTIONS
from sark.siem.sinks.verdict import Unavailable, Verdict

__all__ = ["SINK", "DatadogSink", "classify"]

LARGEST_BYTES: Final = 5_000_000
LARGEST_EVENT_BYTES: Final = 1_000_000
MOST_EVENTS: Final = 1000
# In JSON text a quote becomes two characters.
ESCAPED: Final = 2


class DatadogSink:
    """Sends to Datadog.

    Args:
        plan: Its options are those of ``SINK``.

    Raises:
        ConfigurationError: The address has a port or a path.
    """

    def __init__(self, plan: SinkPlan) -> None:
        address, options = plan.address, plan.options
        if address.port is not None or address.path not in {"", "/"}:
            raise ConfigurationError(
                f"got {address.location + address.path!r}, expected a site such as datadoghq.eu "
                "(the option 'url' sends elsewhere)"
            )
        url = options["url"] or f"https://http-intake.logs.{address.host}/api/v2/logs"
        key = plan.token.get_secret_value() if plan.token else ""
        self._client = HttpClient(
            plan, url, {"DD-API-KEY": key, "Content-Type": "application/json"}
        )
        given = {"ddsource": options["source"], "service": options["service"]}
        given |= {"ddtags": options["tags"], "hostname": options["host"]}
        named = {name: value for name, value in given.items() if value is not None}
        self._head = msgspec.json.encode(named)[:-1] + b',"timestamp":'
        around = len(self._head) + 40
        self._limits = SinkLimits(
            events=MOST_EVENTS,
            bytes=(LARGEST_BYTES - MOST_EVENTS * around) // ESCAPED,
            event_bytes=(LARGEST_EVENT_BYTES - around) // ESCAPED,
        )

    @property
    def limits(self) -> SinkLimits:
        """What one request may hold."""
        return self._limits

    async def open(self) -> None:
        """Prepare the client."""
        await self._client.open()

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Send a batch as one array."""
        logs = b",".join(
            b'%b%d,"message":%b}' % (self._head, round(entry.time * 1000), as_json_text(entry))
            for entry in entries
        )
        answer = await self._client.post(b"[%b]" % logs)
        return answer if isinstance(answer, Unavailable) else classify(answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def classify(answer: Answer) -> Verdict:
    """Judge an answer. Datadog's statuses mean what HTTP says: 408, 429 and 5xx are transient."""
    return by_status(answer)


_NAME = r"[!-~]{1,200}"

SINK = SinkKind(
    schemes=("datadog",),
    formats=("ocsf", "ecs", "sark", "cef"),
    make=DatadogSink,
    options={
        **TLS_OPTIONS,
        "source": text("1 to 200 characters without spaces", _NAME, default="sark"),
        "service": text("1 to 200 characters without spaces", _NAME, default="sark"),
        "host": text("1 to 200 characters without spaces", _NAME),
        "tags": text("tags such as env:prod,team:iam (a comma as %2C)", r"[!-~]{1,1000}"),
        "url": text(
            "an address such as https://proxy.example/api/v2/logs, without user and query",
            r"https?://[^\s@?#]+",
        ),
    },
    credential="needed",
)
