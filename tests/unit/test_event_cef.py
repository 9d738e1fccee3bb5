"""Events in CEF, read by a parser written from the standard."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given

from sark.siem.event import encode_event, new_event_id
from sark.siem.formats import format_of
from sark.siem.record import decode
from tests.support.audit_events import QUEUED, closing_event
from tests.support.gateways import audit_event

HEADER = ("version", "vendor", "product", "device", "class", "name", "severity")
PART = r"((?:[^\\|]|\\[\\|])*)\|"
# A key begins after a space and ends at an equals sign; those within values are escaped.
KEY = re.compile(r"(?:^| )([A-Za-z0-9]+)=")
ESCAPES = {"\\\\": "\\", "\\=": "=", "\\n": "\n", "\\r": "\r"}
CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")


def parse(line: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Take a line of CEF apart into its header and its extension."""
    found = re.fullmatch(rf"{PART * len(HEADER)}(.*)", line.decode())
    assert found is not None
    *parts, extension = found.groups()
    header = dict(zip(HEADER, (re.sub(r"\\([\\|])", r"\1", part) for part in parts), strict=True))
    keys = [*KEY.finditer(extension)]
    ends = [*(match.start() for match in keys[1:]), len(extension)]
    pairs = {}
    for match, end in zip(keys, ends, strict=True):
        assert match[1] not in pairs
        value = extension[match.end() : end]
        pairs[match[1]] = re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], value)
    return header, pairs


def written(raw: bytes) -> tuple[dict[str, str], dict[str, str]]:
    return parse(format_of("cef").encode(decode(raw), raw))


def event(**fields: Any) -> tuple[dict[str, str], dict[str, str]]:
    return written(encode_event(audit_event(**fields)))


def without_controls(text: str) -> str:
    return CONTROLS.sub("\ufffd", text)


@given(QUEUED)
def test_every_event_is_read_back_as_it_was(raw: bytes) -> None:
    record = decode(raw)
    header, pairs = written(raw)
    assert (header["version"], header["product"]) == ("CEF:0", "SARK")
    assert 0 <= int(header["severity"]) <= 10
    assert pairs["externalId"] == record.id
    assert pairs["rt"] == str(record.milliseconds)
    for key, value in (
        ("suser", record.user_id),
        ("reason", record.reason),
        ("cs1", record.action),
        ("cs2", record.resource),
        ("cs3", record.policy),
        ("cs4", record.revision),
        ("cs5", record.credential or ""),
        ("sarkEngineDecisionId", record.engine_decision_id),
        ("sarkIdentity", record.identity),
        ("cs6", bytes(record.context).decode() if record.has_context else ""),
    ):
        assert pairs.get(key, "") == without_controls(value), key


def test_each_free_key_has_its_label() -> None:
    _, pairs = event(revision="r", api_key_id="k", context={"a": 1})
    labels = {key: value for key, value in pairs.items() if key.endswith("Label")}
    assert [*labels.values()] == ["action", "resource", "policy", "revision", "apiKeyId", "context"]
    assert labels.keys() == {f"cs{slot}Label" for slot in range(1, 7)}


def test_what_has_a_meaning_in_the_header_is_escaped_there() -> None:
    raw = b'{"id":"x","time":"2026-01-02T03:04:05Z","type":"a|b\\\\c\\nd=e"}'
    line = format_of("cef").encode(decode(raw), raw)
    assert line.split(b"|Access denied|")[0].endswith(rb"|a\|b\\c" + "\ufffdd=e:denied".encode())


def test_what_has_a_meaning_in_the_extension_is_escaped_there() -> None:
    raw = encode_event(audit_event(user_id="a=b\\c|d\ne\rf\tg suser=root"))
    line = format_of("cef").encode(decode(raw), raw)
    assert rb" suser=a\=b\\c|d\ne\rf" + b"\tg" + rb" suser\=root cs1Label=" in line


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("10.0.0.1", {"src": "10.0.0.1"}),
        ("::1", {"c6a2": "::1", "c6a2Label": "Source IPv6 Address"}),
        ("host", {"shost": "host"}),
        (None, {}),
    ],
)
def test_an_address_is_under_the_key_of_its_kind(ip: str | None, expected: dict[str, str]) -> None:
    _, pairs = event(ip=ip)
    found = {key: pairs[key] for key in ("src", "c6a2", "c6a2Label", "shost") if key in pairs}
    assert found == expected


@pytest.mark.parametrize(
    ("given_fields", "class_", "severity", "act"),
    [
        ({}, "decision:allowed", "1", "allow"),
        ({"allow": False}, "decision:denied", "4", "deny"),
        ({"type": "refusal", "reason": "rate_limit:ip"}, "refusal:limited", "4", "deny"),
        ({"type": "refusal", "reason": "session:reuse"}, "refusal:unauthenticated", "8", "deny"),
        ({"type": "session"}, "session:session", "1", "allow"),
    ],
)
def test_class_severity_and_act(
    given_fields: dict[str, Any], class_: str, severity: str, act: str
) -> None:
    header, pairs = event(**given_fields)
    assert (header["class"], header["severity"], pairs["act"]) == (class_, severity, act)


def test_a_closing_event_counts_over_a_period() -> None:
    header, pairs = written(closing_event(first_id=new_event_id(), count=7))
    assert (header["class"], header["severity"]) == ("refusals:limited", "5")
    assert (pairs["cnt"], pairs["sarkIdentity"]) == ("7", "user:alice")
    assert int(pairs["start"]) > 0


def test_the_mark_of_a_cut_event_is_json() -> None:
    raw = b'{"id":"x","time":"2026-01-02T03:04:05Z","type":"decision","truncated":{"bytes":1}}'
    assert msgspec.json.decode(written(raw)[1]["sarkTruncated"]) == {"bytes": 1}
