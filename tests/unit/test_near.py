"""The near cache without a server: its bounds, and what a change does to entries and reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from sark.policy.near import MAX_REPLACED, NO_EPOCHS, Epochs, NearCache, NearEntry

POLICY, USER = "policy:version:authz", "policy:user_version:alice"
GENERATION = "policy:generation"


def near_cache(*, max_entries: int = 1000, max_bytes: int = 10_000_000) -> NearCache:
    return NearCache(max_entries=max_entries, max_bytes=max_bytes, generation_key=GENERATION)


def entry(epochs: Epochs = NO_EPOCHS, **fields: Any) -> NearEntry:
    made: dict[str, Any] = {
        "allow": True,
        "reason": "because",
        "stamp": "s",
        "began": 1,
        "expires": 100.0,
        "ends": 110.0,
        "everything": epochs.everything,
        "policy": epochs.policy,
        "policy_changes": epochs.policy_changes,
        "user": epochs.user,
        "user_changes": epochs.user_changes,
    }
    return NearEntry(**{**made, **fields})


def keep(cache: NearCache, key: bytes, *, user_key: str = USER, **fields: Any) -> None:
    epochs = cache.epochs(POLICY, user_key)
    cache.put(key, entry(epochs, **fields), step=epochs.step)


def test_an_entry_is_found_until_it_expires() -> None:
    cache = near_cache()
    keep(cache, b"a", expires=10.0)
    assert cache.get(b"b", 0.0) is None
    found = cache.get(b"a", 9.999)
    assert found is not None
    assert found.reason == "because"
    assert cache.get(b"a", 10.0) is None
    assert cache.get(b"a", 9.0) is None, "what was found expired is gone"
    stats = cache.stats()
    assert (stats.entries, stats.hits, stats.misses, stats.stale) == (0, 1, 3, 1)
    assert stats.bytes == 0


@pytest.mark.parametrize(
    "change",
    [[USER.encode()], [POLICY.encode()], [GENERATION.encode()], None, [b"x", USER.encode()]],
)
def test_a_change_ends_entries_and_reads_under_way(change: Sequence[bytes] | None) -> None:
    cache = near_cache()
    keep(cache, b"held")
    reading = cache.epochs(POLICY, USER)
    cache.changed(change)
    assert cache.get(b"held", 0.0) is None
    cache.put(b"read", entry(reading), step=0)
    assert cache.get(b"read", 0.0) is None
    keep(cache, b"later")
    assert cache.get(b"later", 0.0) is not None


def test_a_change_of_others_leaves_an_entry_alone() -> None:
    cache = near_cache()
    keep(cache, b"a")
    for name in (b"policy:user_version:alice2", b"policy:user_version:alic", b"policy:version:a"):
        cache.changed([name])
    assert cache.get(b"a", 0.0) is not None


@pytest.mark.parametrize("name", [b"policy:user_version:\xff\xfe", b"", b"\x00", "é".encode()])
def test_a_foreign_key_is_taken_note_of_without_harm(name: bytes) -> None:
    cache = near_cache()
    keep(cache, b"a")
    cache.changed([name, USER.encode()])
    assert cache.get(b"a", 0.0) is None


def test_a_read_that_saw_two_epochs_of_everything_is_never_kept() -> None:
    cache = near_cache()
    reading = cache.epochs(POLICY, USER)
    cache.changed(None)
    cache.put(b"a", entry(reading), step=0)
    assert cache.stats().entries == 0


def test_changes_that_nothing_here_depends_on_leave_nothing_behind() -> None:
    cache = near_cache()
    keep(cache, b"a")
    for number in range(100_000):
        cache.changed([b"policy:user_version:%d" % number])
    assert cache.get(b"a", 0.0) is not None
    assert cache.stats().emptied == 0
    for number in range(1000):
        cache.epochs(POLICY, f"policy:user_version:{number}")  # a read that came to nothing
        keep(cache, b"b", user_key=f"policy:user_version:b{number}")
    assert set(cache._epochs) == {POLICY, USER, "policy:user_version:b999"}
    cache.empty()
    assert not cache._epochs


def test_a_replaced_decision_goes_and_does_not_come_back() -> None:
    cache = near_cache()
    keep(cache, b"a", began=10)
    keep(cache, b"other", began=10)
    reading = cache.epochs(POLICY, USER)
    cache.replaced(b"a", 20)
    assert cache.get(b"a", 0.0) is None
    assert cache.get(b"other", 0.0) is not None
    cache.put(b"a", entry(reading, began=10), step=reading.step)
    assert cache.get(b"a", 0.0) is None, "a read that was under way"
    keep(cache, b"a", began=19)
    assert cache.get(b"a", 0.0) is None
    keep(cache, b"a", began=20, reason="new")
    found = cache.get(b"a", 0.0)
    assert found is not None
    assert found.reason == "new"
    cache.replaced(b"a", 20)
    assert cache.get(b"a", 0.0) is not None, "its own news comes back"
    cache.replaced(b"a", 15)
    keep(cache, b"a", began=16)
    found = cache.get(b"a", 0.0)
    assert found is not None
    assert found.began == 20, "news that come in another order change nothing"


def test_an_earlier_decision_does_not_take_the_place_of_a_later_one() -> None:
    cache = near_cache()
    keep(cache, b"a", began=20)
    keep(cache, b"a", began=10)
    held, _ = cache.peek(b"a", 0.0)
    assert held is not None
    assert held.began == 20
    keep(cache, b"a", began=10, stamp="another")
    held, _ = cache.peek(b"a", 0.0)
    assert held is not None
    assert held.began == 10, "under another stamp their order says nothing"


def test_replacements_are_remembered_within_a_bound() -> None:
    """Beyond it, reads that are older than what was forgotten leave nothing."""
    cache = near_cache()
    keep(cache, b"held", began=5)
    reading = cache.epochs(POLICY, USER)
    for number in range(MAX_REPLACED + 1):
        cache.replaced(b"%d" % number, 20)
    assert len(cache._replaced) == MAX_REPLACED
    cache.put(b"0", entry(reading, began=10), step=reading.step)
    assert cache.get(b"0", 0.0) is None
    assert cache.get(b"held", 0.0) is not None
    keep(cache, b"0", began=10)
    assert cache.get(b"0", 0.0) is not None, "a read that began afterwards has seen the server's"


def test_only_a_revocation_counts_as_one() -> None:
    cache = near_cache()
    noted = cache.epochs(POLICY, USER)
    cache.changed([USER.encode()])
    later = cache.epochs(POLICY, USER)
    assert (later.user_changes, later.user_revocations) == (1, 0)
    cache.revoked(USER.encode())
    last = cache.epochs(POLICY, USER)
    assert (last.user_changes, last.user_revocations) == (2, 1)
    assert noted.user is last.user
    cache.revoked(GENERATION.encode())
    assert cache.epochs(POLICY, USER).everything == 1
    cache.revoked(b"policy:user_version:nobody")
    assert "policy:user_version:nobody" not in cache._epochs


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 400)), max_size=120),
    st.integers(1, 20),
    st.integers(500, 9000),
)
def test_entries_and_bytes_stay_within_their_bounds(
    puts: list[tuple[int, int]], max_entries: int, max_bytes: int
) -> None:
    cache = near_cache(max_entries=max_entries, max_bytes=max_bytes)
    for number, size in puts:
        keep(cache, bytes([number]), reason="é" * size)
        stats = cache.stats()
        assert stats.entries <= max_entries
        assert stats.bytes <= max_bytes
        held = [cache._entries.get(bytes([number]), None) for number in range(31)]
        assert stats.bytes >= sum(2 * len(each.reason) for each in held if each is not None)


def test_what_is_larger_than_the_cache_is_not_kept_and_breaks_nothing() -> None:
    cache = near_cache(max_bytes=2000)
    keep(cache, b"a")
    keep(cache, b"big", reason="x" * 5000)
    assert cache.get(b"big", 0.0) is None
    assert cache.get(b"a", 0.0) is not None
    keep(cache, b"a", reason="x" * 5000)
    assert cache.get(b"a", 0.0) is None, "nor does it leave its predecessor behind"


def test_hot_entries_stay_while_others_come_and_go() -> None:
    cache = near_cache(max_entries=10)
    keep(cache, b"hot")
    for number in range(1000):
        keep(cache, b"cold %d" % number)
        assert cache.get(b"hot", 0.0) is not None, number


def test_a_newer_decision_takes_the_place_of_its_own_predecessor() -> None:
    cache = near_cache(max_entries=2)
    keep(cache, b"a")
    keep(cache, b"b")
    for number in range(5):
        keep(cache, b"b", reason=str(number))
    assert cache.get(b"a", 0.0) is not None
    found = cache.get(b"b", 0.0)
    assert found is not None
    assert found.reason == "4"


class Reads(RuleBasedStateMachine):
    """Reads that take their time, against changes: no entry from before a change is found.

    The truth is a version per generation; a read takes the version it sees at any moment after it
    noted the epochs, and arrives in any order.
    """

    users = st.sampled_from(["alice", "bob"])

    def __init__(self) -> None:
        super().__init__()
        self.cache = near_cache(max_entries=3)
        self.version = 0
        self.changed_at: dict[str, int] = {}
        self.begun: list[tuple[str, Epochs]] = []
        self.read: list[tuple[str, Epochs, int]] = []
        # Written on the server, and not yet heard of here.
        self.unheard: list[list[bytes] | None] = []

    def key(self, user: str) -> str:
        return f"policy:user_version:{user}"

    @rule(user=users)
    def begin(self, user: str) -> None:
        self.begun.append((user, self.cache.epochs(POLICY, self.key(user))))

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        user, epochs = self.begun.pop(data.draw(st.integers(0, len(self.begun) - 1)))
        self.read.append((user, epochs, self.version))

    @precondition(lambda self: self.read)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        user, epochs, version = self.read.pop(data.draw(st.integers(0, len(self.read) - 1)))
        self.cache.put(user.encode(), entry(epochs, reason=str(version)), step=epochs.step)

    @rule(scope=st.sampled_from(["alice", "bob", "policy", "all", "lost"]))
    def change(self, scope: str) -> None:
        self.version += 1
        match scope:
            case "alice" | "bob":
                self.changed_at[scope] = self.version
                self.unheard.append([self.key(scope).encode()])
            case "policy":
                self.changed_at["alice"] = self.changed_at["bob"] = self.version
                self.unheard.append([POLICY.encode()])
            case _:
                self.changed_at["alice"] = self.changed_at["bob"] = self.version
                self.unheard.append([GENERATION.encode()] if scope == "all" else None)

    @precondition(lambda self: self.unheard)
    @rule()
    def hear(self) -> None:
        self.cache.changed(self.unheard.pop(0))

    @rule(user=users)
    def look(self, user: str) -> None:
        found = self.cache.get(user.encode(), 0.0)
        if found is not None and not self.unheard:
            assert int(found.reason) >= self.changed_at.get(user, 0)


TestReads = Reads.TestCase
