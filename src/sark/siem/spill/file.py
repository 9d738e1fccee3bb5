"""One file of spilled events: an SQLite database in WAL mode, used by one thread.

Events leave it in the order in which they came, sink by sink. Before a batch is sent to its queue,
the file notes up to which event that may have happened; the note goes when the outcome is known.
So whoever opens the file after a crash knows which events the queue may have already, and books
them as copies. The account is written in the transactions that move the events.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sark.siem.spill.account import SpillStatus
from sark.siem.spill.schema import prepare, read_account
from sark.siem.spilling import SpillRow

__all__ = ["Batch", "SpillFile", "Written"]

BUSY_SECONDS = 1.0
VACUUM_PAGES = 1024
"""A drained file that is larger gives its disk space back."""

_Entry = Literal["spilled", "replayed", "dropped", "forgotten"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one sink that are to be sent to its queue, in their order.

    Attributes:
        sink: Whose.
        ids: Their places in the file.
        events: Their JSON.
        copies: Whether the queue may have them already.
        sent_before: Up to which event of the sink that was so before this batch.
    """

    sink: str
    ids: tuple[int, ...]
    events: tuple[bytes, ...]
    copies: bool
    sent_before: int


@dataclass(slots=True)
class Written:
    """What came of several puts.

    Attributes:
        kept: Whether each found room.
        dropped: How many older events of each sink gave way.
    """

    kept: list[bool]
    dropped: Counter[str]


