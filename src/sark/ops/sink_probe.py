"""Trying a sink by hand, and showing what waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sark.errors import ConfigurationError, SinkError
from sark.siem.formats import format_of
from sark.siem.forwarder import encoder_of
from sark.siem.sinks.kind import SinkPlan
from sark.siem.sinks.probe import probe_sink
from sark.siem.sinks.registry import make_sink
from sark.siem.sinks.verdict import Delivered, Partly, Verdict

__all__ = ["SinkTest", "as_documents", "try_sink"]


class SinkTest(msgspec.Struct, frozen=True):
    """What came of one test event.

    Attributes:
        sink: Where it was sent.
        delivered: Whether the receiver took it.
        verdict: What its answer means: ``delivered``, ``partly``, ``rejected``, ``toolarge``,
            ``throttled``, ``unavailable`` or ``unauthorized``; ``unusable`` when nothing could be
            sent, for instance to a file that cannot be written.
        reason: What it said; empty when it took the event.
        event_id: Of the event, to look for at the receiver; empty when none was sent.
        seconds: Until its answer.
    """

    sink: str
    delivered: bool
    verdict: str
    reason: str
    event_id: str
    seconds: float


async def try_sink(plan: SinkPlan) -> SinkTest:
    """Open a sink of our own, send one test event through it, and close it.

    Args:
        plan: The sink as it is configured.
    """
    name = plan.address.name
    try:
        probe = await probe_sink(name, make_sink(plan), encoder_of(format_of(plan.format)))
    except (ConfigurationError, SinkError) as error:
        return SinkTest(name, False, "unusable", str(error), "", 0.0)  # noqa: FBT003 - named above
    return SinkTest(
        sink=name,
        delivered=probe.is_delivered,
        verdict=type(probe.verdict).__name__.lower(),
        reason=_reason(probe.verdict),
        event_id=probe.entry.id,
        seconds=probe.seconds,
    )


def as_documents(entries: Sequence[bytes]) -> list[msgspec.Raw]:
    """Turn entries of a queue into JSON; what is none becomes a string of what it was."""
    return [_as_document(entry) for entry in entries]


def _as_document(entry: bytes) -> msgspec.Raw:
    try:
        msgspec.json.decode(entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(entry.decode(errors="replace")))
    return msgspec.Raw(entry)


def _reason(verdict: Verdict) -> str:
    if isinstance(verdict, Partly) and verdict.bad:
        return next(iter(verdict.bad.values()))
    return "" if isinstance(verdict, Delivered) else verdict.reason
