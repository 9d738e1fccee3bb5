"""Events read back from a queue."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from sark.errors import UnreadableEventError
from sark.siem.event import AuditEvent, encode_event, new_event_id
from sark.siem.record import decode
from tests.support.audit_events import EVENTS, QUEUED, TIME, closing_event
from tests.support.gateways import audit_event

LEAST = b'{"id":"x","time":"2026-01-02T03:04:05Z","type":"decision"'


@given(EVENTS)
def test_an_event_is_read_as_it_was_written(event: AuditEvent) -> None:
    record = decode(encode_event(event))
    for name in AuditEvent.__struct_fields__:
        if name not in {"context", "truncated"}:
            assert getattr(record, name) == getattr(event, name), name
    assert msgspec.json.decode(record.context) == msgspec.json.decode(
        msgspec.json.encode(event.context)
    )


@given(QUEUED)
def test_line_breaks_between_members_are_taken_out(raw: bytes) -> None:
    record = decode(msgspec.json.format(raw, indent=2))
    assert record == decode(raw)
    assert b"\n" not in bytes(record.context)


def test_a_closing_event_tells_who_was_refused_how_often_and_since_when() -> None:
    first_id = new_event_id()
    record = decode(closing_event(first_id=first_id, identity="ip:::1", count=7))
    assert (record.type, record.count, record.allow) == ("refusals", 7, False)
    assert (record.address, record.credential, record.time) == ("::1", None, TIME)
    assert record.started == int(first_id.replace("-", "")[:12], 16)


@pytest.mark.parametrize("first_id", ["", "x", "00000000-0000-4000-8000-000000000000"])
def test_an_id_that_holds_no_time_tells_no_start(first_id: str) -> None:
    assert decode(closing_event(first_id=first_id)).started is None


def test_an_api_key_that_was_refused_is_the_credential() -> None:
    record = decode(closing_event(first_id="x", identity="apikey:k:1"))
    assert (record.credential, record.address) == ("k:1", None)


@pytest.mark.parametrize(
    ("fields", "session_id"),
    [
        ({"policy": "", "action": "session:create", "resource": "s-1"}, "s-1"),
        ({"policy": "authz", "action": "session:create", "resource": "s-1"}, ""),
        ({"policy": "", "action": "server:read", "resource": "s-1"}, ""),
    ],
)
def test_only_our_own_events_are_about_sessions(fields: dict[str, Any], session_id: str) -> None:
    assert decode(encode_event(audit_event(**fields))).session_id == session_id


def test_milliseconds_are_those_that_have_passed() -> None:
    record = decode(b'{"id":"x","type":"decision","time":"2026-11-26T15:04:05.678999Z"}')
    assert record.milliseconds == 1_795_705_445_678


def test_what_later_versions_write_is_read() -> None:
    record = decode(LEAST + b',"v":2,"region":"eu","context":{"a":1},"type":"verdict"}')
    assert (record.v, record.type, bytes(record.context)) == (2, "verdict", b'{"a":1}')


def test_the_least_event_has_nothing_else() -> None:
    record = decode(LEAST + b"}")
    assert (record.has_context, record.allow, record.count) == (False, False, 1)
    assert (record.address, record.credential, record.session_id, record.started) == (
        None,
        None,
        "",
        None,
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'"text"',
        LEAST,
        LEAST + b"}}",
        LEAST + b',"user_id":7}',
        LEAST + b',"user_id":"secret-\xff"}',
        LEAST + b',"context":{"secret":"\xff"}}',
        LEAST + b',"context":{"secret":"a\nb"}}',
        LEAST + b',"context":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id":"","time":"2026-01-02T03:04:05Z","type":"decision"}',
        b'{"id":"x","time":"2026-01-02T03:04:05","type":"decision"}',
        b'{"id":"x","time":"secret","type":"decision"}',
        b'{"id":"x","type":"decision"}',
    ],
)
def test_what_is_no_event_is_refused_and_not_repeated(raw: bytes) -> None:
    with pytest.raises(UnreadableEventError) as caught:
        decode(raw)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 200
