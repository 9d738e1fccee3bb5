"""Audit events: what is recorded of every answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from uuid_utils import uuid7

__all__ = [
    "AuditEvent",
    "ClosingEvent",
    "Encode",
    "Truncation",
    "closing_event",
    "encode_event",
    "iso",
    "new_event_id",
    "now",
]

FORMAT_VERSION = 1

encode_event = msgspec.json.Encoder().encode

Encode = Callable[["AuditEvent"], bytes]
"""Turns an event into the JSON that is queued."""


def new_event_id() -> str:
    """Make the id of an event: a UUIDv7 (RFC 9562), ordered by time."""
    return str(uuid7())


def now() -> datetime:
    """Tell the time of an event."""
    return datetime.now(UTC)


def iso(time: datetime) -> str:
    """Spell a time in UTC as events do: ISO 8601 with ``Z``."""
    return time.isoformat().replace("+00:00", "Z")


class Truncation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What was cut off an event that was too large.

    Attributes:
        bytes: Size of its JSON before that.
        fields: What was shortened or left out, such as ``context.body``; at most eight, each by
            at most the first 64 bytes of its name.
        more: How many further ones.
    """

    bytes: int
    fields: tuple[str, ...]
    more: int = 0


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One answer.

    Attributes:
        id: Stable id; the same as the answer's ``decision_id``.
        time: When the answer was made, by this process's clock.
        type: ``decision``, ``refusal`` when the request was refused before a decision, or
            ``session`` when a session began or ended.
        policy: Which policy decided.
        user_id: Who asked.
        action: What for.
        resource: On what.
        context: Circumstances that the caller named.
        allow: The answer.
        reason: Why.
        cached: Where the decision came from, as in the answer.
        revision: The policies that it was made under.
        engine_decision_id: The policy engine's own id of the evaluation, under which its decision
            log has it; left out without one, and when the decision came from a cache.
        ip: The caller's address, when named.
        api_key_id: The caller's api key, when named.
        truncated: What was cut off, if the event was too large.
        v: Version of this format.
    """

    id: str
    time: datetime
    type: Literal["decision", "refusal", "session"]
    policy: str
    user_id: str
    action: str
    resource: str
    context: dict[str, Any]
    allow: bool
    reason: str
    cached: bool | str = False
    revision: str = ""
    engine_decision_id: str = ""
    ip: str | None = None
    api_key_id: str | None = None
    truncated: Truncation | None = None
    v: int = msgspec.field(default_factory=lambda: FORMAT_VERSION)


class ClosingEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How often an identity was refused again after its first refusal in a window.

    Written without ``id``, ``time`` and ``count``: the script that closes the window adds them.

    Attributes:
        first_id: Event of the first refusal.
        identity: Who was refused, as ``kind:id``.
        reason: Why.
        policy: Which policy was asked first.
        user_id: Who asked first.
        type: ``refusals``.
        v: Version of this format.
    """

    first_id: str
    identity: str
    reason: str
    policy: str
    user_id: str
    type: str = msgspec.field(default_factory=lambda: "refusals")
    v: int = msgspec.field(default_factory=lambda: FORMAT_VERSION)


def closing_event(head: bytes, count: int) -> bytes:
    """Complete the JSON of a closing event, as the script does that closes windows.

    Args:
        head: The JSON without its last members and its closing brace.
        count: How many refusals followed the first.
    """
    return head + f',"count":{count},"id":"{new_event_id()}","time":"{iso(now())}"}}'.encode()
