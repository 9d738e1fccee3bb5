"""What a format is: it writes one event as a SIEM reads it."""

from __future__ import annotations

from typing import Protocol

from sark.siem.record import AuditRecord

__all__ = ["Format"]


class Format(Protocol):
    """Writes events. Stateless, so one serves all sinks."""

    @property
    def name(self) -> str:
        """Its name in a sink's address."""
        ...

    @property
    def content_type(self) -> str:
        """Media type of one event."""
        ...

    def encode(self, record: AuditRecord, raw: bytes) -> bytes:
        """Write one event.

        Args:
            record: The event, as ``decode`` has read it.
            raw: The JSON that it was read from.

        Returns:
            One JSON object or one line of CEF, in UTF-8 and without a line break. It has the
            event's id in it, and depends on the event alone: sent twice, it is the same twice.
        """
        ...
