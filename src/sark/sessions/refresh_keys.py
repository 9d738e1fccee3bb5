"""The keys of refresh tokens: ``refresh-keys.json`` in ``SARK_KEY_DIR``, and their rotation.

As with signing keys, the next one is known to all processes before it is used, so nobody refuses a
token of a process that was quicker. A retired one counts for as long as a session may live.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from sark.errors import ConfigurationError
from sark.keyring import KEY_BYTES, ensure_private_file, read_private_file, replace_private_file
from sark.sessions.refresh_token import RefreshTokens

__all__ = ["RefreshKeyFile", "RefreshKeySet", "watch_refresh_keys"]

FILE_NAME = "refresh-keys.json"
MAX_FILE_BYTES = 16 * 1024
MOST_RETIRED = 10

_log = logging.getLogger("sark.sessions.refresh_keys")


class _Retired(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: bytes
    at: int

    def __repr__(self) -> str:
        return f"_Retired(key=..., at={self.at})"


class RefreshKeySet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All keys; decisions about them, without I/O.

    Attributes:
        active: Makes new tokens.
        next: Will, after the next rotation; its tokens count already.
        retired: Made tokens before, with the Unix time of their retirement; the latest first.
    """

    active: bytes
    next: bytes
    retired: tuple[_Retired, ...] = ()

    @classmethod
    def new(cls) -> RefreshKeySet:
        """Make keys that nobody knows."""
        return cls(secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))

    def rotated(self, now: int) -> RefreshKeySet:
        """Let the next key make tokens and retire the active one; the oldest beyond ten go."""
        retired = (_Retired(self.active, now), *self.retired)[:MOST_RETIRED]
        return RefreshKeySet(self.next, secrets.token_bytes(KEY_BYTES), retired)

    def counting(self, now: float, retention: float) -> list[bytes]:
        """List the retired keys whose tokens still count, for so many seconds."""
        return [each.key for each in self.retired if now < each.at + retention]

    def __repr__(self) -> str:
        return f"RefreshKeySet(active=..., next=..., retired={len(self.retired)})"

    def check(self) -> None:
        """Refuse keys of the wrong size.

        Raises:
            ValueError: One is.
        """
        keys = [self.active, self.next, *(each.key for each in self.retired)]
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError("a key has another size")


class RefreshKeyFile:
    """The file of the keys.

    Args:
        directory: ``SARK_KEY_DIR``.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME

    def read_or_create(self) -> RefreshKeySet:
        """Read the keys; make them when this is the first start.

        Raises:
            ConfigurationError: The file is unusable, or others can read it.
        """
        ensure_private_file(self.path, lambda: msgspec.json.encode(RefreshKeySet.new()))
        return self.read()

    def read(self) -> RefreshKeySet:
        """Read the keys; errors as ``read_or_create``, also when there are none."""
        return self._parse(read_private_file(self.path, max_bytes=MAX_FILE_BYTES))

    def change(self, decide: Callable[[RefreshKeySet], RefreshKeySet]) -> None:
        """Replace the keys by what ``decide`` makes of them; errors as ``read_or_create``.

        Where there are none yet, the first start makes them, as the user whom it runs as.
        """
        if not self.path.exists():
            return
        with replace_private_file(self.path, max_bytes=MAX_FILE_BYTES) as (content, written):
            written.append(msgspec.json.encode(decide(self._parse(content))))

    def _parse(self, content: bytes) -> RefreshKeySet:
        try:
            keys = msgspec.json.decode(content, type=RefreshKeySet)
            keys.check()
        except (msgspec.MsgspecError, ValueError):
            # The cause would show what stands in the file.
            raise ConfigurationError(f"{self.path}: not a file of refresh token keys") from None
        return keys


async def watch_refresh_keys(
    tokens: RefreshTokens, file: RefreshKeyFile, *, retention: float, interval: float
) -> None:
    """Follow the file in intervals until cancelled; one that is unusable changes nothing.

    Args:
        tokens: What uses the keys.
        file: Where they are.
        retention: Seconds for which a retired key counts.
        interval: In seconds.
    """
    failing = False
    while True:
        await asyncio.sleep(interval)
        try:
            keys = await asyncio.to_thread(file.read)
            tokens.use(keys.active, keys.next, keys.counting(time.time(), retention))
            failing = False
        except ConfigurationError as error:
            if not failing:
                _log.error("refresh token keys refused", extra={"reason": str(error)})
            failing = True
