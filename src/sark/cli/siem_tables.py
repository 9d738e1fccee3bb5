"""How the commands about sinks show what they found."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sark.ops.sink_probe import SinkTest
from sark.ops.sinks import SinkReport, Sinks
from sark.siem import Booked, SinkStatus
from sark.siem.forwarder import ForwarderState
from sark.siem.rates import Rates
from sark.siem.spill import SpillStatus

__all__ = ["print_sinks", "print_test"]

PIPED_WIDTH = 200
UNKNOWN = "Valkey does not answer"
_ACCOUNT = {
    "accepted": "accepted",
    "duplicates": "duplicates",
    "delivered": "delivered",
    "dead letters": "failed",
    "queued": "queued",
    "in flight": "in_flight",
    "dropped": "dropped",
    "purged": "purged",
}


def print_sinks(found: Sinks) -> None:
    """Print the account of every sink, one column for each."""
    table = Table("", *(each.sink for each in found.sinks))
    table.columns[0].no_wrap = True
    columns = [_rows(each) for each in found.sinks]
    for name in columns[0]:
        table.add_row(name, *(_text(column[name]) for column in columns))
    _print(table)


def print_test(found: SinkTest) -> None:
    """Print what came of a test event."""
    table = Table(show_header=False)
    rows = {
        "sink": found.sink,
        "verdict": found.verdict,
        "reason": found.reason,
        "event": found.event_id,
        "seconds": f"{found.seconds:.3f}",
    }
    for name, text in rows.items():
        table.add_row(name, _text(text))
    _print(table)


def _rows(report: SinkReport) -> dict[str, str]:
    account = report.account
    return {
        "to": f"{report.address} ({report.format})",
        **{name: _booked(account, line) for name, line in _ACCOUNT.items()},
        "account": UNKNOWN if account is None else "closes" if account.balanced else "DIFFERS",
        "oldest": _seconds(None if account is None else account.oldest_seconds),
        "drains": _drains(report.rates),
        "full in": _seconds(None if report.rates is None else report.rates.seconds_to_full),
        "leases": "" if account is None else f"{account.leases:,}",
        "spilled": _spill(report.spill),
        "breaker": (report.breaker or "").replace("_", " "),
        "forwarder": _forwarder(report.forwarder),
    }


def _booked(account: SinkStatus | None, line: str) -> str:
    if account is None:
        return UNKNOWN
    booked: Booked = getattr(account, line)
    return f"{booked.events:,}" + (f" ({_size(booked.bytes)})" if booked.events else "")


def _drains(rates: Rates | None) -> str:
    if rates is None:
        return ""
    empty = rates.seconds_to_empty
    left = f", empty in {_seconds(empty)}" if empty else ""
    return f"{rates.drain:,.1f}/s, {rates.inflow:,.1f}/s come in{left}"


def _spill(spill: SpillStatus | None) -> str:
    if spill is None:
        return ""
    if not spill.spilled:
        return "0"
    parts = {"waiting": spill.waiting, "replayed": spill.replayed, "dropped": spill.dropped}
    return f"{spill.spilled:,}: " + ", ".join(f"{n:,} {name}" for name, n in parts.items())


def _forwarder(state: ForwarderState | None) -> str:
    if state is None:
        return "elsewhere"
    if state.paused:
        return "; ".join(f"paused, {kind}: {why}" for kind, why in state.paused.items())
    if state.failing:
        return f"failing, again in {state.retry_in:.0f} s: {state.failing}"
    return "runs"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004 - the step from one unit to the next
            return f"{count:,.4g} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:,.4g} GiB"


def _text(cell: str) -> Text:
    """Keep rich from reading brackets as markup, and what is no text from moving the cursor."""
    return Text("".join(c if c.isprintable() else "?" for c in cell) or "-")


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    console.print(table)
