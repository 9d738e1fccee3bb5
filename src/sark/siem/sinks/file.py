"""Writes events to a file, one JSON object or one line of CEF a line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from sark.errors import ConfigurationError, SinkError
from sark.siem.sinks.appended_file import AppendedFile
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.blocking import OneAtATime
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.options import flag
from sark.siem.sinks.verdict import Delivered, Partly, Unavailable, Verdict

__all__ = ["SINK", "FileSink"]

LIMITS = SinkLimits(events=10_000, bytes=16 * 2**20, event_bytes=16 * 2**20)


class FileSink:
    """Appends events to a file. An event counts as delivered when its line is in it.

    Args:
        path: The file; created with mode 0600.
        fsync: Whether an event counts only once it is on the disk.
        timeout: Longest wait for the disk, in seconds.
    """

    def __init__(self, path: Path, *, fsync: bool = True, timeout: float = 10.0) -> None:
        self.limits = LIMITS
        self._path = path
        self._file = AppendedFile(path, fsync=fsync)
        self._timeout = timeout
        self._thread = OneAtATime("sark-file-sink")

    async def open(self) -> None:
        """Open the file.

        Raises:
            SinkError: It cannot be written.
        """
        try:
            await self._thread.run(self._file.open, timeout=self._timeout)
        except OSError as error:
            raise SinkError(f"{self._path} cannot be written: {_reason(error)}") from None

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Append events by one write."""
        lines = [entry.body for entry in entries]
        try:
            appended = await self._thread.run(
                lambda: self._file.append(lines), timeout=self._timeout
            )
        except OSError as error:
            return Unavailable(_reason(error))
        if appended.error is None:
            return Delivered()
        reason = _reason(appended.error)
        if appended.lines == 0:
            return Unavailable(reason)
        return Partly(retry=frozenset(range(appended.lines, len(entries))), reason=reason)

    async def close(self) -> None:
        """Close the file; one whose disk hangs is closed by the end of the process."""
        with suppress(TimeoutError):
            await self._thread.run(self._file.close, timeout=self._timeout)
        self._thread.close()


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "the disk does not answer"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _make(plan: SinkPlan) -> FileSink:
    if not plan.address.path.strip("/"):
        raise ConfigurationError("expected the path of a file, such as file:///var/log/audit.jsonl")
    path = Path(unquote(plan.address.path))
    return FileSink(path, fsync=plan.options["fsync"], timeout=plan.common.timeout)


SINK = SinkKind(
    schemes=("file",),
    formats=("sark", "ocsf", "ecs", "cef"),
    make=_make,
    options={"fsync": flag(default=True)},
    needs_host=False,
    credential="none",
)
