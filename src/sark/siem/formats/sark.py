"""The event as it stands in the queue."""

from __future__ import annotations

from sark.siem.record import AuditRecord, one_line

__all__ = ["Sark"]


class Sark:
    """Our own JSON; see ``AuditEvent`` and ``ClosingEvent`` for its members."""

    name = "sark"
    content_type = "application/json"

    def encode(self, record: AuditRecord, raw: bytes) -> bytes:  # noqa: ARG002 - see Format
        """Return the event as it is, members of later versions included."""
        return one_line(raw)
