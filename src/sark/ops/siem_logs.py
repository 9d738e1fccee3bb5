"""Logs of what happens to audit events between their queue and the SIEM, and of the breakers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sark.events import (
    AuditReplayed,
    AuditSpilled,
    BreakerChanged,
    DeadLettered,
    ForwardFailed,
    Hub,
    LeaseExpired,
    SinkPaused,
    SpillChanged,
    SpillFileSetAside,
)
from sark.ops.quiet import Quiet

__all__ = ["report_forwarding"]

REMEDIES = {
    "unauthorized": (
        "mend the credential, path or index: at the receiver, which is asked again each minute, or "
        "here, and restart"
    ),
    "dead_letters_full": "look at them with sark siem failed, then sark siem replay or purge",
}


def report_forwarding(hub: Hub, log: Any) -> None:
    """Log what happens to spilled, forwarded and failed audit events, and to breakers."""
    spilled = _PerSink(log.warning)
    failed = _PerSink(log.warning)
    dead = _PerSink(log.error)
    expired = _PerSink(log.warning)
    hub.on(
        AuditSpilled,
        lambda e: spilled.of(e.sink, e.reason)(
            "audit events spilled to disk", sink=e.sink, events=e.events, reason=e.reason
        ),
    )
    replayed = _PerSink(log.info)
    hub.on(
        AuditReplayed,
        lambda e: replayed.of(e.sink)("spilled audit events queued", sink=e.sink, events=e.events),
    )
    hub.on(
        ForwardFailed,
        lambda e: failed.of(e.sink, e.kind)(
            "audit events not forwarded, will be tried again",
            sink=e.sink,
            kind=e.kind,
            reason=e.reason,
            pause_seconds=round(e.pause, 3),
        ),
    )
    hub.on(
        DeadLettered,
        lambda e: dead.of(e.sink, e.kind)(
            "audit events became dead letters",
            sink=e.sink,
            events=e.events,
            kind=e.kind,
            reason=e.reason,
        ),
    )
    hub.on(
        LeaseExpired,
        lambda e: expired.of(e.sink)(
            "audit events of a lost worker are queued again", sink=e.sink, events=e.events
        ),
    )
    hub.on(SpillChanged, _spill(log))
    hub.on(
        SpillFileSetAside,
        lambda e: log.error(
            "spill file cannot be read and was set aside", path=e.path, reason=e.reason
        ),
    )
    hub.on(SinkPaused, _paused(log))
    hub.on(BreakerChanged, _breaker(log))


def _paused(log: Any) -> Callable[[SinkPaused], None]:
    def report(event: SinkPaused) -> None:
        if event.paused:
            log.error(
                "sink paused",
                sink=event.sink,
                kind=event.kind,
                reason=event.reason,
                remedy=REMEDIES[event.kind],
            )
        else:
            log.info("sink takes events again", sink=event.sink, kind=event.kind)

    return report


def _spill(log: Any) -> Callable[[SpillChanged], None]:
    def report(event: SpillChanged) -> None:
        if event.working:
            log.info("spill store works again")
        else:
            log.error("spill store failed", reason=event.reason)

    return report


def _breaker(log: Any) -> Callable[[BreakerChanged], None]:
    def report(event: BreakerChanged) -> None:
        tell = log.error if event.state in {"open", "forced_open"} else log.info
        tell(
            "circuit breaker changed",
            breaker=event.name,
            state=event.state,
            reason=event.reason,
            **({} if event.shared else {"decided_by": "this process alone"}),
        )

    return report


class _PerSink:
    """One ``Quiet`` for each sink and kind, so that none silences another."""

    def __init__(self, report: Callable[..., Any]) -> None:
        self._report = report
        self._known: dict[tuple[str, ...], Quiet] = {}

    def of(self, *key: str) -> Quiet:
        return self._known.setdefault(key, Quiet(self._report))
