"""Audit events and the queue that carries them to the SIEM."""

from sark.siem.account import Booked, SinkStatus
from sark.siem.bounds import QueueBounds
from sark.siem.event import AuditEvent, new_event_id, now
from sark.siem.late import LateEvents
from sark.siem.leases import SinkQueue
from sark.siem.queue import EventQueue
from sark.siem.queue_status import QueueStatus
from sark.siem.refusals import Refusals

__all__ = [
    "AuditEvent",
    "Booked",
    "EventQueue",
    "LateEvents",
    "QueueBounds",
    "QueueStatus",
    "Refusals",
    "SinkQueue",
    "SinkStatus",
    "new_event_id",
    "now",
]
