"""The folder of spill files that the processes of one machine share.

Each process writes a file of its own, and holds it by a ``flock`` on a lock file beside it, which
the kernel drops with the process, whichever way it ends. So a file whose lock is free was left
behind, and any process may adopt it. (SQLite's own locks would not do: they come and go with each
transaction, and closing any other descriptor of a database drops them.)

A file from which everything has gone is removed; its account is added to ``totals.db`` first. That
happens in one transaction which names the file, so that a crash before the removal counts nothing
twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from uuid_utils import uuid7

from sark.siem.spill.account import SpillStatus
from sark.siem.spill.schema import is_broken, read_account
from sark.store.datadir import close_in_forks, close_registered

__all__ = ["Claim", "SpillFolder"]

TOTALS_NAME = "totals.db"
PREFIX = "spill-"
BUSY_SECONDS = 5.0
_SQLITE_FILES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Claim:
    """A file that no other process uses while this one holds it.

    Attributes:
        path: The database.
        lock: Descriptor of its lock file.
    """

    path: Path
    lock: int


class SpillFolder:
    """Hands out files.

    Args:
        path: The folder; made, for its user alone, when a file is made.

    Raises:
        OSError: It cannot be used, as from all methods.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def create(self) -> Claim:
        """Hold a new file's name; names are ordered by time."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            claim = _hold(self.path / f"{PREFIX}{uuid7()}.db")
            if claim is not None:
                return claim

    def adopt(self) -> list[Claim]:
        """Hold the files whose processes have ended, oldest first."""
        found = []
        # A lock without its file is what a process left that was killed in between.
        names = {
            path.stem for kind in ("db", "lock") for path in self.path.glob(f"{PREFIX}*.{kind}")
        }
        for path in (self.path / f"{name}.db" for name in sorted(names)):
            claim = _hold(path)
            if claim is None:
                continue
            if path.exists():
                found.append(claim)
            else:
                self.release(claim, remove_lock=True)
        return found

    def release(self, claim: Claim, *, remove_lock: bool = False) -> None:
        """Give a file up."""
        if remove_lock:
            _lock_path(claim.path).unlink(missing_ok=True)
        close_registered(claim.lock)

    def retire(self, claim: Claim, account: Mapping[str, SpillStatus]) -> None:
        """Remove a closed file from which everything has gone, and keep its account.

        Raises:
            sqlite3.Error: The totals cannot be written; the file stays, held.
        """
        try:
            with self._totals() as totals:
                _add(totals, claim.path.name, account)
                self._remove(claim)
                totals.execute("DELETE FROM retired WHERE name = ?", (claim.path.name,))
        except sqlite3.DatabaseError as error:
            if not is_broken(error):
                raise
            path = self.path / TOTALS_NAME
            path.rename(f"{path}.corrupt")
            raise sqlite3.OperationalError(f"{TOTALS_NAME} was set aside: {error}") from error

    def set_aside(self, claim: Claim) -> Path:
        """Rename a file that cannot be read, and give it up; returns its new name."""
        aside = claim.path.with_name(f"{claim.path.name}.corrupt")
        for suffix in _SQLITE_FILES:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{claim.path}{suffix}").rename(f"{aside}{suffix}")
        self.release(claim, remove_lock=True)
        return aside

    def status(self) -> dict[str, SpillStatus]:
        """Read the account of all files together, also those of other processes, by sink.

        Raises:
            sqlite3.Error: A file cannot be read.
        """
        accounts = [self._read_totals()]
        for path in sorted(self.path.glob(f"{PREFIX}*.db")):
            # Its process may remove it meanwhile: then it is in the totals the next time.
            with contextlib.suppress(FileNotFoundError), _reading(path) as connection:
                accounts.append(read_account(connection))
        merged: dict[str, SpillStatus] = {}
        for account in accounts:
            for sink, each in account.items():
                merged[sink] = merged.get(sink, SpillStatus()) + each
        return merged

    def _read_totals(self) -> dict[str, SpillStatus]:
        path = self.path / TOTALS_NAME
        if not path.exists():
            return {}
        with _reading(path) as connection:
            rows = connection.execute("SELECT sink, account FROM totals").fetchall()
        return {sink: msgspec.json.decode(account, type=SpillStatus) for sink, account in rows}

    @contextlib.contextmanager
    def _totals(self) -> Iterator[sqlite3.Connection]:
        path = self.path / TOTALS_NAME
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
        with contextlib.closing(connection):
            connection.execute("CREATE TABLE IF NOT EXISTS totals (sink TEXT PRIMARY KEY, account)")
            connection.execute("CREATE TABLE IF NOT EXISTS retired (name TEXT PRIMARY KEY)")
            yield connection

    def _remove(self, claim: Claim) -> None:
        for suffix in reversed(_SQLITE_FILES):
            Path(f"{claim.path}{suffix}").unlink(missing_ok=True)
        self.release(claim, remove_lock=True)


def _add(totals: sqlite3.Connection, name: str, account: Mapping[str, SpillStatus]) -> None:
    """Add a file's account to the totals, unless that has happened before."""
    totals.execute("BEGIN IMMEDIATE")
    try:
        fresh = totals.execute("INSERT OR IGNORE INTO retired VALUES (?)", (name,)).rowcount
        for sink, each in account.items() if fresh else ():
            row = totals.execute("SELECT account FROM totals WHERE sink = ?", (sink,)).fetchone()
            known = SpillStatus() if row is None else msgspec.json.decode(row[0], type=SpillStatus)
            totals.execute(
                "INSERT OR REPLACE INTO totals VALUES (?, ?)",
                (sink, msgspec.json.encode(known + each)),
            )
        totals.execute("COMMIT")
    except BaseException:
        if totals.in_transaction:
            totals.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise FileNotFoundError(path)
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )
    with contextlib.closing(connection):
        yield connection


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _hold(path: Path) -> Claim | None:
    """Take a file's lock without waiting; None when another process has it."""
    lock_path = _lock_path(path)
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have removed it: then this is no longer the file's lock.
        held = os.fstat(lock).st_ino == lock_path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        held = False
    except BaseException:
        os.close(lock)
        raise
    if not held:
        os.close(lock)
        return None
    close_in_forks(lock)
    return Claim(path, lock)
