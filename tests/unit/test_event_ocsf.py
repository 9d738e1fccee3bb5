"""Events in OCSF, against the published schema."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from sark.siem.event import encode_event, new_event_id
from sark.siem.record import decode
from tests.support.audit_events import QUEUED, TIME, closing_event
from tests.support.gateways import audit_event
from tests.support.ocsf import SCHEMA, captions, ocsf


def event(**fields: Any) -> dict[str, Any]:
    return ocsf(encode_event(audit_event(**fields)))


@given(QUEUED)
def test_every_event_is_valid_and_keeps_what_it_says(raw: bytes) -> None:
    record, fields = decode(raw), ocsf(raw)
    assert fields["metadata"]["uid"] == record.id
    assert fields["time"] == record.milliseconds
    assert fields["type_uid"] == fields["class_uid"] * 100 + fields["activity_id"]
    assert fields["actor"]["user"].get("uid", "") == record.user_id
    assert fields["api"]["operation"] == (record.action or "*")
    assert fields.get("status_detail", "") == record.reason
    assert fields.get("resources", [{"uid": ""}])[0]["uid"] == record.resource
    assert fields["unmapped"].get("context", {}) == msgspec.json.decode(record.context)


@given(QUEUED)
def test_numbers_and_captions_are_the_schemas_pairs(raw: bytes) -> None:
    fields = ocsf(raw)
    for number, caption in (
        ("activity_id", "activity_name"),
        ("severity_id", "severity"),
        ("status_id", "status"),
        ("action_id", "action"),
        ("disposition_id", "disposition"),
        ("type_uid", "type_name"),
        ("class_uid", "class_name"),
        ("category_uid", "category_name"),
    ):
        assert captions(number)[fields[number]] == fields[caption]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("severity_id",), 7),
        (("disposition_id",), 28),
        (("action_id",), "1"),
        (("class_uid",), 6004),
        (("metadata", "version"), None),
        (("src_endpoint", "ip"), "10.0.0.256.1"),
        (("src_endpoint",), {}),
        (("actor",), {}),
        (("time",), "2026-01-01"),
        (("invented",), 1),
        (("actor", "user", "invented"), 1),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: tuple[str, ...], value: object) -> None:
    fields = event(ip="10.0.0.1")
    *outer, last = path
    place = fields
    for name in outer:
        place = place[name]
    place[last] = value
    assert not SCHEMA.is_valid(fields)


@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        ({}, ("Success", "Allowed", "Allowed", "Informational")),
        ({"allow": False}, ("Failure", "Denied", "Unauthorized", "Low")),
        (
            {"type": "refusal", "allow": False, "reason": "rate_limit:user"},
            ("Failure", "Denied", "Blocked", "Low"),
        ),
        (
            {"type": "refusal", "allow": False, "reason": "unauthenticated"},
            ("Failure", "Denied", "Unauthorized", "Low"),
        ),
        (
            {"type": "refusal", "allow": False, "reason": "session:reuse"},
            ("Failure", "Denied", "Unauthorized", "High"),
        ),
        ({"type": "session", "policy": ""}, ("Success", "Allowed", "Allowed", "Informational")),
    ],
)
def test_the_answer_is_the_controls_disposition(
    given_fields: dict[str, Any], expected: tuple[str, ...]
) -> None:
    fields = event(**given_fields)
    assert (
        fields["status"],
        fields["action"],
        fields["disposition"],
        fields["severity"],
    ) == expected
    assert fields["metadata"]["profiles"] == ["security_control"]


def test_a_session_is_created_and_deleted() -> None:
    fields = event(type="session", policy="", action="session:revoke", resource="s-1")
    assert fields["type_name"] == "API Activity: Delete"
    assert fields["actor"]["session"] == {"uid": "s-1"}
    assert fields["resources"] == [{"uid": "s-1", "type": "session"}]


def test_a_closing_event_counts_over_a_period() -> None:
    first_id = new_event_id()
    fields = ocsf(closing_event(first_id=first_id, identity="ip:10.0.0.1", count=7))
    assert (fields["count"], fields["severity"], fields["disposition"]) == (7, "Medium", "Blocked")
    assert fields["start_time"] == int(first_id.replace("-", "")[:12], 16)
    assert fields["end_time"] == fields["time"] == int(TIME.timestamp() * 1000)
    assert fields["src_endpoint"] == {"ip": "10.0.0.1"}
    assert fields["unmapped"]["first_id"] == first_id


def test_who_is_not_known_is_said_to_be_unknown() -> None:
    fields = event(user_id="", ip=None)
    assert fields["actor"] == {"user": {"name": "unknown"}}
    assert fields["src_endpoint"] == {"name": "unknown"}


def test_an_api_key_is_the_users_credential() -> None:
    assert event(api_key_id="k-1")["actor"]["user"] == {"uid": "alice", "credential_uid": "k-1"}
