r"""Syslog messages as RFC 5424 writes them, framed by octet counting as in RFC 6587 and RFC 5425.

::

    LENGTH <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID [DATA-ID eventId="..."] MSG

Anything may stand in MSG, since the length tells where it ends. By section 6.4 a MSG in UTF-8
begins with a byte order mark. One that is ASCII is the same without, and receivers that look for
``CEF:0`` at its beginning find it; so the mark is written only where it says something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from sark.siem.sinks.base import Entry

__all__ = ["FACILITIES", "SEVERITIES", "SyslogFraming", "SyslogOrigin"]

FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", "ntp", "audit", "alert", "clock"),
    *("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
"""Names of the facilities, each at the position of its code."""

SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""Names of the severities, each at the position of its code."""

VERSION = 1
NIL = "-"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_HOST, LONGEST_APP, LONGEST_PROCESS, LONGEST_MSGID = 255, 48, 128, 32

_NOT_PRINTABLE = re.compile(r"[^!-~]")
_ESCAPED = re.compile(r'(["\\\]])')


@dataclass(frozen=True, slots=True)
class SyslogOrigin:
    """Where messages come from, and what they are.

    What the RFC does not allow in ``host``, ``app``, ``process`` and ``msgid`` becomes ``_``, and
    what is too long is cut off.

    Attributes:
        facility: One of ``FACILITIES``.
        severity: One of ``SEVERITIES``.
        host: HOSTNAME.
        app: APP-NAME.
        process: PROCID.
        msgid: MSGID.
        data_id: Name of the structured data, in which the event's id stands.
    """

    facility: str
    severity: str
    host: str
    app: str
    process: str
    msgid: str
    data_id: str


class SyslogFraming:
    """Writes events as messages, each with its length before it.

    Args:
        origin: What is the same in all of them.
        mark: Whether a MSG that is not ASCII begins with a byte order mark.
    """

    def __init__(self, origin: SyslogOrigin, *, mark: bool = True) -> None:
        priority = FACILITIES.index(origin.facility) * 8 + SEVERITIES.index(origin.severity)
        names = (
            _name(origin.host, LONGEST_HOST),
            _name(origin.app, LONGEST_APP),
            _name(origin.process, LONGEST_PROCESS),
            _name(origin.msgid, LONGEST_MSGID),
        )
        self._before = f"<{priority}>{VERSION} "
        self._after = f"Z {' '.join(names)} [{origin.data_id} eventId="
        self._mark = BYTE_ORDER_MARK if mark else b""

    def frame(self, entry: Entry) -> bytes:
        """Write one event."""
        time = datetime.fromtimestamp(entry.time, UTC).replace(tzinfo=None)
        event_id = _ESCAPED.sub(r"\\\1", entry.id)
        header = f'{self._before}{time.isoformat("T", "microseconds")}{self._after}"{event_id}"] '
        mark = b"" if entry.body.isascii() else self._mark
        message = b"%b%b%b" % (header.encode(), mark, entry.body)
        return b"%d %b" % (len(message), message)


def _name(text: str, most: int) -> str:
    return _NOT_PRINTABLE.sub("_", text)[:most] or NIL
