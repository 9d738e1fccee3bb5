"""Putting events into JSON bodies."""

from __future__ import annotations

import msgspec

from sark.siem.sinks.base import Entry

__all__ = ["as_json", "as_json_text"]


def as_json(entry: Entry, is_json: bool) -> bytes:
    """Return an event as a JSON value: an object as it is, a line of text as a string."""
    return entry.body if is_json else as_json_text(entry)


def as_json_text(entry: Entry) -> bytes:
    """Return an event as a JSON string, at most twice as long plus two.

    Formats hold no control characters, the only ones that grow more than that.
    """
    return msgspec.json.encode(entry.body.decode("utf-8", "replace"))
