"""The spill store: where audit events wait that Valkey does not take.

A put returns when its rows are committed. Puts that arrive while a commit is under way wait for the
next one and share it, and its sync to disk. The task that commits is the store's own, so a caller
who is cancelled takes nobody else's rows along.

What waits here has to keep its place before what is put later, so new events of a sink go behind it
as long as ``waits`` says so. Under steady load something always is on its way to the disk, so that
the last row would never be the last. Therefore the replay ends with a hand-over: commits are held
for a moment, the rows on disk are sent, and then those whose puts wait, straight from memory.
Nobody was told yet that the latter are safe, so nothing can come after them but what is concurrent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sark.errors import AuditError, QueueFullError, StoreUnavailableError
from sark.events import AuditDropped, Hub
from sark.siem.spill.account import SpillStatus
from sark.siem.spill.files import SpillFiles
from sark.siem.spilling import SpillRow

__all__ = ["MAX_SEND_BYTES", "MAX_SEND_EVENTS", "PutBack", "Spill"]

MAX_COMMIT_BYTES = 8 * 2**20
MAX_SEND_EVENTS = 1000
MAX_SEND_BYTES = 2**20
FORGET_AT_ONCE = 1000
FULL_RETRY_AFTER_SECONDS = 5.0
PUT_SECONDS = 5.0
"""A disk that takes longer is taken for one that hangs: other syncs may cost a second or two."""


class PutBack(Protocol):
    """Appends events to a sink's queue; ``EventQueue.put_back``."""

    def __call__(self, sink: str, events: Sequence[bytes], *, copies: bool) -> Awaitable[int]:
        """Append events; returns how many found room, in their order.

        Raises:
            StoreUnavailableError: None was sent.
            StoreError: Any of them may have been appended.
        """
        ...


@dataclass(slots=True, eq=False)
class _Put:
    rows: list[SpillRow]
    safe: asyncio.Future[None]

    def settle(self, error: AuditError | None = None) -> None:
        if self.safe.done():
            return
        if error is None:
            self.safe.set_result(None)
        else:
            self.safe.set_exception(error)


