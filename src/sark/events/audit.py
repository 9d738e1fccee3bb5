"""What happens to audit events on their way to the SIEM."""

from __future__ import annotations

from typing import Literal

from sark.events.hub import Event

__all__ = [
    "AuditAppended",
    "AuditDropped",
    "AuditRefused",
    "AuditReplayed",
    "AuditSpilled",
    "DeadLettered",
    "ForwardFailed",
    "Forwarded",
    "LeaseExpired",
    "SinkPaused",
    "SpillChanged",
    "SpillFileSetAside",
]


class AuditAppended(Event, frozen=True):
    """A group of audit events was accepted by Valkey in one command."""

    events: int
    bytes: int
    seconds: float


class AuditRefused(Event, frozen=True):
    """Audit events were not accepted; their requests fail."""

    events: int
    reason: Literal["full", "unavailable"]


class AuditDropped(Event, frozen=True):
    """Audit events were given up: there was no room, and dropping is allowed or unavoidable."""

    events: int


class AuditSpilled(Event, frozen=True):
    """Audit events went to the spill store.

    Attributes:
        sink: Whose queue did not take them.
        events: How many.
        reason: Why; ``late``: their requests could not wait, so they may be in the queue as well,
            and likewise with ``replication``: too few replicas have them.
    """

    sink: str
    events: int
    reason: Literal["full", "unavailable", "late", "replication", "behind"]


class AuditReplayed(Event, frozen=True):
    """Spilled audit events reached their queue."""

    sink: str
    events: int


class SpillChanged(Event, frozen=True):
    """The spill store's disk refuses, or works again.

    Attributes:
        working: Whether it works.
        reason: What the disk said.
    """

    working: bool
    reason: str


class SpillFileSetAside(Event, frozen=True):
    """A file of spilled events cannot be read; it was renamed, and nothing of it was deleted.

    Attributes:
        path: Its new name.
        reason: What is wrong with it.
    """

    path: str
    reason: str


class Forwarded(Event, frozen=True):
    """A sink has accepted audit events.

    Attributes:
        sink: Which.
        events: How many.
        bytes: Size of their JSON as it was queued.
        seconds: From sending the batch to the answer.
    """

    sink: str
    events: int
    bytes: int
    seconds: float


class ForwardFailed(Event, frozen=True):
    """A sink did not accept a batch, which is sent again.

    Attributes:
        sink: Which.
        kind: Its receiver is unreachable or failing, asks to be sent less, or the breaker is open.
        reason: What came, without secrets.
        pause: Seconds until the next attempt.
    """

    sink: str
    kind: Literal["unavailable", "throttled", "breaker"]
    reason: str
    pause: float


class SinkPaused(Event, frozen=True):
    """A sink takes nothing until somebody mends it, or takes events again.

    Attributes:
        sink: Which.
        paused: Whether it is paused.
        kind: Its receiver refuses the credential, or the dead letters are full.
        reason: What came, without secrets.
    """

    sink: str
    paused: bool
    kind: Literal["unauthorized", "dead_letters_full"]
    reason: str


class DeadLettered(Event, frozen=True):
    """Audit events became dead letters.

    Attributes:
        sink: Whose.
        events: How many.
        kind: The receiver called them bad, or their leases expired too often.
        reason: What the receiver said of the first.
    """

    sink: str
    events: int
    kind: Literal["rejected", "expired"]
    reason: str


class LeaseExpired(Event, frozen=True):
    """Leased events returned to the queue, because their worker no longer renewed its lease."""

    sink: str
    events: int
