"""Where an embedded server keeps its things, and the lock that tells whether it lives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sark.errors import EmbeddedServerError

__all__ = ["CLAIM_SECONDS", "POLL_SECONDS", "ServerFiles", "claim", "moments", "try_lock"]

# How long a successor waits for the lock: a watchdog gives its server 10 seconds, then kills it.
CLAIM_SECONDS = 12.0
POLL_SECONDS = 0.01

# A socket's path has room for 108 bytes on Linux and 104 on macOS, including the final zero.
SOCKET_PATH_BYTES = 100
SOCKET_NAME = "valkey.sock"
LOG_NAME = "valkey.log"


@dataclass(frozen=True)
class ServerFiles:
    """Where a server keeps its things, each for this user alone."""

    home: Path
    socket: Path
    log: Path
    temporary: Path | None

    @property
    def config(self) -> Path:
        """The rendered configuration."""
        return self.home / "valkey.conf"

    @property
    def lock(self) -> Path:
        """The file that the server holds locked while it lives."""
        return self.home / "lock"

    @classmethod
    def create(cls, data_dir: Path, *, ephemeral: bool) -> Self:
        """Make the directories."""
        if ephemeral:
            home = _temporary_directory()
            return cls(home, home / SOCKET_NAME, home / LOG_NAME, home)
        home = _private_directory(data_dir / "valkey")
        temporary = None if _has_room_for_socket(home) else _temporary_directory()
        return cls(home, (temporary or home) / SOCKET_NAME, data_dir / LOG_NAME, temporary)

    def make_again(self) -> None:
        """Make what ``remove_temporary`` removed, at the same place.

        Raises:
            FileExistsError: Somebody has taken the place meanwhile.
        """
        if self.temporary is not None:
            self.temporary.mkdir(mode=0o700)

    def remove_temporary(self) -> None:
        """Remove what was made outside the data directory."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


async def claim(path: Path) -> int:
    """Lock a server's directory, waiting for a predecessor that is about to end."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        for _ in moments(lambda: not try_lock(lock), CLAIM_SECONDS):
            await asyncio.sleep(POLL_SECONDS)
        if try_lock(lock):
            return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    raise EmbeddedServerError(f"{path.parent} is in use by another valkey-server")


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock without waiting; False when somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def moments(condition: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Give the moments to wait in while a condition holds, for at most so many seconds."""
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        yield


def _private_directory(path: Path) -> Path:
    """Create a directory for this user alone, or make an own one so."""
    # Two steps, since a mode is given to the last of several new directories only.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    owner = path.stat().st_uid
    if owner != os.geteuid():
        # Perhaps the data of an installed Valkey, which must not become ours.
        raise EmbeddedServerError(f"{path} belongs to another user (uid {owner})")
    path.chmod(0o700)
    return path


def _temporary_directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="sark-"))
    if not _has_room_for_socket(path):
        path.rmdir()
        raise EmbeddedServerError(f"{path} is too long for a socket: set TMPDIR to a shorter path")
    return path


def _has_room_for_socket(directory: Path) -> bool:
    return len(os.fsencode(directory / SOCKET_NAME)) <= SOCKET_PATH_BYTES
