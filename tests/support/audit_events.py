"""Audit events of every kind, for properties that hold for all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

from sark.siem.event import AuditEvent, ClosingEvent, encode_event, new_event_id

__all__ = ["EVENTS", "QUEUED", "TEXTS", "TIME", "closing_event"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME = datetime(2026, 11, 26, 15, 4, 5, 678901, tzinfo=UTC)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
# Until the year 9000.
_TIMES = st.builds(
    lambda microseconds: EPOCH + timedelta(microseconds=microseconds),
    st.integers(0, 221_845_392 * 10**9),
)
_IDS = st.uuids(version=4).map(str)
_ACTIONS = st.sampled_from(["server:read", "s3:PutObject", "session:create", "delete"]) | TEXTS
_ADDRESSES = st.none() | TEXTS | st.ip_addresses().map(str) | st.just("fe80::1%eth0") | st.just("")
_REASONS = st.sampled_from(["rate_limit:user", "session:reuse", "unauthenticated"]) | TEXTS

EVENTS: st.SearchStrategy[AuditEvent] = st.builds(
    AuditEvent,
    id=_IDS,
    time=_TIMES,
    type=st.sampled_from(["decision", "refusal", "session"]),
    policy=st.just("") | TEXTS,
    user_id=TEXTS,
    action=_ACTIONS,
    resource=TEXTS,
    context=st.dictionaries(TEXTS, _VALUES, max_size=5),
    allow=st.booleans(),
    reason=_REASONS,
    cached=st.sampled_from([False, "valkey", "near"]),
    revision=TEXTS,
    engine_decision_id=TEXTS,
    ip=_ADDRESSES,
    api_key_id=st.none() | TEXTS,
)


def closing_event(
    *,
    first_id: str,
    identity: str = "user:alice",
    reason: str = "rate_limit:user",
    user_id: str = "alice",
    count: int = 3,
    time: datetime = TIME,
) -> bytes:
    """Write a closing event as the script does that completes it."""
    begun = encode_event(
        ClosingEvent(
            first_id=first_id, identity=identity, reason=reason, policy="authz", user_id=user_id
        )
    )
    rest = {"count": count, "id": new_event_id(), "time": time}
    return begun[:-1] + b"," + msgspec.json.encode(rest)[1:]


_CLOSINGS = st.builds(
    closing_event,
    first_id=TEXTS | st.builds(new_event_id),
    identity=st.builds("{}:{}".format, st.sampled_from(["user", "ip", "apikey"]), TEXTS),
    reason=_REASONS,
    user_id=TEXTS,
    count=st.integers(1, 2**53),
    time=_TIMES,
)

QUEUED: st.SearchStrategy[bytes] = EVENTS.map(encode_event) | _CLOSINGS
"""What may stand in a queue."""