class Spill:
    """Keeps events on disk until their queue takes them. For the tasks of one event loop.

    Args:
        folder: Where; processes may share it.
        max_bytes: How many bytes of events may wait here, adopted ones included.
        sync: ``full`` syncs each commit to disk, so that what a put acknowledged outlives a power
            failure; with ``normal`` it outlives the process only.
        overflow: When there is no room: ``refuse`` puts, or drop the oldest events of their sinks.
        hub: Hears of events that are dropped, and of trouble with the disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        sync: Literal["full", "normal"] = "full",
        overflow: Literal["refuse", "drop_oldest"] = "refuse",
        hub: Hub,
    ) -> None:
        self.max_bytes = max_bytes
        self.files = SpillFiles(folder, sync=sync, hub=hub)
        self.has_put = asyncio.Event()
        """Set when rows were committed."""
        self._drop_oldest = overflow == "drop_oldest"
        self._hub = hub
        self._pending: list[_Put] = []
        self._uncommitted = Counter[str]()
        self._committer: asyncio.Task[None] | None = None
        self._may_commit = asyncio.Event()
        self._may_commit.set()
        self._closed = False

    def waits(self, sink: str) -> bool:
        """Tell whether something of this sink waits here: new events go behind it.

        Events that another process left don't count: their order among ours means nothing.
        """
        return self._uncommitted[sink] > 0 or self.files.waits(sink)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the events that wait here."""
        return self.files.waiting_bytes

    @property
    def trouble(self) -> str:
        """Why the disk refused the last call; empty when it did not."""
        return self.files.trouble

    def has_room(self) -> bool:
        """Tell whether the disk works and an event would find room; others may take it first."""
        return not self.trouble and (self._drop_oldest or self.waiting_bytes < self.max_bytes)

    async def put(self, rows: Sequence[SpillRow]) -> None:
        """Keep rows, all or none; returns when they are committed.

        Raises:
            QueueFullError: There is no room.
            AuditError: The disk refuses them or does not answer, or the store is closed. What was
                being written then may yet be kept.
        """
        if self._closed:
            raise AuditError("the spill store is closed")
        if not rows:
            return
        put = _Put([*rows], asyncio.get_running_loop().create_future())
        self._uncommitted.update(row.sink for row in rows)
        self._pending.append(put)
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_pending(), name="sark-spill")
        try:
            async with asyncio.timeout(PUT_SECONDS):
                await put.safe
        except TimeoutError:
            self._withdraw(put)
            raise AuditError(f"the spill store failed: {self.files.unanswered()}") from None

    async def forget(self, ids: Collection[int]) -> None:
        """Forget copies whose originals turned out accepted, unless they are being replayed.

        Args:
            ids: Keys of rows whose puts have returned.

        Raises:
            AuditError: The disk refuses; they stay, and are replayed as copies.
        """
        keys = [*ids]
        for start in range(0, len(keys), FORGET_AT_ONCE):
            await self.files.forget(keys[start : start + FORGET_AT_ONCE])

    async def status(self) -> dict[str, SpillStatus]:
        """Read the account of the files that this process holds, by sink.

        Raises:
            AuditError: The disk refuses.
        """
        return await self.files.status()

    @contextlib.asynccontextmanager
    async def commits_held(self) -> AsyncIterator[None]:
        """Start no commit in the block, which begins when the one under way has ended."""
        self._may_commit.clear()
        try:
            await self.files.settled()
            yield
        finally:
            self._may_commit.set()

    async def pass_on(self, sink: str, put_back: PutBack) -> None:
        """Send a sink's rows that wait for a commit to their queue instead, while that is held.

        From the start of this call new events go to the queue too. What the queue does not take is
        committed after all.

        Raises:
            StoreError: From ``put_back``; its rows will be committed, as copies where need be.
        """
        passed = [(put, row) for put in self._pending for row in put.rows if row.sink == sink]
        puts = dict.fromkeys(put for put, _ in passed)
        for put in puts:
            put.rows = [row for row in put.rows if row.sink != sink]
        self._uncommitted[sink] -= len(passed)
        try:
            while passed:
                run = _run_of([row for _, row in passed])
                try:
                    taken = await put_back(sink, [row.event for row in run], copies=run[0].copy)
                except StoreUnavailableError:
                    raise
                except BaseException:
                    passed[: len(run)] = [
                        (put, row._replace(copy=True)) for put, row in passed[: len(run)]
                    ]
                    raise
                del passed[:taken]
                if taken < len(run):
                    break
        finally:
            # Whoever gave up meanwhile wants its rows no longer.
            waiting = set(self._pending)
            passed = [(put, row) for put, row in passed if put in waiting]
            for put, row in passed:
                put.rows.append(row)
            self._uncommitted[sink] += len(passed)
            for put in puts:
                if not put.rows:
                    put.settle()
            self._pending = [put for put in self._pending if put.rows]

    async def close(self) -> None:
        """Commit what is pending and give the files up; what waits is left to the next process."""
        self._closed = True
        while self._committer is not None and not self._committer.done():
            await asyncio.wait([self._committer])
        await self.files.close()

    async def _commit_pending(self) -> None:
        while self._pending:
            await self._may_commit.wait()
            group = self._next_group()
            if not group:  # all of it was passed on
                continue
            try:
                written = await self.files.write(
                    [put.rows for put in group],
                    max_bytes=self.max_bytes,
                    drop_oldest=self._drop_oldest,
                )
            except AuditError as error:
                # An error of its own for each: exceptions collect the traceback of who raises them.
                self._settle(group, [AuditError(str(error)) for _ in group])
                continue
            except Exception as error:
                # A mistake of the program: it ends this task, and nobody waits for ever.
                self._settle(group, [AuditError(f"not spilled: {error}") for _ in group])
                raise
            self._settle(group, [None if kept else self._full() for kept in written.kept])
            if written.dropped:
                self._hub.emit(AuditDropped(written.dropped.total()))
            self.has_put.set()

    def _next_group(self) -> list[_Put]:
        """Take what one commit may carry, oldest first."""
        size = count = 0
        for put in self._pending:
            size += sum(len(row.event) for row in put.rows)
            if count and size > MAX_COMMIT_BYTES:
                break
            count += 1
        group, self._pending = self._pending[:count], self._pending[count:]
        return group

    def _withdraw(self, put: _Put) -> None:
        """Forget a put whose commit has not begun, so that a hanging disk fills no memory."""
        if put in self._pending:
            self._pending.remove(put)
            self._uncommitted.subtract(row.sink for row in put.rows)

    def _settle(self, group: Sequence[_Put], errors: Sequence[AuditError | None]) -> None:
        for put, error in zip(group, errors, strict=True):
            self._uncommitted.subtract(row.sink for row in put.rows)
            put.settle(error)

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"the audit queue is full, and so is the spill store with {self.max_bytes} bytes: "
            "drain the queue or raise SARK_SPILL_MAX_BYTES",
            retry_after=FULL_RETRY_AFTER_SECONDS,
        )


def _run_of(rows: Sequence[SpillRow]) -> Sequence[SpillRow]:
    """Tell what one call may carry: the first rows, all of them copies or none."""
    size = count = 0
    for row in rows[:MAX_SEND_EVENTS]:
        size += len(row.event)
        if count and (size > MAX_SEND_BYTES or row.copy != rows[0].copy):
            break
        count += 1
    return rows[:count]
