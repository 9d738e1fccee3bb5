"""Syslog over TCP and TLS: RFC 5424 messages with octet counting (RFC 6587, RFC 5425).

Best effort: nothing in syslog acknowledges a message. What is done about that stands in
``sark.siem.sinks.syslog_stream``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress

from sark.errors import SinkError
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.blocking import OneAtATime
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.options import choice, flag, text, whole
from sark.siem.sinks.syslog_message import FACILITIES, SEVERITIES, SyslogFraming, SyslogOrigin
from sark.siem.sinks.syslog_stream import SyslogStream
from sark.siem.sinks.tls import TLS_OPTIONS, check_tls_options, client_context
from sark.siem.sinks.verdict import Delivered, Unauthorized, Unavailable, Verdict

__all__ = ["SINK", "SyslogSink"]

# For TCP no port is assigned; this is the one in use (RFC 6587, section 3.1).
PORTS = {"tcp": 514, "tls": 6514}
APP, MSGID = "sark", "audit"
MOST_EVENTS, MOST_BYTES = 5000, 4 * 2**20
# RFC 5425 obliges receivers to 2,048 octets and recommends 8,192; rsyslog cuts off what is longer.
DEFAULT_MESSAGE_BYTES = 8192
SMALLEST_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES = 2048, 2**20
# All that stands before an event whose id is a UUID, the mark included, with names of full length.
HEADER_BYTES = 640
# The thread gives up first, so that it is free for the next batch.
MARGIN_SECONDS = 0.5


class SyslogSink:
    """Sends events as syslog messages.

    Args:
        plan: The sink; its options are those of ``SINK``.

    Raises:
        ConfigurationError: Options that contradict each other.
    """

    def __init__(self, plan: SinkPlan) -> None:
        self._options = plan.options
        self._is_tls = plan.address.transport == "tls"
        check_tls_options(plan.options, tls=self._is_tls)
        self.limits = SinkLimits(
            events=MOST_EVENTS,
            bytes=MOST_BYTES,
            event_bytes=plan.options["message_bytes"] - HEADER_BYTES,
        )
        self._timeout = plan.common.timeout
        self._host = plan.address.host
        self._port = plan.address.port or PORTS[plan.address.transport]
        origin = SyslogOrigin(
            facility=plan.options["facility"],
            severity=plan.options["severity"],
            host=plan.options["hostname"] or socket.gethostname(),
            app=plan.options["app"],
            process=str(os.getpid()),
            msgid=MSGID,
            data_id=plan.options["data_id"],
        )
        self._framing = SyslogFraming(origin, mark=plan.options["bom"])
        self._stream: SyslogStream | None = None
        self._thread = OneAtATime("sark-syslog-sink")

    async def open(self) -> None:
        """Read the certificates; the first batch connects.

        Raises:
            SinkError: They are unusable.
        """
        context = None
        if self._is_tls:
            files = [self._options[name] for name in ("ca", "cert", "key")]
            context = await asyncio.to_thread(client_context, *files)
        confirm = self._options["confirm"]
        self._stream = SyslogStream(self._host, self._port, context=context, confirm=confirm)

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Send events, and see that they leave this machine."""
        stream = self._stream
        if stream is None:
            raise SinkError("the sink is not open")

        def send() -> None:
            data = b"".join(map(self._framing.frame, entries))
            stream.send(data, timeout=self._timeout)

        try:
            await self._thread.run(send, timeout=self._timeout + MARGIN_SECONDS)
        except ssl.SSLCertVerificationError as error:
            return Unavailable(f"its certificate is refused: {error.verify_message}")
        except ssl.SSLEOFError:
            return Unavailable("it closed the connection")
        except ssl.SSLError as error:
            return _tls_failure(error)
        except OSError as error:
            return Unavailable(_reason(error))
        return Delivered()

    async def close(self) -> None:
        """Close the connection; one that hangs is closed by the end of the process."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(TimeoutError):
                await self._thread.run(stream.close, timeout=self._timeout + 2 * MARGIN_SECONDS)
        self._thread.close()


def _tls_failure(error: ssl.SSLError) -> Verdict:
    """Tell a receiver that refuses our certificate from other failures: waiting won't help that."""
    reason = error.reason or ""
    refusals = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
    if "ALERT" in reason and any(word in reason for word in refusals):
        return Unauthorized("it refuses our certificate")
    return Unavailable("TLS failed")


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it does not take messages in time"
    if isinstance(error, socket.gaierror):
        return "its host name cannot be resolved"
    return os.strerror(error.errno).lower() if error.errno else str(error)


SINK = SinkKind(
    schemes=("syslog+tcp", "syslog+tls"),
    formats=("cef", "ocsf", "ecs", "sark"),
    make=SyslogSink,
    options={
        "facility": choice(*FACILITIES, default="audit"),
        "severity": choice(*SEVERITIES, default="info"),
        "hostname": text("a host name of up to 255 printable characters", "[!-~]{1,255}"),
        "app": text("a name of up to 48 printable characters", "[!-~]{1,48}", default=APP),
        "data_id": text(
            'name@number of up to 32 printable characters, without =, ] and "',
            r"(?=.{1,32}$)[!#-<>-?A-\\^-~]+@[0-9]+(?:\.[0-9]+)*",
            # The number that RFC 5612 sets aside for examples: SARK has none of its own.
            default="sark@32473",
        ),
        "bom": flag(default=True),
        "message_bytes": whole(
            SMALLEST_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES, default=DEFAULT_MESSAGE_BYTES
        ),
        "confirm": flag(default=False),
        **TLS_OPTIONS,
    },
    credential="none",
)