class SpillFile:
    """A file of spilled events. Every call is a transaction, and none may be concurrent.

    Args:
        path: The file; made when it is missing, for its user alone.
        sync: Whether each commit is synced to disk (``full``) or only each checkpoint.

    It is opened at the first call, and again at the first one after ``close``.

    Raises:
        sqlite3.Error: It cannot be used, as from all methods; nothing was changed.
        OSError: It cannot be made; likewise.
    """

    def __init__(self, path: Path, *, sync: Literal["full", "normal"]) -> None:
        self.path = path
        self.waiting, self.waiting_bytes = Counter[str](), Counter[str]()
        """Events and their bytes by sink; as they were when the file was used last."""
        self._sync = sync
        self._open: sqlite3.Connection | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = self._connect()
        return self._open

    def _connect(self) -> sqlite3.Connection:
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_SECONDS)
        try:
            prepare(connection, self._sync)
            account = read_account(connection)
        except BaseException:
            connection.close()
            raise
        self.waiting = Counter({sink: each.waiting for sink, each in account.items()})
        self.waiting_bytes = Counter({sink: each.waiting_bytes for sink, each in account.items()})
        return connection

    def write(
        self, puts: Sequence[Sequence[SpillRow]], *, max_bytes: int, drop_oldest: bool
    ) -> Written:
        """Keep rows in one transaction.

        Args:
            puts: Rows that belong together: of each group all are kept, or none.
            max_bytes: How many bytes of events the file may hold.
            drop_oldest: Whether older events of the same sinks give way when there is no room.

        Returns:
            Which groups were kept, and what gave way.
        """
        written = Written([], Counter())
        with self._transaction():
            events, size = self.waiting.copy(), self.waiting_bytes.copy()
            for rows in puts:
                excess = size.total() + sum(len(row.event) for row in rows) - max_bytes
                gone = self._oldest(rows, excess) if drop_oldest and excess > 0 else {}
                fits = excess <= sum(sum(sizes.values()) for sizes in gone.values())
                written.kept.append(fits or excess <= 0)
                if not written.kept[-1]:
                    continue
                for sink, sizes in gone.items():
                    self._remove(sink, sizes, "dropped")
                    events[sink] -= len(sizes)
                    size[sink] -= sum(sizes.values())
                    written.dropped[sink] += len(sizes)
                self._insert(rows)
                for row in rows:
                    events[row.sink] += 1
                    size[row.sink] += len(row.event)
        self.waiting, self.waiting_bytes = events, size
        return written

    def _oldest(self, rows: Sequence[SpillRow], excess: int) -> dict[str, dict[int, int]]:
        """Find the oldest events of the rows' sinks that make room: their sizes by id.

        What is being sent is no longer ours to drop.
        """
        found: dict[str, dict[int, int]] = {}
        for sink in dict.fromkeys(row.sink for row in rows):
            sizes = found.setdefault(sink, {})
            for number, size in self._connection.execute(
                "SELECT id, length(body) FROM event WHERE sink = ? AND id > ? ORDER BY id",
                (sink, self._sent_to(sink)),
            ):
                if excess <= 0:
                    break
                sizes[number] = size
                excess -= size
        return found

    def _insert(self, rows: Sequence[SpillRow]) -> None:
        now = time.time_ns() // 1000
        self._connection.executemany(
            "INSERT INTO event (sink, key, copy, microseconds, body) VALUES (?, ?, ?, ?, ?)",
            ((row.sink, row.key, row.copy, now, row.event) for row in rows),
        )
        counts, sizes = Counter[str](), Counter[str]()
        for row in rows:
            counts[row.sink] += 1
            sizes[row.sink] += len(row.event)
        for sink, count in counts.items():
            self._book(sink, "spilled", count, sizes[sink])

    def take(self, sink: str, *, events: int, size: int) -> Batch | None:
        """Take the oldest events of a sink for sending, and note that they may be sent.

        They stay here until ``settle``.

        Args:
            sink: Whose.
            events: Most events.
            size: Most bytes of their JSON, but at least one event.

        Returns:
            The events, all of them copies or none; None when there is none.
        """
        sent_to = self._sent_to(sink)
        ids, bodies = list[int](), list[bytes]()
        copies = False
        for number, copy, body in self._connection.execute(
            "SELECT id, copy OR id <= ?, body FROM event WHERE sink = ? ORDER BY id LIMIT ?",
            (sent_to, sink, events),
        ):
            size -= len(body)
            if ids and (size < 0 or bool(copy) != copies):
                break
            copies = bool(copy)
            ids.append(number)
            bodies.append(body)
        if not ids:
            return None
        if ids[-1] > sent_to:
            with self._transaction():
                self._note_sent(sink, ids[-1])
        return Batch(sink, tuple(ids), tuple(bodies), copies, sent_to)

    def settle(self, batch: Batch, taken: int) -> None:
        """Remove what the queue took of a batch; it certainly did not take the rest.

        Where that is not certain, leave the batch unsettled: its events are taken again as copies.
        """
        sink, ids = batch.sink, batch.ids[:taken]
        sizes = {number: len(body) for number, body in zip(ids, batch.events, strict=False)}
        with self._transaction():
            if sizes:
                self._remove(sink, sizes, "replayed")
            self._note_sent(sink, max(batch.sent_before, *ids[-1:], 0))
        self._subtract(sink, sizes)

    def forget(self, keys: Collection[int]) -> Counter[str]:
        """Remove copies by their keys, unless they may have been sent; counts them by sink."""
        found: dict[str, dict[int, int]] = {}
        with self._transaction():
            for sink, number, size in self._connection.execute(
                "SELECT sink, id, length(body) FROM event JOIN account USING (sink) "
                "WHERE copy AND id > sent_to AND key IN (SELECT value FROM json_each(?))",
                (json.dumps([*keys]),),
            ).fetchall():
                found.setdefault(sink, {})[number] = size
            for sink, sizes in found.items():
                self._remove(sink, sizes, "forgotten")
        for sink, sizes in found.items():
            self._subtract(sink, sizes)
        return Counter({sink: len(sizes) for sink, sizes in found.items()})

    def count(self) -> Counter[str]:
        """Count the events of each sink that has any."""
        assert self._connection  # noqa: S101 - opened, so that it has been counted
        return +self.waiting

    def status(self) -> dict[str, SpillStatus]:
        """Read the account of every sink."""
        return read_account(self._connection)

    def shrink(self) -> None:
        """Give disk space back when nothing waits; else do nothing."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        if pages > VACUUM_PAGES and not self.waiting.total():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close it. Nothing is lost by not doing so."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _remove(self, sink: str, sizes: dict[int, int], entry: _Entry) -> None:
        self._connection.executemany(
            "DELETE FROM event WHERE id = ?", ((number,) for number in sizes)
        )
        self._book(sink, entry, len(sizes), sum(sizes.values()))

    def _subtract(self, sink: str, sizes: dict[int, int]) -> None:
        self.waiting[sink] -= len(sizes)
        self.waiting_bytes[sink] -= sum(sizes.values())

    def _book(self, sink: str, entry: _Entry, events: int, size: int) -> None:
        self._connection.execute(
            f"INSERT INTO account (sink, {entry}, {entry}_bytes) VALUES (?, ?, ?) "  # noqa: S608 - a literal of ours
            f"ON CONFLICT DO UPDATE SET {entry} = {entry} + excluded.{entry}, "
            f"{entry}_bytes = {entry}_bytes + excluded.{entry}_bytes",
            (sink, events, size),
        )

    def _sent_to(self, sink: str) -> int:
        row = self._connection.execute(
            "SELECT sent_to FROM account WHERE sink = ?", (sink,)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def _note_sent(self, sink: str, number: int) -> None:
        self._connection.execute("UPDATE account SET sent_to = ? WHERE sink = ?", (number, sink))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself after some errors, such as a full disk.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
