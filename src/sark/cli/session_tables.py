"""How the commands about sessions show what they found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sark.ops.session_stats import SessionReport, StoredSessions
from sark.sessions import Session

__all__ = ["print_report", "print_session", "print_sessions"]

PIPED_WIDTH = 200
NONE = "-"
COLUMNS = (
    "session",
    "client",
    "created",
    "last seen",
    "ends at the latest",
    "outside",
    "ip",
    "user agent",
)


def print_sessions(found: Sequence[Session]) -> None:
    """Print a user's sessions."""
    table = Table(*COLUMNS)
    table.columns[0].no_wrap = True
    for session in found:
        cells = (
            session.session_id,
            session.client_id,
            _date(session.created_at),
            _date(session.last_seen),
            _date(session.expires_at),
            _outside(session),
            session.ip,
            session.user_agent,
        )
        table.add_row(*(_text(cell) for cell in cells))
    if found:
        _print(table)
    else:
        _print("no sessions")


def print_session(session: Session) -> None:
    """Print one session."""
    _print_rows(
        {
            "user": session.user_id,
            "session": session.session_id,
            "client": session.client_id,
            "tier": session.tier,
            "created": _date(session.created_at),
            "last seen": _date(session.last_seen),
            "ends at the latest": _date(session.expires_at),
            "outside": _outside(session),
            "ip": session.ip,
            "user agent": session.user_agent,
        }
    )


def print_report(found: SessionReport) -> None:
    """Print the figures of sessions."""
    tokens = found.verifications
    _print_rows(
        {
            "logins": f"{found.created:,}",
            "refreshed": f"{found.refreshed:,}",
            "refused": _counts(found.refused),
            "copied refresh tokens": f"{found.reused:,}",
            "ended early": _counts(found.ended),
            "signatures": f"{tokens.computed:,} computed, {tokens.remembered:,} remembered",
            "in Valkey": _stored(found.stored),
        }
    )


def _outside(session: Session) -> str:
    """Tell whether an outside issuer vouches for it, so that its tokens aren't ours to refresh."""
    return "yes" if session.outside else "no"


def _counts(counts: Mapping[str, int]) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values()):,}" + (f" ({named})" if named else "")


def _stored(stored: StoredSessions | None) -> str:
    if stored is None:
        return "does not answer"
    size = ""
    if stored.average_bytes is not None:
        size = f", {stored.average_bytes:.0f} bytes each without index and tokens"
    text = (
        f"{stored.sessions:,} sessions{size}; {stored.tokens:,} access tokens; "
        f"{stored.users:,} users"
    )
    return f"about {text} (from {stored.sampled_keys:,} keys)" if stored.estimated else text


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(" ", "seconds").replace("+00:00", "Z")


def _text(cell: str) -> Text:
    """Keep rich from reading brackets as markup, and what is no text from moving the cursor."""
    return Text("".join(c if c.isprintable() else "?" for c in cell) or NONE)


def _print_rows(rows: Mapping[str, str]) -> None:
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, _text(text))
    _print(table)


def _print(shown: Table | str) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    console.print(shown)
