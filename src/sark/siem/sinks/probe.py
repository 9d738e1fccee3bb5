"""Trying a sink: one event, marked as a test, and what its receiver said to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from sark.siem.event import AuditEvent, encode_event, new_event_id, now
from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.verdict import Delivered, Verdict

__all__ = ["Probe", "probe_event", "probe_sink"]

PROBE_NAME = "sark-test"


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of a try.

    Attributes:
        sink: The sink's name.
        entry: What was sent, in the sink's format.
        verdict: What came of it.
        seconds: How long it took, the connecting included.
    """

    sink: str
    entry: Entry
    verdict: Verdict
    seconds: float

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver took the event."""
        return isinstance(self.verdict, Delivered)


def probe_event(sink: str) -> AuditEvent:
    """Make an event that nobody takes for an access.

    Args:
        sink: Name of the sink that is tried.
    """
    return AuditEvent(
        id=new_event_id(),
        time=now(),
        type="decision",
        policy=PROBE_NAME,
        user_id=PROBE_NAME,
        action=PROBE_NAME,
        resource=f"sink:{sink}",
        context={"test": True},
        allow=False,
        reason="Test of this sink: nobody asked for anything",
    )


async def probe_sink(name: str, sink: Sink, encode: Callable[[bytes], Entry]) -> Probe:
    """Send one test event through a sink, past its queue and its breaker.

    Args:
        name: The sink's name.
        sink: The sink, not yet opened; it is closed afterwards.
        encode: Writes an event, as it stands in the queue, in the sink's format.

    Raises:
        SinkError: The sink cannot be opened.
    """
    entry = encode(encode_event(probe_event(name)))
    try:
        await sink.open()
        started = perf_counter()
        verdict = await sink.send([entry])
        return Probe(name, entry, verdict, perf_counter() - started)
    finally:
        await sink.close()
