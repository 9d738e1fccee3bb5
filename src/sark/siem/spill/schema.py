"""The tables of a spill file, and the account that they keep."""

from __future__ import annotations

import sqlite3

from sark.siem.spill.account import SpillStatus

__all__ = ["ForeignFileError", "is_broken", "prepare", "read_account"]

APPLICATION_ID = 0x5341524B
FORMAT_VERSION = 1

_SCHEMA = f"""
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sink TEXT NOT NULL,
    key INTEGER NOT NULL,
    copy INTEGER NOT NULL,
    microseconds INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX event_of_sink ON event (sink, id);
CREATE INDEX event_of_key ON event (key);
CREATE TABLE account (
    sink TEXT PRIMARY KEY,
    spilled INTEGER NOT NULL DEFAULT 0,
    spilled_bytes INTEGER NOT NULL DEFAULT 0,
    replayed INTEGER NOT NULL DEFAULT 0,
    replayed_bytes INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    dropped_bytes INTEGER NOT NULL DEFAULT 0,
    forgotten INTEGER NOT NULL DEFAULT 0,
    forgotten_bytes INTEGER NOT NULL DEFAULT 0,
    sent_to INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
"""


class ForeignFileError(sqlite3.DatabaseError):
    """The file is a database, but not one of this kind or version."""


def is_broken(error: Exception) -> bool:
    """Tell whether an error speaks of the file's content; otherwise the disk may yet recover."""
    code = getattr(error, "sqlite_errorcode", None)
    broken = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    return isinstance(error, ForeignFileError) or (code is not None and code & 0xFF in broken)


def prepare(connection: sqlite3.Connection, sync: str) -> None:
    """Make the tables of a new file, and set how it is written.

    Raises:
        ForeignFileError: It is a database of another kind.
    """
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    if not empty:
        _check_format(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {sync.upper()}")
    if empty:
        connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")


def read_account(connection: sqlite3.Connection) -> dict[str, SpillStatus]:
    """Read the account of every sink in a file: what waits is what has not left."""
    _check_format(connection)
    rows = connection.execute(
        "SELECT sink, spilled, spilled_bytes, replayed, replayed_bytes, "
        "dropped, dropped_bytes, forgotten, forgotten_bytes, "
        "(SELECT microseconds FROM event WHERE event.sink = account.sink ORDER BY id LIMIT 1) "
        "FROM account"
    ).fetchall()
    return {
        sink: SpillStatus(
            spilled=counts[0],
            spilled_bytes=counts[1],
            replayed=counts[2],
            replayed_bytes=counts[3],
            dropped=counts[4],
            dropped_bytes=counts[5],
            forgotten=counts[6],
            forgotten_bytes=counts[7],
            waiting=counts[0] - counts[2] - counts[4] - counts[6],
            waiting_bytes=counts[1] - counts[3] - counts[5] - counts[7],
            oldest=None if first is None else first / 1e6,
        )
        for sink, *counts, first in rows
    }


def _check_format(connection: sqlite3.Connection) -> None:
    found = tuple(
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    if found != (APPLICATION_ID, FORMAT_VERSION):
        raise ForeignFileError("it is no file of spilled events, or of another version of SARK")
