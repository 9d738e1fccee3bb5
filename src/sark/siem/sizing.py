"""Holding an event to a size, and marking what that has cost.

Receivers refuse what is too large, and one refused event can hold up its batch. So an event is cut
when it is made, once for all sinks. What it is about stays as long as anything else can go:

1. Of the context, the smallest values stay while there is room, so the largest go first. The first
   that finds no room is shortened if it is text.
2. Of the other text, the largest is shortened first, down to ``LEAST_TEXT_BYTES``.
3. User and action are shortened last. Their bounds in requests are such that no setting of the size
   comes to that, unless they consist of characters that JSON has to escape.

Id, time, type and answer are never touched. ``truncated`` names what was, and the size before.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from sark.siem.event import AuditEvent, Truncation, encode_event

__all__ = ["LEAST_EVENT_BYTES", "fit"]

LEAST_EVENT_BYTES: Final = 2048
"""The smallest size that every event can be held to."""

LEAST_TEXT_BYTES: Final = 64
LEAST_SUBJECT_BYTES: Final = 256
MOST_NAMED: Final = 8
MOST_NAME_BYTES: Final = 64
MARK_BYTES: Final = 64 + MOST_NAMED * (MOST_NAME_BYTES + len(b'"",'))
"""Most bytes of ``truncated``: its own names and numbers, and those of the fields."""

_TEXTS: Final = (
    "reason",
    "resource",
    "revision",
    "engine_decision_id",
    "api_key_id",
    "ip",
    "policy",
    "cached",
)
_SUBJECTS: Final = ("action", "user_id")

_QUOTES: Final = b'""'

_encode = msgspec.json.Encoder().encode


def fit(event: AuditEvent, encoded: bytes, limit: int) -> bytes:
    """Cut an event that is too large.

    Args:
        event: The event.
        encoded: Its JSON.
        limit: Most bytes of JSON, at least ``LEAST_EVENT_BYTES``.

    Returns:
        JSON of at most ``limit`` bytes.
    """
    cut = _Cut(limit - MARK_BYTES)
    bare = cut.texts(replace(event, context={}))
    context = cut.context(event.context, room=cut.limit - len(encode_event(bare)))
    return encode_event(replace(bare, context=context, truncated=cut.mark(len(encoded))))


@dataclass(slots=True)
class _Cut:
    """What is being cut off one event.

    Attributes:
        limit: Bytes that the event may have without the mark.
        names: What was cut so far.
    """

    limit: int
    names: list[str] = field(default_factory=list)

    def texts(self, event: AuditEvent) -> AuditEvent:
        """Shorten text until an event without context fits."""
        for names, least in ((_TEXTS, LEAST_TEXT_BYTES), (_SUBJECTS, LEAST_SUBJECT_BYTES)):
            sizes = {name: _text_bytes(getattr(event, name)) for name in names}
            for name in sorted(names, key=sizes.__getitem__, reverse=True):
                excess = len(encode_event(event)) - self.limit
                if excess <= 0:
                    return event
                if sizes[name] > least:
                    kept = _shorten(getattr(event, name), max(least, sizes[name] - excess))
                    event = replace(event, **{name: kept})
                    self.names.append(name)
        return event

    def context(self, context: dict[str, Any], *, room: int) -> dict[str, Any]:
        """Return what of a context has room, in its own order."""
        sizes = {name: _member_bytes(name, value) for name, value in context.items()}
        names = sorted(sizes, key=sizes.__getitem__)
        kept: dict[str, Any] = {}
        for name in names:
            if sizes[name] > room:
                break
            kept[name] = context[name]
            room -= sizes[name]
        out = names[len(kept) :]
        self.names += [f"context.{name}" for name in reversed(out)]
        first = context[out[0]] if out else None
        if isinstance(first, str):
            shortened = _shorten(first, room - _member_bytes(out[0], ""))
            kept |= {out[0]: shortened} if shortened else {}
        return {name: kept[name] for name in context if name in kept}

    def mark(self, size: int) -> Truncation:
        """Tell what was cut off an event of a size in bytes."""
        named = tuple(_shorten(name, MOST_NAME_BYTES) for name in self.names[:MOST_NAMED])
        return Truncation(bytes=size, fields=named, more=len(self.names) - len(named))


def _text_bytes(value: object) -> int:
    """Return how many bytes a text takes in JSON, without quotes; 0 for what is no text."""
    return len(_encode(value)) - len(_QUOTES) if isinstance(value, str) else 0


def _member_bytes(name: str, value: Any) -> int:
    """Return how many bytes a member takes in an object, with what separates it from others."""
    return len(_encode(name)) + len(_encode(value)) + len(b":,")


def _shorten(text: str, room: int) -> str:
    """Return the longest beginning of a text that takes so many bytes in JSON, without quotes."""
    most = min(len(text), max(room, 0))
    # Fewer characters never take more bytes, so the first that are too many can be searched for.
    bound = bisect_right(range(most + 1), room, key=lambda end: _text_bytes(text[:end]))
    return text[: max(bound - 1, 0)]
