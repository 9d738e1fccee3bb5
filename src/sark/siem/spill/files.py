"""The spill files that this process holds, and the thread in which SQLite uses them.

One file is the process's own: it takes what is put. It is made at the first put, since most
processes never need one. The others were left by processes that ended, and are only emptied.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from sark.errors import AuditError
from sark.events import Hub, SpillChanged, SpillFileSetAside
from sark.siem.spill.account import SpillStatus
from sark.siem.spill.file import Batch, SpillFile, Written
from sark.siem.spill.folder import Claim, SpillFolder
from sark.siem.spill.schema import is_broken
from sark.siem.spilling import SpillRow

__all__ = ["Held", "SpillFiles"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A file that this process holds."""

    claim: Claim
    file: SpillFile


class SpillFiles:
    """The files of one process. All methods raise ``AuditError`` when the disk refuses.

    Args:
        folder: Where they are.
        sync: As in ``SpillFile``.
        hub: Hears when the disk refuses and when it works again, and of files set aside.
    """

    def __init__(self, folder: Path, *, sync: Literal["full", "normal"], hub: Hub) -> None:
        self._folder = SpillFolder(folder)
        self._sync: Literal["full", "normal"] = sync
        self._hub = hub
        self._own: Held | None = None
        self._adopted: list[Held] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sark-spill")
        self.trouble = ""
        """Why the disk refused the last call; empty when it did not."""

    @property
    def own(self) -> Held | None:
        """The file that takes what is put; None before the first put."""
        return self._own

    @property
    def held(self) -> list[Held]:
        """All files, the adopted ones first, by age."""
        return self._adopted + ([] if self._own is None else [self._own])

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the events that wait in all files, as far as they have been opened."""
        return sum(held.file.waiting_bytes.total() for held in self.held)

    def waits(self, sink: str) -> bool:
        """Tell whether the own file has events of a sink."""
        return self._own is not None and self._own.file.waiting[sink] > 0

    async def write(
        self, puts: Sequence[Sequence[SpillRow]], *, max_bytes: int, drop_oldest: bool
    ) -> Written:
        """Keep rows; as ``SpillFile.write``, with ``max_bytes`` for all files together."""

        def write() -> Written:
            if self._own is None:
                self._own = self._file_of(self._folder.create())
            file = self._own.file
            others = self.waiting_bytes - file.waiting_bytes.total()
            return file.write(puts, max_bytes=max_bytes - others, drop_oldest=drop_oldest)

        return await self._run(write, "own")

    async def forget(self, keys: Collection[int]) -> None:
        """Remove copies from the own file; as ``SpillFile.forget``."""
        own = self._own
        if own is not None:
            await self._run(lambda: own.file.forget(keys), own)

    async def take(self, held: Held, sink: str, *, events: int, size: int) -> Batch | None:
        """Take events for sending; as ``SpillFile.take``."""
        return await self._run(lambda: held.file.take(sink, events=events, size=size), held)

    async def settle(self, held: Held, batch: Batch, taken: int) -> None:
        """Remove what the queue took; as ``SpillFile.settle``."""
        await self._run(lambda: held.file.settle(batch, taken), held)

    async def adopt(self) -> None:
        """Hold the files that ended processes left."""
        for claim in await self._run(self._folder.adopt):
            held = self._file_of(claim)
            self._adopted.append(held)
            # It stays held, and is opened again for its turn.
            with contextlib.suppress(AuditError):
                await self._run(held.file.count, held)

    async def finish(self, held: Held) -> None:
        """Remove an adopted file if it is empty; of the own one, give disk space back."""

        def finish() -> None:
            if held is self._own:
                held.file.shrink()
            elif not held.file.count():
                self._retire(held)
                self._adopted.remove(held)

        await self._run(finish, held)

    async def status(self) -> dict[str, SpillStatus]:
        """Read the accounts of all files together, by sink."""
        merged: dict[str, SpillStatus] = {}
        for held in self.held:
            account = await self._run(held.file.status, held)
            for sink, each in account.items():
                merged[sink] = merged.get(sink, SpillStatus()) + each
        return merged

    async def settled(self) -> None:
        """Wait for the calls under way."""
        await self._run(lambda: None)

    def unanswered(self) -> str:
        """Note that the disk does not answer, until it does; returns that in words."""
        self._report(f"{self._folder.path}: the disk does not answer")
        return self.trouble

    async def close(self) -> None:
        """Give all files up; those that are empty are removed."""

        def leave(held: Held) -> None:
            try:
                if not held.file.count():
                    self._retire(held)
            finally:
                held.file.close()
                self._folder.release(held.claim)

        def leave_all() -> None:
            with contextlib.ExitStack() as stack:
                for held in self.held:
                    stack.callback(leave, held)

        try:
            await self._run(leave_all)
        finally:
            self._own, self._adopted = None, []
            self._thread.shutdown()

    def _file_of(self, claim: Claim) -> Held:
        return Held(claim, SpillFile(claim.path, sync=self._sync))

    def _retire(self, held: Held) -> None:
        account = held.file.status()
        held.file.close()
        self._folder.retire(held.claim, account)

    async def _run(self, work: Callable[[], T], used: Held | Literal["own"] | None = None) -> T:
        """Work in the thread; ``used`` is the file that is used, which may be made only there."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            reason = f"{self._folder.path}: {_text(error)}"
            await self._give_up(self._own if used == "own" else used, error)
            self._report(reason)
            raise AuditError(f"the spill store failed: {reason}") from error
        self._report("")
        return result

    async def _give_up(self, held: Held | None, error: Exception) -> None:
        """Close a file after an error; the next call opens it again, unless it is broken."""
        if held is None:
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, held.file.close)
        if not is_broken(error):
            return
        if held is self._own:
            self._own = None
        elif held in self._adopted:
            self._adopted.remove(held)
        else:
            return
        # Where it can't even be renamed it stays, out of use, for the next process.
        with contextlib.suppress(OSError):
            aside = await loop.run_in_executor(self._thread, self._folder.set_aside, held.claim)
            self._hub.emit(SpillFileSetAside(str(aside), _text(error)))

    def _report(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            self._hub.emit(SpillChanged(not trouble, trouble))
        self.trouble = trouble


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
