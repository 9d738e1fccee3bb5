"""Who is near a limit, without a scan of the keyspace.

A request that leaves an identity less than half of a limit notes the limit's key in this process.
Now and then the notes go to ``ratelimit:top``, a small sorted set that all processes share, which
keeps the highest. To show them, the few that it names are looked up as they are then.

A note says what the limit is, beside its key: a limit may be written into the code of a program
that the one who asks knows nothing about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import cast
from urllib.parse import unquote

import msgspec

from sark.errors import StoreError
from sark.ratelimit.limit import KINDS, Algorithm, Kind, Limit, LimitState
from sark.ratelimit.rules import Applied
from sark.store import Argument, Store, load_script

__all__ = ["NearLimits", "Noted", "Subject", "subject_of"]

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

    kind: Kind
    id: str
    window: int
    rule: str


class Noted(msgspec.Struct, frozen=True):
    """A limit that was noted.

    Attributes:
        key: Where it is counted.
        subject: What the key says.
        applied: What the limit was when it was noted.
    """

    key: str
    subject: Subject
    applied: Applied


class NearLimits:
    """Notes limits that are more than half used.

    Args:
        store: Where they are kept for all processes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # By key: what is noted, how much is used in thousandths, and seconds until it is reset.
        self._notes: dict[str, tuple[str, int, int]] = {}

    def note(self, key: str, applied: Applied, state: LimitState) -> None:
        """Note how much of a limit is used; no I/O."""
        if key in self._notes or len(self._notes) < MOST_NOTES:
            capacity = applied.limit.capacity
            share = (capacity - min(state.remaining, capacity)) * 1000 // capacity
            self._notes[key] = _spell(key, applied), share, state.reset

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
        for note in notes.values():
            arguments += note
        await self._store.state.run(
            _TOP, [self._store.keys.ratelimit_top], arguments, deadline=deadline, idempotent=True
        )

    async def flush_forever(self, *, interval: float = FLUSH_SECONDS) -> None:
        """Flush now and then, until cancelled; a server that is away is reported by the store."""
        while True:
            await asyncio.sleep(interval)
            with contextlib.suppress(StoreError):
                await self.flush()

    async def noted(self, *, deadline: float | None = None) -> list[Noted]:
        """List the limits that were noted and have not been reset since, each once.

        Raises:
            StoreError: The server did not answer.
        """
        await self.flush(deadline=deadline)
        read = map(_read, await self._members(deadline))
        # The last one is reset last: of a limit that has changed, the newer.
        return list({noted.key: noted for noted in read if noted is not None}.values())

    async def remove(self, keys: Sequence[str], *, deadline: float | None = None) -> None:
        """Take limits out, of all processes' notes but those not flushed yet.

        Raises:
            StoreError: The server did not answer.
        """
        wanted = {key.removeprefix(_PREFIX) for key in keys}
        members = [
            member for member in await self._members(deadline) if member.partition(" ")[0] in wanted
        ]
        if members:
            top, state = self._store.keys.ratelimit_top, self._store.state
            await state.execute("ZREM", top, *members, deadline=deadline, idempotent=True)

    async def _members(self, deadline: float | None) -> list[str]:
        found: Sequence[bytes] = await self._store.state.execute(
            "ZRANGE", self._store.keys.ratelimit_top, 0, -1, deadline=deadline, idempotent=True
        )
        return [member.decode() for member in found]


def subject_of(key: str) -> Subject | None:
    """Read a key of the limiter; None when it is none."""
    kind, _, rest = key.removeprefix(_PREFIX).replace("{", "").replace("}", "").partition(":")
    name, _, rest = rest.partition(":")
    window, _, rule = rest.partition(":")
    if kind not in KINDS or not window.isdecimal():
        return None
    return Subject(kind, unquote(name), int(window), rule)


def _spell(key: str, applied: Applied) -> str:
    """Spell a note: the key, algorithm, requests and burst, name of the limit. None has a space."""
    limit = applied.limit
    mode = "shadow" if applied.shadow else "-"
    what = f"{limit.algorithm} {limit.requests} {limit.burst or 0} {mode} {applied.policy}"
    return f"{key.removeprefix(_PREFIX)} {what}"


def _read(member: str) -> Noted | None:
    """Read a note; None for what another release has written."""
    try:
        name, algorithm, requests, burst, mode, policy = member.split(" ")
        key = _PREFIX + name
        subject = subject_of(key)
        if subject is None:
            return None
        limit = Limit(
            int(requests), subject.window, cast("Algorithm", algorithm), int(burst) or None
        )
    except ValueError:
        return None
    applied = Applied(subject.kind, limit, policy, subject.rule, shadow=mode == "shadow")
    return Noted(key, subject, applied)
