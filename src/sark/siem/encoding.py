"""How an event becomes the bytes that are queued: without secrets, and of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from sark.siem.event import AuditEvent, encode_event
from sark.siem.redaction import Redaction
from sark.siem.sizing import LEAST_EVENT_BYTES, fit

__all__ = ["EventEncoder"]


class EventEncoder:
    """Writes events as they are queued. Calling it writes one.

    Args:
        redacted: Patterns of context fields whose values are replaced; see ``Redaction``.
        max_bytes: Most bytes of JSON, at least 2,048; what an event has too much is cut off and
            marked, see ``sizing.py``.

    Raises:
        ValueError: ``max_bytes`` is less than every event can be held to.
    """

    def __init__(self, redacted: Iterable[str], *, max_bytes: int) -> None:
        if max_bytes < LEAST_EVENT_BYTES:
            raise ValueError(f"max_bytes: got {max_bytes}, expected at least {LEAST_EVENT_BYTES}")
        self._redaction = Redaction(redacted)
        self._max_bytes = max_bytes

    def __call__(self, event: AuditEvent) -> bytes:
        """Return the JSON of an event: redacted, within the size, on one line."""
        context = self._redaction.apply(event.context)
        if context is not event.context:
            event = replace(event, context=context)
        encoded = encode_event(event)
        if len(encoded) > self._max_bytes:
            return fit(event, encoded, self._max_bytes)
        return encoded
