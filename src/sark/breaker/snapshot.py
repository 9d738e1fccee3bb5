"""What a breaker shows of itself, to people and metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from sark.breaker.state import View

__all__ = ["Mode", "Snapshot", "mode_of", "snapshot_of"]

Mode = Literal["closed", "open", "half_open", "forced_open", "forced_closed"]
MICROSECONDS = 1_000_000


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One breaker at one moment. Durations are in seconds.

    Attributes:
        name: Which.
        state: Its state; ``forced_open`` and ``forced_closed`` when an operator holds it there.
        shared: Whether that is the state in Valkey; otherwise this process decides alone.
        failures: Consecutive failures.
        in_state: How long it has been in its state.
        retry_after: Until a call may be admitted; 0 when it may be now.
        probes: Probes under way.
        opened: How often it opened.
        reason: Why it opened last; empty when it never did.
        last_failure: When a call failed last, in ISO 8601; None when that is not known.
        seconds: Time spent in each of ``closed``, ``open`` and ``half_open``.
    """

    name: str
    state: Mode
    shared: bool
    failures: int
    in_state: float
    retry_after: float
    probes: int
    opened: int
    reason: str
    last_failure: str | None
    seconds: dict[str, float]


def mode_of(view: View) -> Mode:
    """Tell the state, and whether it is held there."""
    if view.forced == "open":
        return "forced_open"
    return "forced_closed" if view.forced == "closed" else view.state


def snapshot_of(name: str, view: View, *, shared: bool, passed: float = 0.0) -> Snapshot:
    """Turn a view into what is shown.

    Args:
        name: The breaker.
        view: What was seen of it.
        shared: Whether that came from Valkey.
        passed: Seconds since.
    """
    spent = {"closed": view.closed, "open": view.open, "half_open": view.half_open}
    seconds = {state: us / MICROSECONDS for state, us in spent.items()}
    seconds[view.state] += passed
    failed = datetime.fromtimestamp(view.last_failure / MICROSECONDS, UTC)
    return Snapshot(
        name=name,
        state=mode_of(view),
        shared=shared,
        failures=view.failures,
        in_state=view.age / MICROSECONDS + passed,
        retry_after=max(0.0, view.retry / MICROSECONDS - passed),
        probes=view.probes,
        opened=view.opened,
        reason=view.reason,
        # Decided alone, times are on a clock that starts anywhere.
        last_failure=failed.isoformat() if shared and view.last_failure else None,
        seconds={state: round(value, 3) for state, value in seconds.items()},
    )
