"""Secret keys on disk: ``SARK_KEY_DIR``, the same for every process of a deployment.

Each file is readable by its owner only. One that is missing is made at the first start, by
whichever process comes first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from sark.errors import ConfigurationError

__all__ = [
    "KEY_BYTES",
    "ensure_private_file",
    "mac_key",
    "read_private_file",
    "replace_private_file",
]

KEY_BYTES = 32
MAC_KEY_NAME = "mac.key"


def mac_key(directory: Path) -> bytes:
    """Read the key for message authentication codes, or make it.

    Args:
        directory: The key directory; created, for its user alone, when it is missing.

    Returns:
        ``KEY_BYTES`` random bytes.

    Raises:
        ConfigurationError: The directory or the file cannot be used, or others can read it.
    """
    path = directory / MAC_KEY_NAME
    ensure_private_file(path, lambda: secrets.token_bytes(KEY_BYTES))
    key = read_private_file(path, max_bytes=KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path}: got {len(key)} bytes, expected {KEY_BYTES}; SARK_KEY_DIR holds another file"
        )
    return key


def ensure_private_file(path: Path, make: Callable[[], bytes]) -> None:
    """Make a file that only its owner can read, unless there is one.

    Of several processes that come at once, the first one's content stays.

    Args:
        path: Where it is to be; its directory is created, for its user alone, when it is missing.
        make: Makes its content.

    Raises:
        ConfigurationError: The directory or the file cannot be used.
    """
    with _explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create_once(path, make())


def read_private_file(path: Path, *, max_bytes: int) -> bytes:
    """Read a file that only its owner can read.

    Returns:
        Its content; one byte more than ``max_bytes`` when it is larger than that.

    Raises:
        ConfigurationError: It is missing, cannot be used, or others can read it.
    """
    with _explained(path):
        return _read_private(path, max_bytes + 1)


@contextlib.contextmanager
def replace_private_file(path: Path, *, max_bytes: int) -> Iterator[tuple[bytes, list[bytes]]]:
    """Change a private file while no other process changes it; readers never see a part.

    Yields:
        Its content, and a list to which the block appends the new content, if any.

    Raises:
        ConfigurationError: The directory or the file cannot be used, or others can read it.
    """
    with _explained(path):
        # The directory is locked: the file itself is another one after each change.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            written: list[bytes] = []
            yield _read_private(path, max_bytes + 1), written
            for content in written:
                with _draft(path, content) as draft:
                    _give_to_owner_of(path, draft)
                    draft.replace(path)
                os.fsync(directory)
        finally:
            os.close(directory)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error} (SARK_KEY_DIR)") from None


def _create_once(path: Path, content: bytes) -> None:
    """Write a new file unless there is one; a reader never sees a part of it."""
    with _draft(path, content) as draft, contextlib.suppress(FileExistsError):
        # Unlike a rename, a link fails when another process was first: its key is the one.
        os.link(draft, path)


@contextlib.contextmanager
def _draft(path: Path, content: bytes) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _give_to_owner_of(path: Path, draft: Path) -> None:
    """Let the service read what an administrator wrote as the superuser."""
    owner = path.stat()
    if os.geteuid() == 0:
        os.chown(draft, owner.st_uid, owner.st_gid)


def _read_private(path: Path, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise ConfigurationError(f"{path}: mode {mode:04o} lets others read it, expected 0600")
        return file.read(size)
