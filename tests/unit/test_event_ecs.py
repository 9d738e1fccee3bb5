"""Events in the Elastic Common Schema."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from sark.siem.event import encode_event, new_event_id
from sark.siem.formats import format_of
from sark.siem.record import decode
from tests.support.audit_events import QUEUED, TIME, closing_event
from tests.support.gateways import audit_event

# Of the schema's lists: the types that are expected in each category that is used.
EXPECTED_TYPES = {
    "api": {"access", "admin", "allowed", "change", "creation", "deletion", "denied", "end"}
    | {"info", "start", "user"},
    "authentication": {"start", "end", "info"},
    "session": {"start", "end", "info"},
}


def written(raw: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(format_of("ecs").encode(decode(raw), raw))
    return fields


def event(**fields: Any) -> dict[str, Any]:
    return written(encode_event(audit_event(**fields)))


@given(QUEUED)
def test_every_event_keeps_what_it_says(raw: bytes) -> None:
    record, fields = decode(raw), written(raw)
    assert fields["event"]["id"] == record.id
    assert msgspec.convert(fields["@timestamp"], type(record.time)) == record.time
    assert fields["event"].get("action", "") == record.action
    assert fields["event"].get("reason", "") == record.reason
    assert fields.get("user", {"id": ""})["id"] == record.user_id
    assert fields.get("rule", {"name": ""})["name"] == record.policy
    assert fields["sark"].get("resource", "") == record.resource
    assert fields["sark"].get("context", {}) == msgspec.json.decode(record.context)
    assert fields.get("source", {"address": ""})["address"] == (record.address or "")


@given(QUEUED)
def test_category_and_type_are_the_schemas(raw: bytes) -> None:
    told = written(raw)["event"]
    (category,) = told["category"]
    assert EXPECTED_TYPES[category].issuperset(told["type"])
    assert told["outcome"] in {"success", "failure"}


@pytest.mark.parametrize(
    ("given_fields", "category", "types", "outcome"),
    [
        ({}, "api", ["access", "allowed"], "success"),
        ({"action": "a:update", "allow": False}, "api", ["change", "denied"], "failure"),
        (
            {"type": "refusal", "reason": "rate_limit:ip", "action": "a:create"},
            "api",
            ["creation", "denied"],
            "failure",
        ),
        ({"type": "refusal", "reason": "session:expired"}, "authentication", ["start"], "failure"),
        ({"type": "session", "action": "session:create"}, "session", ["start"], "success"),
        ({"type": "session", "action": "session:revoke"}, "session", ["end"], "success"),
        ({"type": "session", "action": "session:refresh"}, "session", ["info"], "success"),
    ],
)
def test_what_is_told_of_an_event(
    given_fields: dict[str, Any], category: str, types: list[str], outcome: str
) -> None:
    told = event(**given_fields)["event"]
    assert (told["kind"], told["category"]) == ("event", [category])
    assert (told["type"], told["outcome"]) == (types, outcome)


@pytest.mark.parametrize(
    ("ip", "source"),
    [
        ("10.0.0.1", {"address": "10.0.0.1", "ip": "10.0.0.1"}),
        ("fe80::1%eth0", {"address": "fe80::1%eth0", "ip": "fe80::1"}),
        ("unix", {"address": "unix"}),
    ],
)
def test_only_addresses_are_addresses(ip: str, source: dict[str, str]) -> None:
    fields = event(ip=ip)
    assert fields["source"] == source
    assert fields["related"] == {
        "user": ["alice"],
        **({"ip": [source["ip"]]} if "ip" in source else {}),
    }


def test_what_is_not_known_is_left_out() -> None:
    fields = event(user_id="", ip=None, policy="", context={}, reason="")
    assert fields.keys() == {"@timestamp", "ecs", "event", "sark"}
    assert fields["sark"].keys() == {"type", "resource", "cached", "v"}


def test_a_closing_event_counts() -> None:
    first_id = new_event_id()
    fields = written(closing_event(first_id=first_id, identity="apikey:k", count=7))
    assert fields["@timestamp"] == TIME.isoformat().replace("+00:00", "Z")
    assert fields["sark"] == {
        "type": "refusals",
        "cached": False,
        "api_key_id": "k",
        "identity": "apikey:k",
        "first_id": first_id,
        "count": 7,
        "v": 1,
    }
