"""Audit events and the queue that carries them to the SIEM."""

from sark.siem.event import AuditEvent, new_event_id, now
from sark.siem.late import LateEvents
from sark.siem.queue import EventQueue, QueueBounds, QueueStatus
from sark.siem.refusals import Refusals

__all__ = [
    "AuditEvent",
    "EventQueue",
    "LateEvents",
    "QueueBounds",
    "QueueStatus",
    "Refusals",
    "new_event_id",
    "now",
]
