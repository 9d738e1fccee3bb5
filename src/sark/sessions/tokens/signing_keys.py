"""The signing keys that a process works with, and how it notices a rotation."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from sark.errors import ConfigurationError, TokenError
from sark.events import Hub, SigningKeysChanged, SigningKeysRefused
from sark.sessions.tokens.key_file import KeyFile
from sark.sessions.tokens.key_set import RETIREMENT_SLACK_SECONDS, KeySet
from sark.sessions.tokens.keys import Algorithm, FoundKey, SigningKey

__all__ = ["SigningKeys", "retention_of"]

LOOK_SECONDS = 1.0
"""Unknown kids make a process look at the file at most this often."""

_log = logging.getLogger("sark.sessions.tokens")


def retention_of(token_ttl: int, leeway: int) -> int:
    """Seconds for which a key verifies after it has signed its last token."""
    return token_ttl + leeway + RETIREMENT_SLACK_SECONDS


class SigningKeys:
    """The keys of this deployment, as this process knows them.

    The file is looked at in intervals, and when a token names a key that isn't known. A file that
    cannot be read leaves the known keys in force and is reported.

    Args:
        file: Where they are; filled when it is the first start.
        algorithm: Of keys made now.
        retention: Seconds for which a retired key still verifies; see ``retention_of``.
        hub: Where changes are reported.
        clock: Unix time.

    Raises:
        ConfigurationError: The file is unusable.

    Attributes:
        version: Another number after each change: what was verified before is to be forgotten.
    """

    def __init__(
        self,
        file: KeyFile,
        *,
        algorithm: Algorithm,
        retention: int,
        hub: Hub,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._retention = retention
        self._hub = hub
        self._clock = clock
        self._lock = asyncio.Lock()
        self._next_look = 0.0
        # Taken before the file is read: what changes meanwhile is seen at the next look.
        self._mark = file.mark()
        self.version = 0
        self._adopt(file.read_or_create(algorithm, int(clock())))

    @property
    def active(self) -> SigningKey:
        """The key that signs."""
        return self._active

    async def find(self, kid: str) -> FoundKey:
        """Find the key that a token names.

        Raises:
            TokenError: ``unknown_key``: there is none of that name, or it is gone.
        """
        if kid not in self._by_kid:
            await self._look_for_unknown()
        record = self._by_kid.get(kid)
        until = record.verifies_until(self._retention) if record else 0.0
        if record is None or self._clock() >= until:
            raise TokenError("unknown_key", "kid names no key of the issuer")
        return FoundKey(record.key.verification, until)

    def jwks(self) -> bytes:
        """Write the public keys down as a JSON Web Key Set (RFC 7517)."""
        current = self._keys.current(self._clock(), self._retention)
        return msgspec.json.encode({"keys": [record.key.public_jwk for record in current.records]})

    async def look(self) -> None:
        """Read the file again if it has changed."""
        async with self._lock:
            mark = await asyncio.to_thread(self._file.mark)
            if mark == self._mark:
                return
            self._mark = mark
            try:
                keys = await asyncio.to_thread(self._file.read)
            except ConfigurationError as error:
                self._hub.emit(SigningKeysRefused(str(error)))
                return
            if keys.states == self._keys.states:
                return
            self._adopt(keys)
            self._hub.emit(SigningKeysChanged(self.active.kid, len(keys.records)))

    async def watch(self, interval: float) -> None:
        """Look at the file in intervals, in seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a bug must not end the watch; the known keys stay
                _log.exception("looking for changed signing keys failed")

    def _adopt(self, keys: KeySet) -> None:
        self.version += 1
        self._keys = keys
        self._by_kid = {record.key.kid: record for record in keys.records}
        self._active = keys.active.key

    async def _look_for_unknown(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            await self.look()
        elif self._lock.locked():
            # Somebody else is looking, and may find it.
            async with self._lock:
                pass
