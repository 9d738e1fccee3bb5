"""Who is near a limit, without a scan of the keyspace.

A request that leaves an identity less than half of a limit notes the limit's key in this process.
Now and then the notes go to ``ratelimit:top``, a small sorted set that all processes share, which
keeps the highest. To show them, the few that it names are looked up as they are then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

import msgspec

from sark.errors import StoreError
from sark.ratelimit.limit import LimitState
from sark.store import Argument, Store, load_script

__all__ = ["NearLimits", "Subject", "subject_of"]

MOST_NOTES = 256
"""Notes between two flushes; what comes beyond is left out, and noted by its next request."""
MOST_KEPT = 100
FLUSH_SECONDS = 1.0

_PREFIX = "ratelimit:"
_TOP = load_script(
    "ratelimit.top", ("sark.store", "clock.lua"), ("sark.ratelimit", "near_limits.lua")
)


class Subject(msgspec.Struct, frozen=True):
    """What a key of the limiter says.

    Attributes:
        kind: ``user``, ``ip`` or ``apikey``.
        id: Whose it is; of an id that is too long for a key, its digest.
        window: Length of the window in seconds.
        rule: The rule; empty for the default limit.
    """

    kind: str
    id: str
    window: int
    rule: str


class NearLimits:
    """Notes limits that are more than half used.

    Args:
        store: Where they are kept for all processes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # By key: how much of the limit is used in thousandths, and seconds until it is reset.
        self._notes: dict[str, tuple[int, int]] = {}

    def note(self, key: str, capacity: int, state: LimitState) -> None:
        """Note how much of a limit is used; no I/O."""
        if key in self._notes or len(self._notes) < MOST_NOTES:
            share = (capacity - min(state.remaining, capacity)) * 1000 // capacity
            self._notes[key] = share, state.reset

    def forget(self, keys: Iterable[str]) -> None:
        """Drop notes."""
        for key in keys:
            self._notes.pop(key, None)

    async def flush(self, *, deadline: float | None = None) -> None:
        """Hand the notes on: one round trip.

        Raises:
            StoreError: The server did not answer; the notes are lost, and made again.
        """
        notes, self._notes = self._notes, {}
        if not notes:
            return
        arguments: list[Argument] = [MOST_KEPT]
        for key, (share, seconds) in notes.items():
            arguments += [key.removeprefix(_PREFIX), share, seconds]
        await self._store.state.run(
            _TOP, [self._store.keys.ratelimit_top], arguments, deadline=deadline, idempotent=True
        )

    async def flush_forever(self, *, interval: float = FLUSH_SECONDS) -> None:
        """Flush now and then, until cancelled; a server that is away is reported by the store."""
        while True:
            await asyncio.sleep(interval)
            with contextlib.suppress(StoreError):
                await self.flush()

    async def keys(self, *, deadline: float | None = None) -> list[str]:
        """List the keys of the limits that were noted and have not been reset since.

        Raises:
            StoreError: The server did not answer.
        """
        await self.flush(deadline=deadline)
        found: Sequence[bytes] = await self._store.state.execute(
            "ZRANGE", self._store.keys.ratelimit_top, 0, -1, deadline=deadline, idempotent=True
        )
        return [_PREFIX + member.decode() for member in found]

    async def remove(self, keys: Sequence[str], *, deadline: float | None = None) -> None:
        """Take limits out, of all processes' notes but those not flushed yet.

        Raises:
            StoreError: The server did not answer.
        """
        members = [key.removeprefix(_PREFIX) for key in keys]
        top = self._store.keys.ratelimit_top
        await self._store.state.execute("ZREM", top, *members, deadline=deadline, idempotent=True)


def subject_of(key: str) -> Subject | None:
    """Read a key of the limiter; None when it is none."""
    kind, _, rest = key.removeprefix(_PREFIX).replace("{", "").replace("}", "").partition(":")
    name, _, rest = rest.partition(":")
    window, _, rule = rest.partition(":")
    return Subject(kind, unquote(name), int(window), rule) if window.isdecimal() else None
