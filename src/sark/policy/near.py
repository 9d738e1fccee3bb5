"""The near cache: decisions kept in this process, coherent with the server within a bound.

An entry remembers the *epochs* of the generations that it depends on: counters of this process that
step whenever the change feed reports the generation's key. They are noted before the decision is
read from the server, so a change that arrives while the read is under way makes the entry invalid
from the start, in whichever order the two arrive. An epoch lives only as long as an entry or a read
under way refers to it; a change that concerns neither leaves nothing behind.

A decision that a later evaluation replaces, under the same generations, is told by the time at
which that evaluation began. An entry that began earlier is dropped, and none enters afterwards.

Used alone, the near cache answers only while the feed is known to be complete up to no longer than
``bound`` ago; beyond that, and when the feed's connection breaks, it empties and steps aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import getsizeof
from weakref import WeakValueDictionary

import msgspec
from cachebox import LRUCache

__all__ = ["NO_EPOCHS", "Epoch", "Epochs", "NearCache", "NearEntry", "NearStats"]

# Measured with one entry per user; where users have many, an entry takes a quarter less.
ENTRY_OVERHEAD_BYTES = 610
# Replaced decisions whose time is remembered. They only matter to reads that were under way then;
# beyond so many, a read that is older than those forgotten leaves nothing here.
MAX_REPLACED = 1024


class Epoch:
    """How often one generation has changed, as far as this process has heard.

    Attributes:
        changes: Changes of any kind: revoked, created, renewed, lost.
        revocations: Of these, the revocations.
    """

    __slots__ = ("__weakref__", "changes", "revocations")

    def __init__(self) -> None:
        self.changes = 0
        self.revocations = 0


class Epochs(msgspec.Struct, frozen=True):
    """What was known of a decision's generations before it was read.

    Attributes:
        everything: How often the cache was emptied.
        policy: Its policy's epoch.
        policy_changes: Its count then.
        user: Its user's epoch.
        user_changes: Its count then.
        user_revocations: Likewise.
        step: How many decisions had been replaced.
    """

    everything: int
    policy: Epoch
    policy_changes: int
    user: Epoch
    user_changes: int
    user_revocations: int
    step: int


NO_EPOCHS = Epochs(0, Epoch(), 0, Epoch(), 0, 0, 0)
"""For where there is no near cache."""


class NearEntry(msgspec.Struct, frozen=True, gc=False):
    """A decision kept in this process.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why.
        stamp: What it is valid under.
        began: When its evaluation began, in microseconds of the state server's clock.
        expires: Until when it is used here, on the event loop's clock, in seconds.
        ends: When the server's copy expires; no earlier than ``expires``.
        everything: How often the cache had been emptied when the decision was read.
        policy: Its policy's epoch.
        policy_changes: Its count then.
        user: Its user's epoch.
        user_changes: Its count then.
    """

    allow: bool
    reason: str
    stamp: str
    began: int
    expires: float
    ends: float
    everything: int
    policy: Epoch
    policy_changes: int
    user: Epoch
    user_changes: int


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
        self._everything = 0
        self._epochs: WeakValueDictionary[str, Epoch] = WeakValueDictionary()
        # By key: when the evaluation that replaced it began, and the step at which it was told.
        self._replaced: dict[bytes, tuple[int, int]] = {}
        self._step = self._forgotten = 0
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
        # As ``_holds``, spelled out: a call is a tenth of what a hit costs.
        if (
            entry.expires > now
            and entry.user.changes == entry.user_changes
            and entry.policy.changes == entry.policy_changes
            and entry.everything == self._everything
        ):
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
        return (
            entry.expires > now
            and entry.user.changes == entry.user_changes
            and entry.policy.changes == entry.policy_changes
            and entry.everything == self._everything
        )

    def epochs(self, policy_key: str, user_key: str) -> Epochs:
        """Note the epochs of what a decision depends on, before it is read."""
        policy, user = self._epoch(policy_key), self._epoch(user_key)
        return Epochs(
            self._everything,
            policy,
            policy.changes,
            user,
            user.changes,
            user.revocations,
            self._step,
        )

    def _epoch(self, key: str) -> Epoch:
        epoch = self._epochs.get(key)
        if epoch is None:
            epoch = self._epochs[key] = Epoch()
        return epoch

    def put(self, key: bytes, entry: NearEntry, *, step: int) -> None:
        """Keep a decision, unless it is outdated already or larger than the whole cache.

        Args:
            key: Of the question.
            entry: The decision.
            step: As noted before it was read or stored.
        """
        if entry.everything != self._everything or step < self._forgotten:
            return
        if entry.began < self._replaced.get(key, (0, 0))[0]:
            return
        held: NearEntry | None = self._entries.pop(key, None)
        if held is not None and held.began > entry.began and held.stamp == entry.stamp:
            entry = held
        if _size_of(key, entry) > self._max_bytes:
            return
        while len(self._entries) >= self._max_entries:
            self._entries.popitem()
        self._entries.insert(key, entry)

    @property
    def step(self) -> int:
        """How many decisions have been replaced."""
        return self._step

    def replaced(self, key: bytes, began: int) -> None:
        """Take note that one decision has been replaced.

        Args:
            key: Of the question.
            began: When the evaluation that replaced it began.
        """
        held: NearEntry | None = self._entries.peek(key, None)
        if held is not None and held.began < began:
            self._entries.pop(key, None)
        self._step += 1
        latest = max(began, self._replaced.pop(key, (0, 0))[0])
        self._replaced[key] = (latest, self._step)
        if len(self._replaced) > MAX_REPLACED:
            _, self._forgotten = self._replaced.pop(next(iter(self._replaced)))

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """Take note of changed generations; None: anything may have changed."""
        if keys is None:
            self.empty()
            return
        for key in keys:
            self._change(key)

    def revoked(self, key: bytes) -> None:
        """Take note of a generation that was revoked."""
        epoch = self._change(key)
        if epoch is not None:
            epoch.revocations += 1

    def _change(self, key: bytes) -> Epoch | None:
        if key == self._generation_key:
            self.empty()
            return None
        # Ours are ASCII; what others write under the prefix must not end the feed.
        epoch = self._epochs.get(key.decode(errors="replace"))
        if epoch is not None:
            epoch.changes += 1
        return epoch

    def empty(self) -> None:
        """Drop everything, and what is being read at this moment too."""
        self._everything += 1
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
    return ENTRY_OVERHEAD_BYTES + len(key) + getsizeof(entry.reason)
