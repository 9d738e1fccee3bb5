"""Files that are read again as they change."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from sark.file_watch import FileWatcher, Fingerprint, Reloads
from sark.parts.background import background

__all__ = ["watching"]


@contextlib.asynccontextmanager
async def watching(
    reloader: Reloads, paths: Sequence[Path], seen: Fingerprint, *, interval: float, name: str
) -> AsyncIterator[FileWatcher]:
    """Watch files beside the block; arguments as of ``FileWatcher``, and a name for the task."""
    watcher = FileWatcher(reloader, paths, seen, interval=interval)
    async with background(watcher.run(), name):
        yield watcher
