"""What holds for all formats."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from sark.errors import ConfigurationError
from sark.siem.event import encode_event
from sark.siem.formats import FORMAT_NAMES, format_of
from sark.siem.formats.meaning import Meaning, Verb, address_of, meaning_of, verb_of
from sark.siem.record import decode
from tests.support.audit_events import QUEUED
from tests.support.gateways import audit_event


@given(QUEUED)
def test_an_event_is_one_line_of_utf_8_with_its_id_and_always_the_same(raw: bytes) -> None:
    record = decode(raw)
    for name in FORMAT_NAMES:
        line = format_of(name).encode(record, raw)
        assert len(line.decode().splitlines()) == 1 or name != "cef"
        assert b"\n" not in line
        assert b"\r" not in line
        assert record.id.encode() in line
        assert line == format_of(name).encode(decode(raw), raw)


@given(QUEUED)
def test_our_own_format_is_what_was_queued(raw: bytes) -> None:
    form = format_of("sark")
    assert form.encode(decode(raw), raw) == raw
    pretty = msgspec.json.format(raw, indent=2)
    assert msgspec.json.decode(form.encode(decode(pretty), pretty)) == msgspec.json.decode(raw)


def test_formats_have_the_names_they_are_found_by() -> None:
    assert FORMAT_NAMES == ("sark", "ocsf", "ecs", "cef")
    assert [format_of(name).name for name in FORMAT_NAMES] == [*FORMAT_NAMES]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'xml', expected one of: sark, ocsf, ecs, cef"):
        format_of("xml")


@pytest.mark.parametrize(
    ("action", "verb"),
    [
        ("server:read", Verb.READ),
        ("s3:GetObject", Verb.READ),
        ("ec2:DescribeInstances", Verb.READ),
        ("list_all", Verb.READ),
        ("org:team:member:add", Verb.CREATE),
        ("PUT", Verb.UPDATE),
        ("session:refresh", Verb.UPDATE),
        ("session:revoke", Verb.DELETE),
        ("user:delete-all", Verb.DELETE),
        ("read:approve", Verb.OTHER),
        ("server:reader", Verb.OTHER),
        ("server:", Verb.OTHER),
        ("/v1/authorize", Verb.OTHER),
        ("", Verb.OTHER),
        ("\u0130", Verb.OTHER),
    ],
)
def test_what_an_action_does(action: str, verb: Verb) -> None:
    assert verb_of(action) is verb


@pytest.mark.parametrize(
    ("type_", "allow", "reason", "meaning"),
    [
        ("decision", True, "", Meaning.ALLOWED),
        ("decision", False, "rate_limit:user", Meaning.DENIED),
        ("refusal", False, "rate_limit:ip", Meaning.LIMITED),
        ("refusal", False, "session:expired", Meaning.UNAUTHENTICATED),
        ("refusal", False, "unauthenticated", Meaning.UNAUTHENTICATED),
        ("session", True, "by user", Meaning.SESSION),
    ],
)
def test_what_an_event_means(type_: str, allow: bool, reason: str, meaning: Meaning) -> None:
    event = audit_event(type=type_, allow=allow, reason=reason)
    assert meaning_of(decode(encode_event(event))) is meaning


@pytest.mark.parametrize(
    ("text", "ip", "version"),
    [
        ("10.0.0.1", "10.0.0.1", 4),
        ("2001:DB8::0:1", "2001:db8::1", 6),
        ("fe80::1%eth0", "fe80::1", 6),
        ("unix", None, 0),
        ("10.0.0", None, 0),
        ("", None, 0),
    ],
)
def test_an_address_is_read_as_far_as_it_is_one(text: str, ip: str | None, version: int) -> None:
    assert address_of(text) == (text, ip, version)
