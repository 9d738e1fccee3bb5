"""The near cache: decisions kept in this process, coherent with the server within a bound.

An entry remembers the *epochs* of the three generations that it depends on: counters of this
process that step whenever the change feed reports the generation's key. They are noted before the
decision is read from the server, so a change that arrives while the read is under way makes the
entry invalid from the start, in whichever order the two arrive.

Used alone, the near cache answers only while the feed is known to be complete up to no longer than
``bound`` ago; beyond that, and when the feed's connection breaks, it empties and steps aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import getsizeof

import msgspec
from cachebox import LRUCache

__all__ = ["Epochs", "NearCache", "NearEntry", "NearStats"]

ENTRY_OVERHEAD_BYTES = 400
# Generations that changed while entries depend on them. Beyond so many the cache is emptied, which
# is cheaper than remembering every user that was ever invalidated.
MAX_CHANGED_GENERATIONS = 65_536

Epochs = tuple[int, int, int]


class NearEntry(msgspec.Struct, frozen=True, gc=False):
    """A decision kept in this process.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why.
        stamp: What it is valid under.
        expires: Until when it is used here, on the event loop's clock, in seconds.
        ends: When the server's copy expires; no earlier than ``expires``.
        all_epoch: Epoch of everything when the decision was read.
        policy_epoch: Epoch of its policy then.
        user_epoch: Epoch of its user then.
        policy_key: Name of its policy's generation.
        user_key: Name of its user's generation.
    """

    allow: bool
    reason: str
    stamp: str
    expires: float
    ends: float
    all_epoch: int
    policy_epoch: int
    user_epoch: int
    policy_key: str
    user_key: str


class NearStats(msgspec.Struct, frozen=True):
    """The near cache at one moment.

    Attributes:
        entries: Decisions held.
        bytes: Estimate of their size.
        hits: Look-ups answered.
        misses: Look-ups not answered.
        stale: Of these, entries found invalid or expired.
        emptied: How often everything was dropped.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    stale: int
    emptied: int


class NearCache:
    """See the module's description.

    Args:
        max_entries: Most decisions.
        max_bytes: Most bytes, estimated.
        generation_key: Name of the generation of everything.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, generation_key: str) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: LRUCache[bytes, NearEntry] = LRUCache(max_bytes, getsizeof=_size_of)
        self._generation_key = generation_key.encode()
        self._all = 0
        self._changed: dict[str, int] = {}
        self._steps = 0
        self._hits = self._misses = self._stale = self._emptied = 0

    def get(self, key: bytes, now: float) -> NearEntry | None:
        """Find a valid decision; the caller sees to the bound.

        Args:
            key: Of the question.
            now: On the event loop's clock, in seconds.
        """
        entry: NearEntry | None = self._entries.get(key, None)
        if entry is None:
            self._misses += 1
            return None
        if self._holds(entry, now):
            self._hits += 1
            return entry
        self._misses += 1
        self._stale += 1
        self._entries.pop(key, None)
        return None

    def peek(self, key: bytes, now: float) -> tuple[NearEntry | None, bool]:
        """Look without trace: what is held, and whether ``get`` would return it."""
        entry: NearEntry | None = self._entries.peek(key, None)
        return entry, entry is not None and self._holds(entry, now)

    def _holds(self, entry: NearEntry, now: float) -> bool:
        if entry.all_epoch != self._all or entry.expires <= now:
            return False
        changed = self._changed
        # Emptied together with the cache, so an entry from before does not get here.
        return not changed or (
            changed.get(entry.policy_key, 0) == entry.policy_epoch
            and changed.get(entry.user_key, 0) == entry.user_epoch
        )

    def epochs(self, policy_key: str, user_key: str) -> Epochs:
        """Note the epochs of what a decision depends on, before it is read."""
        changed = self._changed
        return self._all, changed.get(policy_key, 0), changed.get(user_key, 0)

    def put(self, key: bytes, entry: NearEntry) -> None:
        """Keep a decision, unless it is outdated already or larger than the whole cache."""
        if entry.all_epoch != self._all:
            return
        self._entries.pop(key, None)
        if _size_of(key, entry) > self._max_bytes:
            return
        while len(self._entries) >= self._max_entries:
            self._entries.popitem()
        self._entries.insert(key, entry)

    def drop(self, key: bytes) -> None:
        """Forget one decision."""
        self._entries.pop(key, None)

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """Take note of changed generations; None: anything may have changed."""
        if keys is None or len(self._changed) + len(keys) > MAX_CHANGED_GENERATIONS:
            self.empty()
            return
        for key in keys:
            if key == self._generation_key:
                self.empty()
                return
            self._steps += 1
            # Ours are ASCII; what others write under the prefix must not end the feed.
            self._changed[key.decode(errors="replace")] = self._steps

    def empty(self) -> None:
        """Drop everything, and what is being read at this moment too."""
        self._all += 1
        self._changed.clear()
        self._entries.clear()
        self._emptied += 1

    def stats(self) -> NearStats:
        """Count what is held and what happened."""
        return NearStats(
            entries=len(self._entries),
            bytes=self._entries.current_size(),
            hits=self._hits,
            misses=self._misses,
            stale=self._stale,
            emptied=self._emptied,
        )


def _size_of(key: bytes, entry: NearEntry) -> int:
    return ENTRY_OVERHEAD_BYTES + len(key) + getsizeof(entry.reason) + len(entry.user_key)
