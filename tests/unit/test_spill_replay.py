"""Replay: order, copies, pauses and the hand-over, against a queue's end that a test controls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sark.errors import StoreTimeoutError, StoreUnavailableError
from sark.events import AuditReplayed, Hub
from sark.siem.spill import Replay
from tests.support.polling import until
from tests.support.spills import (
    MAIN,
    Taker,
    assert_account_closes,
    names_in,
    open_spill,
    replaying,
    rows_of,
    stored,
)

OTHER = "siem2"


def numbered(first: int, last: int) -> list[bytes]:
    """Make events that tell their place."""
    return [b"%d" % number for number in range(first, last)]


async def test_what_is_put_is_replayed_at_once_and_in_order(tmp_path: Path) -> None:
    hub, replayed = Hub(), list[AuditReplayed]()
    hub.on(AuditReplayed, replayed.append)
    taker = Taker()
    async with open_spill(tmp_path) as spill, replaying(spill, taker, hub=hub):
        for turn in range(3):
            events = numbered(turn * 1500, (turn + 1) * 1500)
            await spill.put(rows_of(*events))
            await until(lambda: not spill.waits(MAIN), within=5, what="nothing waits")
        assert taker.events == numbered(0, 4500)
        assert not any(copy for _, _, copy in taker.taken)
    assert sum(event.events for event in replayed) == 4500
    assert_account_closes(tmp_path)


async def test_rows_wait_until_there_is_room(tmp_path: Path) -> None:
    taker = Taker(room=10)
    async with open_spill(tmp_path) as spill, replaying(spill, taker):
        await spill.put(rows_of(*numbered(0, 100)))
        await until(lambda: taker.calls > 2, within=5, what="it was tried again")
        assert taker.events == numbered(0, 10)
        assert spill.waits(MAIN)
        assert len(stored(tmp_path)) == 90
        taker.room = 10**6
        await until(lambda: not spill.waits(MAIN), within=5, what="nothing waits")
        # A queue without room has certainly not taken them.
        assert taker.taken == [(MAIN, event, False) for event in numbered(0, 100)]


async def test_copies_and_originals_keep_their_order(tmp_path: Path) -> None:
    taker = Taker()
    async with open_spill(tmp_path) as spill:
        await spill.put([*rows_of(b"1"), *rows_of(b"2", b"3", copy=True), *rows_of(b"4")])
        async with replaying(spill, taker):
            await until(lambda: not spill.waits(MAIN), within=5, what="nothing waits")
    assert taker.taken == [
        (MAIN, b"1", False),
        (MAIN, b"2", True),
        (MAIN, b"3", True),
        (MAIN, b"4", False),
    ]


async def test_one_sink_does_not_wait_for_another(tmp_path: Path) -> None:
    class Half(Taker):
        async def __call__(self, sink: str, events: object, *, copies: bool) -> int:
            if sink == MAIN:
                self.calls += 1
                return 0
            return await super().__call__(sink, events, copies=copies)  # type: ignore[arg-type]

    taker = Half()
    async with open_spill(tmp_path) as spill, replaying(spill, taker, sinks=(MAIN, OTHER)):
        await spill.put(rows_of(*numbered(0, 10)))
        await spill.put([*rows_of(b"a", sink=OTHER), *rows_of(b"b", sink="gone")])
        await until(lambda: not spill.waits(OTHER), within=5, what="the other sink's is replayed")
        assert spill.waits(MAIN)
        # Whose sink is no longer configured, waits until it is again.
        assert spill.waits("gone")
    assert_account_closes(tmp_path)


@pytest.mark.parametrize("sent", [True, False])
async def test_after_an_unknown_outcome_they_are_copies(tmp_path: Path, *, sent: bool) -> None:
    taker = Taker()
    taker.error = StoreTimeoutError("late") if sent else StoreUnavailableError("away")
    async with open_spill(tmp_path) as spill, replaying(spill, taker):
        await spill.put(rows_of(*numbered(0, 10)))
        await until(lambda: taker.calls > 1, within=5, what="it was tried again")
        taker.error = None
        await until(lambda: not spill.waits(MAIN), within=5, what="nothing waits")
    assert taker.events == numbered(0, 10)
    assert all(copy == sent for _, _, copy in taker.taken)


async def test_a_server_that_does_not_answer_is_asked_about_one_event(tmp_path: Path) -> None:
    taker = Taker()
    taker.error = StoreTimeoutError("late")
    asked = list[int]()

    async def put_back(sink: str, events: list[bytes], *, copies: bool) -> int:
        asked.append(len(events))
        return await taker(sink, events, copies=copies)

    async with open_spill(tmp_path) as spill:
        await spill.put(rows_of(*numbered(0, 10)))
        async with replaying(spill, put_back):  # type: ignore[arg-type]
            await until(lambda: len(asked) >= 3, within=5, what="it was asked thrice")
    assert asked[0] == 10
    assert set(asked[1:]) == {1}


async def test_a_sink_of_which_nothing_is_left_is_not_waited_for(tmp_path: Path) -> None:
    taker = Taker()
    taker.error = StoreUnavailableError("away")
    async with open_spill(tmp_path) as spill:
        replay = Replay(spill, taker, sinks=[MAIN], hub=Hub())
        task = asyncio.create_task(replay.run())
        rows = rows_of(b"1", copy=True)
        await spill.put(rows)
        await until(lambda: taker.calls > 1, within=5, what="it was tried again")

        async def forgotten() -> bool:
            await spill.forget([rows[0].key])
            return not spill.waits(MAIN)

        await until(forgotten, within=5, what="it is forgotten between two attempts")
        await until(lambda: not replay._pauses, within=5, what="it pauses no longer")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_may_have_been_sent_before_a_crash_is_a_copy(tmp_path: Path) -> None:
    async with open_spill(tmp_path) as spill:
        await spill.put(rows_of(*numbered(0, 10)))
        (held,) = spill.files.held
        batch = await spill.files.take(held, MAIN, events=4, size=1000)
        assert batch is not None
        # Here the process ends, after sending or before.
    taker = Taker()
    async with open_spill(tmp_path) as spill, replaying(spill, taker):
        await until(lambda: len(taker.taken) == 10, within=5, what="all were replayed")
        await until(lambda: spill.files.held == [], within=5, what="the file is removed")
    assert taker.taken == [(MAIN, b"%d" % n, n < 4) for n in range(10)]
    assert names_in(tmp_path) == ["totals.db"]


async def test_under_steady_load_new_events_soon_go_straight_to_the_queue(tmp_path: Path) -> None:
    """Callers who never pause: something always is on its way to the disk."""
    taker = Taker()
    straight = 0

    async def append(event: bytes) -> None:
        nonlocal straight
        if spill.waits(MAIN):
            await spill.put(rows_of(event))
        else:
            straight += 1
            await taker(MAIN, [event], copies=False)

    async def keep_appending(caller: int) -> None:
        turn = 0
        while straight < 1000:
            await append(b"%d %d" % (caller, turn))
            turn += 1

    async with open_spill(tmp_path, max_bytes=2**26) as spill:
        await spill.put(rows_of(*[b"x"] * 3000))
        async with replaying(spill, taker), asyncio.timeout(20):
            await asyncio.gather(*(keep_appending(caller) for caller in range(50)))
        assert not spill.waits(MAIN)
    assert taker.events[:3000] == [b"x"] * 3000
    # Each caller's events come in its order: none overtook one that had been acknowledged.
    seen = dict[bytes, int]()
    for event in taker.events[3000:]:
        caller, _, turn = event.partition(b" ")
        assert int(turn) == seen.get(caller, -1) + 1
        seen[caller] = int(turn)
    assert_account_closes(tmp_path)


async def test_a_hand_over_that_fails_keeps_the_rows(tmp_path: Path) -> None:
    taker = Taker()
    async with open_spill(tmp_path) as spill:
        async with spill.commits_held():
            puts = [
                asyncio.create_task(spill.put([*rows_of(event), *rows_of(event, sink=OTHER)]))
                for event in numbered(0, 5)
            ]
            await asyncio.sleep(0)
            taker.error = StoreTimeoutError("late")
            with pytest.raises(StoreTimeoutError):
                await spill.pass_on(MAIN, taker)
            assert spill.waits(MAIN)
            taker.error, taker.room = None, 2
            await spill.pass_on(MAIN, taker)
            assert not any(put.done() for put in puts)
        await asyncio.gather(*puts)
        waiting = stored(tmp_path)
        assert [event for sink, event in waiting if sink == MAIN] == numbered(2, 5)
        assert [event for sink, event in waiting if sink == OTHER] == numbered(0, 5)
        assert taker.taken == [(MAIN, event, True) for event in numbered(0, 2)]
    assert_account_closes(tmp_path)


async def test_a_hand_over_that_succeeds_touches_no_disk(tmp_path: Path) -> None:
    taker = Taker()
    async with open_spill(tmp_path) as spill, spill.commits_held():
        puts = [asyncio.create_task(spill.put(rows_of(event))) for event in numbered(0, 2500)]
        await asyncio.sleep(0)
        await spill.pass_on(MAIN, taker)
        assert not spill.waits(MAIN)
        await asyncio.gather(*puts)
    assert taker.events == numbered(0, 2500)
    assert names_in(tmp_path) == []
