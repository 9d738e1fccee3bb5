"""Files that may change while the service runs: read again on request, and as they change."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sark.errors import ConfigurationError, EvaluationError

__all__ = ["FileWatcher", "Fingerprint", "Reloads", "fingerprint"]

Fingerprint = tuple[tuple[str, int, int, int], ...]

_log = logging.getLogger("sark.file_watch")


class Reloads(Protocol):
    """Reads files again."""

    async def reload(self) -> object:
        """Put what the files say in force.

        Raises:
            ConfigurationError: They are wrong, and what was in force stays.
            EvaluationError: A part that has to be asked was away; likewise.
        """


class FileWatcher:
    """Reloads when somebody asks, and when files have changed.

    Args:
        reloader: Does it.
        paths: Files and directories to look at.
        seen: Their fingerprint from before they were first read.
        interval: Seconds between two looks; 0 looks never.
    """

    def __init__(
        self,
        reloader: Reloads,
        paths: Sequence[Path],
        seen: Fingerprint,
        *,
        interval: float,
    ) -> None:
        self._reloader = reloader
        self._paths = tuple(paths)
        self._seen: Fingerprint | None = seen
        self._interval = interval or None
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Ask for a reload soon; what comes of it is reported as an event."""
        self._requested.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            requested = await self._wait()
            # Taken before the files are read: what changes meanwhile is seen the next time.
            found = await asyncio.to_thread(fingerprint, self._paths)
            if requested or found != self._seen:
                await self._reload(found)

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(self._interval):
                await self._requested.wait()
        except TimeoutError:
            return False
        self._requested.clear()
        return True

    async def _reload(self, found: Fingerprint) -> None:
        self._seen = found
        try:
            await self._reloader.reload()
        except ConfigurationError:
            return  # half-written, perhaps: tried again when the files change again
        except EvaluationError:
            self._seen = None  # a part was away; the files needn't change for another try
        except Exception:  # noqa: BLE001 - a bug must not end the watch; the running ones stay
            _log.exception("reloading %s failed", self._paths)


def fingerprint(paths: Sequence[Path]) -> Fingerprint:
    """Sum up names, times and sizes of files, without reading them.

    Inodes count too, so that a directory that was replaced as a whole shows, as mounted
    configuration is. Files whose name begins with a dot are left out, as when policies are read.
    """
    return tuple(entry for path in paths for entry in _entries(path))


def _entries(path: Path) -> list[tuple[str, int, int, int]]:
    found = [_entry(str(path))]
    for root, directories, files in os.walk(path):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        found += [_entry(os.path.join(root, name)) for name in names]  # noqa: PTH118 - many
    return found


def _entry(path: str) -> tuple[str, int, int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - likewise
    except OSError:
        return path, 0, -1, 0
    return path, status.st_mtime_ns, status.st_size, status.st_ino
