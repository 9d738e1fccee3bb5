"""The signing keys on disk: one file, so that keys and their states always fit together.

``signing-keys.json`` in the key folder is made by whichever process starts first, replaced as a
whole by each change, and never seen half-written. Its keys are private JSON Web Keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sark.errors import ConfigurationError
from sark.keyring import ensure_private_file, read_private_file, replace_private_file
from sark.sessions.tokens.key_set import KeyRecord, KeySet, KeyState
from sark.sessions.tokens.keys import Algorithm, SigningKey

__all__ = ["KEY_FILE_NAME", "KeyFile", "Mark"]

KEY_FILE_NAME = "signing-keys.json"
VERSION = 1
MAX_FILE_BYTES = 256 * 1024

Mark = tuple[int, int, int]
"""Inode, time and size of the file: they differ after every change."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    state: KeyState
    algorithm: str
    created_at: int
    jwk: dict[str, Any]
    activated_at: int | None = None
    retired_at: int | None = None


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    keys: list[_Entry]


_decode = msgspec.json.Decoder(_Document).decode


class KeyFile:
    """The file of one key folder.

    Args:
        directory: The key folder (``SARK_KEY_DIR``).
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / KEY_FILE_NAME

    @property
    def exists(self) -> bool:
        """Whether the folder has been filled."""
        return self.path.exists()

    def mark(self) -> Mark | None:
        """Sum up the file without reading it; None when it isn't there."""
        try:
            status = self.path.stat(follow_symlinks=False)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def read(self) -> KeySet:
        """Read the keys.

        Raises:
            ConfigurationError: There are none, others can read them, or they are unusable.
        """
        return self._parse(read_private_file(self.path, max_bytes=MAX_FILE_BYTES))

    def read_or_create(self, algorithm: Algorithm, now: int) -> KeySet:
        """Read the keys; make them when this is the first start.

        Args:
            algorithm: Of new keys. Keys that are there keep theirs.
            now: Unix time.

        Raises:
            ConfigurationError: As ``read``.
        """
        ensure_private_file(self.path, lambda: _encode(KeySet.first(algorithm, now)))
        return self.read()

    def change(self, decide: Callable[[KeySet], KeySet]) -> KeySet:
        """Replace the keys by what ``decide`` makes of them; changes come one after the other.

        Raises:
            ConfigurationError: As ``read``, or ``decide`` refuses.
        """
        with replace_private_file(self.path, max_bytes=MAX_FILE_BYTES) as (content, written):
            changed = decide(self._parse(content))
            written.append(_encode(changed))
        return changed

    def _parse(self, content: bytes) -> KeySet:
        try:
            document = _decode(content)
            if document.version != VERSION:
                raise ConfigurationError(
                    f"{self.path}: got version {document.version}, expected {VERSION}"
                )
            keys = KeySet(tuple(_record(entry) for entry in document.keys))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            # The cause would show what stands in the file.
            raise ConfigurationError(f"{self.path}: not a file of signing keys") from None
        states = [record.state for record in keys.records]
        if states.count("active") != 1 or states.count("next") > 1:
            raise ConfigurationError(f"{self.path}: expected one active and at most one next key")
        return keys


def _record(entry: _Entry) -> KeyRecord:
    key = SigningKey.from_private_jwk(entry.algorithm, entry.jwk)
    return KeyRecord(key, entry.state, entry.created_at, entry.activated_at, entry.retired_at)


def _encode(keys: KeySet) -> bytes:
    entries = [
        _Entry(
            record.state,
            record.key.algorithm,
            record.created_at,
            record.key.private_jwk(),
            record.activated_at,
            record.retired_at,
        )
        for record in keys.records
    ]
    return msgspec.json.format(msgspec.json.encode(_Document(VERSION, entries)), indent=2)
