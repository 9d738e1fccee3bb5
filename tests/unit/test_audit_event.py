"""Audit events as the SIEM gets them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sark.siem.event import ClosingEvent, encode_event, new_event_id, now
from tests.support.gateways import audit_event

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch


def read(event: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(encode_event(event))
    return fields


def test_ids_are_unique_and_in_the_order_of_their_making() -> None:
    ids = [new_event_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert all(map(UUID7, ids))


def test_ids_carry_the_time_of_their_making() -> None:
    before = datetime.now(UTC).timestamp() * 1000
    milliseconds = int(new_event_id().replace("-", "")[:12], 16)
    after = datetime.now(UTC).timestamp() * 1000
    assert int(before) <= milliseconds <= after


def test_a_decision_has_all_that_was_asked_and_answered() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    event = audit_event(
        id="the-id",
        time=time,
        context={"a": [1, {"b": None}]},
        allow=False,
        cached="valkey",
        ip="::1",
        api_key_id="key",
    )
    assert read(event) == {
        "id": "the-id",
        "time": "2026-01-02T03:04:05.678901Z",
        "type": "decision",
        "policy": "authz",
        "user_id": "alice",
        "action": "server:read",
        "resource": "srv-1",
        "context": {"a": [1, {"b": None}]},
        "allow": False,
        "reason": "because",
        "cached": "valkey",
        "ip": "::1",
        "api_key_id": "key",
        "v": 1,
    }


def test_what_was_not_named_is_left_out_but_never_the_answer() -> None:
    fields = read(audit_event(allow=False, reason="", cached=False))
    assert not fields.keys() & {"ip", "api_key_id", "cached"}
    assert (fields["allow"], fields["reason"], fields["context"], fields["v"]) == (False, "", {}, 1)


def test_the_time_is_of_this_moment_and_in_utc() -> None:
    assert now().tzinfo is UTC
    assert abs((now() - datetime.now(UTC)).total_seconds()) < 5


@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT | st.integers() | st.none()))
def test_any_text_survives_in_one_line(user: str, reason: str, context: dict[str, Any]) -> None:
    event = audit_event(user_id=user, reason=reason, context=context)
    assert b"\n" not in encode_event(event)
    fields = read(event)
    assert (fields["user_id"], fields["reason"], fields["context"]) == (user, reason, context)


@given(TEXT, TEXT, TEXT)
def test_a_closing_event_can_be_completed_by_appending(
    identity: str, reason: str, user: str
) -> None:
    event = ClosingEvent(
        first_id="first", identity=identity, reason=reason, policy="authz", user_id=user
    )
    text = encode_event(event)[:-1] + b',"count":3,"id":"x","time":"t"}'
    assert msgspec.json.decode(text) == {
        "first_id": "first",
        "identity": identity,
        "reason": reason,
        "policy": "authz",
        "user_id": user,
        "type": "refusals",
        "v": 1,
        "count": 3,
        "id": "x",
        "time": "t",
    }
