"""Spill stores for tests, and a queue's end that takes what a test lets it take."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from sark.events import Hub
from sark.siem.spill import Replay, Spill, SpillFolder, SpillStatus
from sark.siem.spilling import SpillRow, next_key

MAIN = "main"


def rows_of(*events: bytes, sink: str = MAIN, copy: bool = False) -> list[SpillRow]:
    """Make rows of events, numbered as the queue does."""
    return [SpillRow(sink, event, copy, next_key()) for event in events]


@contextlib.asynccontextmanager
async def open_spill(
    folder: Path, *, max_bytes: int = 2**20, hub: Hub | None = None, **options: Any
) -> AsyncIterator[Spill]:
    """Open a spill store that adopts what is there, and close it at the end."""
    spill = Spill(folder, max_bytes=max_bytes, hub=hub or Hub(), **options)
    try:
        await spill.files.adopt()
        yield spill
    finally:
        await spill.close()


class Taker:
    """Stands where ``EventQueue.put_back`` does, for what no real queue does on demand.

    Attributes:
        room: How many events it still takes.
        error: What it raises instead of taking any.
        taken: What it took, by sink, in order, each with whether it was a copy.
        calls: How often it was asked.
    """

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.error: Exception | None = None
        self.taken: list[tuple[str, bytes, bool]] = []
        self.calls = 0

    async def __call__(self, sink: str, events: Sequence[bytes], *, copies: bool) -> int:
        self.calls += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        count = min(self.room, len(events))
        self.room -= count
        self.taken += [(sink, event, copies) for event in events[:count]]
        return count

    @property
    def events(self) -> list[bytes]:
        """The events that it took."""
        return [event for _, event, _ in self.taken]


@contextlib.asynccontextmanager
async def replaying(
    spill: Spill, taker: Taker, *, sinks: Sequence[str] = (MAIN,), hub: Hub | None = None
) -> AsyncIterator[None]:
    """Replay beside the block."""
    task = asyncio.create_task(Replay(spill, taker, sinks=sinks, hub=hub or Hub()).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def databases(folder: Path) -> list[Path]:
    """List the spill files of a folder, oldest first."""
    return sorted(folder.glob("spill-*.db"))


def names_in(folder: Path) -> list[str]:
    """List the names of all files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def stored(folder: Path) -> list[tuple[str, bytes]]:
    """Read what waits in all files of a folder, file by file, as another program would."""
    found: list[tuple[str, bytes]] = []
    for path in databases(folder):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found += connection.execute("SELECT sink, body FROM event ORDER BY id").fetchall()
    return found


def assert_account_closes(folder: Path) -> dict[str, SpillStatus]:
    """Compare the folder's account with what is there; returns it."""
    status = SpillFolder(folder).status()
    waiting = stored(folder)
    for sink, each in status.items():
        events = [event for of, event in waiting if of == sink]
        assert each.waiting == len(events), sink
        assert each.waiting_bytes == sum(map(len, events)), sink
        gone = each.replayed + each.dropped + each.forgotten
        assert each.spilled == each.waiting + gone, sink
        gone = each.replayed_bytes + each.dropped_bytes + each.forgotten_bytes
        assert each.spilled_bytes == each.waiting_bytes + gone, sink
    assert {sink for sink, _ in waiting} <= status.keys()
    return status
