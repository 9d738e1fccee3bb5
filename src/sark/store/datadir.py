"""The data directory of a development service: who owns it, and how commands find its server.

A directory belongs to one running service at a time, by a ``flock`` on its file ``lock``. The
kernel drops that lock with the process, whichever way it ends, so a leftover file means nothing.
While it runs, the service publishes ``run.json``: through it the ``sark`` commands find an embedded
Valkey, whose socket and password change with every start.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from sark.errors import ConfigurationError

__all__ = [
    "DataDir",
    "RunFile",
    "close_in_forks",
    "close_registered",
    "read_run_file",
    "write_private",
]

LOCK_NAME = "lock"
RUN_NAME = "run.json"
MAX_RUN_FILE_BYTES = 65536

# A command that asks whether the directory is in use holds the lock for microseconds. A service
# that starts in that moment must not take the command for another service.
LOCK_PATIENCE_SECONDS = 0.3
LOCK_POLL_SECONDS = 0.02

_close_in_forks: set[int] = set()


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a running service tells the commands of its user.

    Attributes:
        pid: Process id of the service.
        http: Address of its HTTP interface, if it has one.
        valkey_url: URL of its Valkey, with the password.
        admin_token: The token for admin routes, if the service generated one.
        started: When it started.
    """

    pid: int
    http: str | None = None
    valkey_url: str
    admin_token: str | None = None
    started: datetime

    def __repr__(self) -> str:
        started = self.started.isoformat()
        return f"RunFile(pid={self.pid}, http={self.http!r}, started={started})"


class DataDir:
    """A directory that one service owns while it runs.

    Args:
        path: The directory. It is created, for its user alone, when it is missing; the mode of an
            existing one stays, because it may be shared on purpose.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def acquire(self) -> None:
        """Create the directory and take its lock.

        Raises:
            ConfigurationError: Another process holds it, or it cannot be used.
        """
        if self._lock is not None:
            return
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            self._claim(lock)
            # What a killed predecessor left must not be read as ours.
            (self.path / RUN_NAME).unlink(missing_ok=True)
        except OSError as error:
            os.close(lock)
            raise _unusable(self.path, error) from error
        except BaseException:
            os.close(lock)
            raise
        close_in_forks(lock)
        self._lock = lock

    def release(self) -> None:
        """Remove the run file and give the directory up. Repeating it does nothing."""
        lock, self._lock = self._lock, None
        # A forked child that leaves the ``with`` block must not remove its parent's file.
        if lock is not None and lock in _close_in_forks:
            (self.path / RUN_NAME).unlink(missing_ok=True)
            close_registered(lock)

    def write_run_file(
        self, *, valkey_url: str, http: str | None = None, admin_token: str | None = None
    ) -> RunFile:
        """Tell commands how to reach this service.

        Args:
            valkey_url: URL of its Valkey, with the password.
            http: Address of its HTTP interface.
            admin_token: The generated token for admin routes.

        Returns:
            What was written.

        Raises:
            RuntimeError: The directory is not held.
        """
        if self._lock is None:
            raise RuntimeError("acquire the data directory before writing its run file")
        run = RunFile(
            pid=os.getpid(),
            http=http,
            valkey_url=valkey_url,
            admin_token=admin_token,
            started=datetime.now(UTC),
        )
        write_private(self.path / RUN_NAME, msgspec.json.encode(run))
        return run

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _claim(self, lock: int) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
                raise ConfigurationError(
                    f"{self.path} is in use by another service (pid {holder or 'unknown'}): "
                    "stop it, or set SARK_DATA_DIR to another directory"
                )
            time.sleep(LOCK_POLL_SECONDS)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def read_run_file(directory: Path) -> RunFile | None:
    """Find the service that runs on a data directory.

    Args:
        directory: The data directory.

    Returns:
        Its run file, or None when no service runs there: no file, or one that a killed service
        left behind.

    Raises:
        ConfigurationError: The file is not safe to trust, or not a run file.
    """
    path = directory / RUN_NAME
    try:
        content = _read_private(path)
        if content is None:
            return None
        run = msgspec.json.decode(content, type=RunFile)
    except OSError as error:
        raise _unusable(path, error) from error
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"{path} is not a run file ({error}): remove it") from error
    return run if _exists(run.pid) and _is_held(directory / LOCK_NAME) else None


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step by one that only its owner can read.

    Args:
        path: The file. Readers see the old content or the new, never a part.
        content: What it shall hold.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def close_in_forks(descriptor: int) -> None:
    """Keep a descriptor from children that are forked without exec, such as pool workers.

    Such a child would hold a lock, or keep a pipe open, beyond the life of its parent.

    Args:
        descriptor: An open descriptor; its owner closes it in this process.
    """
    _close_in_forks.add(descriptor)


def close_registered(descriptor: int) -> None:
    """Close what ``close_in_forks`` registered; in a forked child that has happened already.

    Args:
        descriptor: What was registered. In such a child the number may be another file's by now.
    """
    if descriptor in _close_in_forks:
        _close_in_forks.discard(descriptor)
        os.close(descriptor)


def _after_fork_in_child() -> None:
    while _close_in_forks:
        os.close(_close_in_forks.pop())


os.register_at_fork(after_in_child=_after_fork_in_child)


def _locked(descriptor: int, kind: int) -> bool:
    """Try to take a lock without waiting."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(lock: Path) -> bool:
    """Tell whether a service holds a lock file now."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that several commands asking at once don't see each other.
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> bytes | None:
    """Read a file that only its owner, this user, can have written or read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        _require_private(path, os.fstat(descriptor))
        return os.read(descriptor, MAX_RUN_FILE_BYTES)
    finally:
        os.close(descriptor)


def _require_private(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{path} is not a regular file: remove it")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path} belongs to another user (uid {status.st_uid}): it is not used"
        )
    if mode & 0o077:
        raise ConfigurationError(
            f"{path} is open to other users (mode {mode:04o}): "
            "its secrets may be known, so restart the service"
        )


def _exists(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be used: {error.strerror or error}")
