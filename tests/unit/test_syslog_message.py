"""Syslog messages are what RFC 5424 says, whatever the events hold."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.siem.sinks.base import Entry
from sark.siem.sinks.syslog_message import FACILITIES, SEVERITIES, SyslogFraming, SyslogOrigin
from tests.support.syslog import read_message, split_frames

ORIGIN = SyslogOrigin(
    facility="audit",
    severity="notice",
    host="gateway-1.example",
    app="sark",
    process="4711",
    msgid="audit",
    data_id="sark@32473",
)
MOMENT = 1767323045.000003

entries = st.builds(
    Entry,
    id=st.text(st.characters(codec="utf-8"), max_size=40),
    time=st.floats(0, 4e9),
    body=st.one_of(
        st.binary(max_size=200).map(lambda blob: blob.replace(b"\n", b"")),
        st.text(st.characters(codec="utf-8"), max_size=80).map(str.encode),
    ),
)
names = st.text(st.characters(codec="utf-8"), max_size=300)


def test_a_message() -> None:
    framed = SyslogFraming(ORIGIN).frame(Entry("e1", MOMENT, b"CEF:0|SARK|"))
    message = (
        b"<109>1 2026-01-02T03:04:05.000003Z gateway-1.example sark 4711 audit "
        b'[sark@32473 eventId="e1"] CEF:0|SARK|'
    )
    assert framed == b"%d %b" % (len(message), message)


@given(st.lists(entries, max_size=5))
def test_messages_are_read_back_from_their_stream(events: list[Entry]) -> None:
    framing = SyslogFraming(ORIGIN)
    frames, rest = split_frames(b"".join(map(framing.frame, events)))
    assert rest == b""
    for event, message in zip(events, map(read_message, frames), strict=True):
        assert message.params == {"eventId": event.id}
        assert message.body == event.body
        assert message.marked is not event.body.isascii()
        assert abs(message.time.timestamp() - event.time) < 1e-5


@given(
    st.builds(
        SyslogOrigin,
        facility=st.sampled_from(FACILITIES),
        severity=st.sampled_from(SEVERITIES),
        host=names,
        app=names,
        process=names,
        msgid=names,
        data_id=st.just("x@32473.1"),
    )
)
def test_names_are_made_to_fit(origin: SyslogOrigin) -> None:
    (framed,), _ = split_frames(SyslogFraming(origin).frame(Entry("e", MOMENT, b"x")))
    message = read_message(framed)
    assert FACILITIES[message.facility] == origin.facility
    assert SEVERITIES[message.severity] == origin.severity
    assert message.time == datetime(2026, 1, 2, 3, 4, 5, 3, UTC)


@pytest.mark.parametrize(
    ("body", "mark", "expected"),
    [
        (b"plain", True, False),
        ("Zoë".encode(), True, True),
        ("Zoë".encode(), False, False),
    ],
)
def test_the_mark_of_utf8_stands_where_it_says_something(
    body: bytes, mark: bool, expected: bool
) -> None:
    (framed,), _ = split_frames(SyslogFraming(ORIGIN, mark=mark).frame(Entry("e", MOMENT, body)))
    message = read_message(framed)
    assert (message.marked, message.body) == (expected, body)
