"""How events become what is queued: redacted, and of a bounded size."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.siem.encoding import EventEncoder
from sark.siem.event import AuditEvent, encode_event
from sark.siem.record import decode
from tests.support.audit_events import EVENTS
from tests.support.gateways import audit_event

LIMIT = 2048
ESCAPED = '\0\x1f"\\\n'
LONG = st.integers(0, 3000).flatmap(
    lambda size: st.sampled_from(["a", "é", "\U0001f600", "\0", '"', "\ud7ff"]).map(
        lambda character: character * size
    )
)
SMALL = st.none() | st.integers(0, 2**63) | st.text(ESCAPED + "aé", max_size=20)
TEXTS = ("user_id", "action", "resource", "reason", "revision", "api_key_id", "policy")
HUGE = st.builds(
    lambda event, context, texts: msgspec.structs.replace(event, context=context, **texts),
    EVENTS,
    st.dictionaries(LONG | st.text(ESCAPED + "aé", max_size=9), LONG | SMALL, max_size=30),
    st.fixed_dictionaries(dict.fromkeys(TEXTS, LONG)),
)


def encode(event: AuditEvent, limit: int = LIMIT, *redacted: str) -> dict[str, Any]:
    encoded = EventEncoder(redacted, max_bytes=limit)(event)
    assert len(encoded) <= limit
    fields: dict[str, Any] = msgspec.json.decode(encoded)
    return fields


@given(EVENTS)
def test_what_fits_is_written_as_it_is(event: AuditEvent) -> None:
    assert EventEncoder((), max_bytes=2**20)(event) == encode_event(event)


@given(HUGE, st.integers(LIMIT, 40_000))
def test_no_event_is_larger_than_the_limit(event: AuditEvent, limit: int) -> None:
    size = len(encode_event(event))
    fields = encode(event, limit)
    decode(msgspec.json.encode(fields))
    assert ("truncated" in fields) == (size > limit)
    for name in ("id", "type", "allow", "v"):
        assert fields[name] == getattr(event, name)
    for name in TEXTS:
        assert getattr(event, name).startswith(fields.get(name, ""))
    if size > limit:
        mark = fields["truncated"]
        assert mark["bytes"] == size
        assert 0 < len(mark["fields"]) <= 8
        assert all(len(name.encode()) <= 64 for name in mark["fields"])


@given(HUGE)
def test_what_is_not_whole_is_named(event: AuditEvent) -> None:
    fields = encode(event)
    context = fields["context"]
    lost = {name for name, value in event.context.items() if context.get(name, ...) != value}
    lost |= {
        name
        for name in (*TEXTS, "engine_decision_id", "ip")
        if fields.get(name, "") != (getattr(event, name) or "")
    }
    mark = fields.get("truncated", {"fields": []})
    assert len(mark["fields"]) + mark.get("more", 0) == len(lost)


@given(
    st.text(ESCAPED + "aé", max_size=256).filter(lambda text: len(text.encode()) <= 256),
    st.integers(0, 3000),
)
def test_who_and_what_stay_within_the_bounds_of_requests(user: str, size: int) -> None:
    event = audit_event(user_id=user, action=user, reason="r" * size, context={"a": "b" * size})
    fields = encode(event, 4096)
    assert (fields["user_id"], fields["action"]) == (user, user)


def test_the_largest_values_of_a_context_go_first() -> None:
    context = {"large": ["x" * 3000], "a": 1, "larger": "y" * 4000, "small": "z" * 100}
    fields = encode(audit_event(context=context))
    assert fields["context"] == {"a": 1, "small": "z" * 100}
    assert fields["truncated"]["fields"] == ["context.larger", "context.large"]


def test_a_text_is_shortened_to_the_room_that_is_left() -> None:
    fields = encode(audit_event(context={"a": 1, "body": "é" * 4000, "n": [2]}))
    kept = fields["context"]["body"]
    assert [*fields["context"]] == ["a", "body", "n"]
    assert kept == "é" * len(kept)
    assert len(kept.encode()) > 400
    assert fields["truncated"]["fields"] == ["context.body"]


def test_many_small_values_are_counted_when_they_cannot_all_be_named() -> None:
    fields = encode(audit_event(context={f"name-{number}": number for number in range(1000)}))
    mark = fields["truncated"]
    assert len(mark["fields"]) == 8
    assert len(fields["context"]) + 8 + mark["more"] == 1000


def test_the_context_goes_before_anything_else() -> None:
    fields = encode(audit_event(context={"a": "b" * 5000}, reason="r" * 500, resource="s" * 256))
    assert (fields["reason"], fields["resource"]) == ("r" * 500, "s" * 256)


def test_a_long_reason_is_shortened_no_more_than_it_takes() -> None:
    fields = encode(audit_event(reason="r" * 3000, resource="s" * 200))
    assert len(fields["reason"]) > 700
    assert fields["resource"] == "s" * 200
    assert fields["truncated"] == {"bytes": fields["truncated"]["bytes"], "fields": ["reason"]}


def test_secrets_do_not_survive_in_what_was_cut() -> None:
    event = audit_event(context={"password": "hunter2", "body": "x" * 5000})
    encoded = EventEncoder(["common"], max_bytes=LIMIT)(event)
    assert b"hunter2" not in encoded
    assert event.context["password"] == "hunter2"


def test_a_limit_that_not_every_event_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes: got 2047, expected at least 2048"):
        EventEncoder((), max_bytes=2047)
