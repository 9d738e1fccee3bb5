"""A file of lines that several processes append to, and that others rotate.

A batch is one write at the file's end, under a lock of the file that all SARK processes take. When
the disk is full, the write is cut somewhere: the lines that are whole stay, the torn rest is taken
away again, up to the last line break. Readers of lines have not taken that part yet, and none sees
the file shrink. What a killed process left torn is ended with a line break before the next line.

Rotation renames the file or removes it. So before each batch the path is compared with the open
file. When they part while a batch is written, the batch is written again to the new file: whoever
took the old one away may have read it before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

__all__ = ["Appended", "AppendedFile"]

FILE_MODE = 0o600
FOLDER_MODE = 0o700
MOST_ROTATIONS = 5


class Appended(NamedTuple):
    """What came of a batch.

    Attributes:
        lines: How many lines, from the first, are in the file as a whole.
        error: Why not all are.
    """

    lines: int
    error: OSError | None = None


class AppendedFile:
    """Appends lines. All its functions block; one caller at a time.

    Args:
        path: Created with mode 0600 when it is missing, its folder too.
        fsync: Whether a batch is on the disk when ``append`` returns; otherwise the kernel has it,
            and it survives the end of this process, but not a power failure.
    """

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self._path = path
        self._fsync = fsync
        self._descriptor: int | None = None

    def open(self) -> None:
        """Open it, and close what was open before.

        Raises:
            OSError: It cannot be opened, or is no regular file.
        """
        self.close()
        self._path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, FILE_MODE)
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "not a regular file")
        if self._fsync and found.st_size == 0:
            self._sync_folder()

    def append(self, lines: Sequence[bytes]) -> Appended:
        """Append lines.

        Args:
            lines: Without their line breaks.

        Raises:
            OSError: Nothing is known to be in the file.
        """
        for _ in range(MOST_ROTATIONS):
            descriptor = self._opened()
            with _locked(descriptor):
                if not self._leads_to(descriptor):
                    continue
                appended = self._append(descriptor, lines)
                if self._leads_to(descriptor):
                    return appended
        raise OSError(errno.EAGAIN, "rotated again and again")

    def close(self) -> None:
        """Close it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _opened(self) -> int:
        if self._descriptor is None or not self._leads_to(self._descriptor):
            self.open()
        assert self._descriptor is not None  # noqa: S101 - opened above
        return self._descriptor

    def _leads_to(self, descriptor: int) -> bool:
        """Tell whether the path is still that of the open file."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    def _append(self, descriptor: int, lines: Sequence[bytes]) -> Appended:
        end = os.fstat(descriptor).st_size
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        head = b"\n" if torn else b""
        written, error = _write(descriptor, head + b"".join(line + b"\n" for line in lines))
        ends = accumulate((len(line) + 1 for line in lines), initial=len(head))
        whole = [at for at in ends if at <= written]
        if error is not None:
            kept = end + (whole[-1] if whole else 0)
            # More than that only if somebody else, who knows no lock, writes to it as well.
            if os.fstat(descriptor).st_size == end + written:
                os.ftruncate(descriptor, kept)
        if self._fsync and len(whole) > 1:
            self._sync(descriptor)
        return Appended(max(len(whole) - 1, 0), error)

    def _sync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError:
            # The kernel forgets what it failed to write; a later fsync of it would say nothing.
            self.close()
            raise

    def _sync_folder(self) -> None:
        """Make a new file's name as lasting as what will be in it."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    # A descriptor of its own: closing the file within the block must not close what is unlocked.
    own = os.dup(descriptor)
    try:
        fcntl.flock(own, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(own, fcntl.LOCK_UN)
    finally:
        os.close(own)


def _write(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Write it all, in one call unless the disk is full; gives how much, and why not more."""
    view, written = memoryview(data), 0
    while written < len(data):
        try:
            written += os.write(descriptor, view[written:])
        except OSError as error:
            return written, error
    return written, None
