"""Secret keys on disk: ``SARK_KEY_DIR``, the same for every process of a deployment.

Each key is a file of its own, readable by its owner only. A key that is missing is made at the
first start, by whichever process comes first.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from sark.errors import ConfigurationError

__all__ = ["KEY_BYTES", "mac_key"]

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
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create_once(path)
        key = _read_private(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error} (SARK_KEY_DIR)") from None
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path}: got {len(key)} bytes, expected {KEY_BYTES}; SARK_KEY_DIR holds another file"
        )
    return key


def _create_once(path: Path) -> None:
    """Write a new key unless there is one; a reader never sees a part of it."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link fails when another process was first: its key is the one.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def _read_private(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise ConfigurationError(f"{path}: mode {mode:04o} lets others read it, expected 0600")
        return file.read(KEY_BYTES + 1)
