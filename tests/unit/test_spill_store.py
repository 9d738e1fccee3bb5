"""The spill store: what it keeps, refuses, drops and forgets."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sark.errors import AuditError, QueueFullError
from sark.events import AuditDropped, Hub, SpillChanged, SpillFileSetAside
from sark.siem.spill import Spill, SpillFolder, store
from tests.support.polling import until
from tests.support.spills import (
    MAIN,
    assert_account_closes,
    databases,
    names_in,
    open_spill,
    rows_of,
    stored,
)

OTHER = "siem2"


async def test_a_put_returns_when_its_rows_can_be_read_by_others(tmp_path: Path) -> None:
    async with open_spill(tmp_path / "spill") as spill:
        assert not spill.waits(MAIN)
        await spill.put([])
        await spill.put([*rows_of(b"1", b"2"), *rows_of(b"3", sink=OTHER)])
        assert stored(spill.files.held[0].file.path.parent) == [
            (MAIN, b"1"),
            (MAIN, b"2"),
            (OTHER, b"3"),
        ]
        assert spill.waits(MAIN)
        assert spill.waits(OTHER)
        assert not spill.waits("nobody")
    assert_account_closes(tmp_path / "spill")


async def test_an_unused_store_leaves_no_trace(tmp_path: Path) -> None:
    async with open_spill(tmp_path / "spill"):
        pass
    assert not (tmp_path / "spill").exists()


async def test_only_the_user_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    async with open_spill(folder) as spill:
        await spill.put(rows_of(b"1"))
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(("sync", "level"), [("full", 2), ("normal", 1)])
async def test_commits_are_synced_as_the_setting_says(
    tmp_path: Path, sync: str, level: int
) -> None:
    async with open_spill(tmp_path, sync=sync) as spill:
        await spill.put(rows_of(b"1"))
        file = spill.files.held[0].file

        def read() -> object:
            return file._connection.execute("PRAGMA synchronous").fetchone()

        assert await spill.files._run(read) == (level,)


async def test_puts_that_come_together_share_a_commit(tmp_path: Path) -> None:
    async with open_spill(tmp_path) as spill:
        await spill.put(rows_of(b"first"))
        commits = 0
        write = spill.files.write

        async def counted(*arguments: object, **options: object) -> object:
            nonlocal commits
            commits += 1
            return await write(*arguments, **options)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spill.files, "write", counted)
            await asyncio.gather(*(spill.put(rows_of(b"%d" % n)) for n in range(500)))
        assert commits == 1
    assert [event for _, event in stored(tmp_path)] == [b"first", *(b"%d" % n for n in range(500))]


async def test_a_caller_who_gives_up_takes_nobody_along(tmp_path: Path) -> None:
    async with open_spill(tmp_path) as spill:
        puts = [asyncio.create_task(spill.put(rows_of(b"%d" % n))) for n in range(20)]
        await asyncio.sleep(0)
        puts[3].cancel()
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(each) for each in outcomes if each is not None] == [asyncio.CancelledError]
    assert len(stored(tmp_path)) == 20
    assert_account_closes(tmp_path)


async def test_beyond_its_bound_a_put_is_refused_as_a_whole(tmp_path: Path) -> None:
    async with open_spill(tmp_path, max_bytes=100) as spill:
        await spill.put(rows_of(b"x" * 60))
        with pytest.raises(QueueFullError, match="SARK_SPILL_MAX_BYTES"):
            await spill.put(rows_of(b"y" * 30, b"z" * 30))
        # Others of the same commit find their room.
        outcomes = await asyncio.gather(
            spill.put(rows_of(b"a" * 20)),
            spill.put(rows_of(b"b" * 41)),
            spill.put(rows_of(b"c" * 20)),
            spill.put(rows_of(b"d")),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [
            type(None),
            QueueFullError,
            type(None),
            QueueFullError,
        ]
        assert not spill.has_room()
    assert [event[:1] for _, event in stored(tmp_path)] == [b"x", b"a", b"c"]
    assert_account_closes(tmp_path)


async def test_the_oldest_of_the_same_sink_gives_way(tmp_path: Path) -> None:
    hub, dropped = Hub(), list[AuditDropped]()
    hub.on(AuditDropped, dropped.append)
    async with open_spill(tmp_path, max_bytes=100, overflow="drop_oldest", hub=hub) as spill:
        await spill.put(rows_of(b"o" * 50, sink=OTHER))
        await spill.put(rows_of(b"1" * 20, b"2" * 20))
        await spill.put(rows_of(b"3" * 35))
        assert [event[:1] for _, event in stored(tmp_path)] == [b"o", b"3"]
        assert [event.events for event in dropped] == [2]
        # What is another sink's stays, so this one finds no room.
        with pytest.raises(QueueFullError):
            await spill.put(rows_of(b"4" * 51))
        assert [event[:1] for _, event in stored(tmp_path)] == [b"o", b"3"]
        assert spill.has_room()
    account = assert_account_closes(tmp_path)
    assert (account[MAIN].dropped, account[MAIN].dropped_bytes) == (2, 40)


async def test_what_is_being_sent_is_not_dropped(tmp_path: Path) -> None:
    async with open_spill(tmp_path, max_bytes=100, overflow="drop_oldest") as spill:
        await spill.put(rows_of(b"1" * 40, b"2" * 40))
        (held,) = spill.files.held
        batch = await spill.files.take(held, MAIN, events=1, size=1000)
        assert batch is not None
        await spill.put(rows_of(b"3" * 50))
        assert [event[:1] for _, event in stored(tmp_path)] == [b"1", b"3"]
        await spill.files.settle(held, batch, 1)
    account = assert_account_closes(tmp_path)[MAIN]
    assert (account.replayed, account.dropped, account.waiting) == (1, 1, 1)


async def test_only_copies_that_were_not_sent_are_forgotten(tmp_path: Path) -> None:
    async with open_spill(tmp_path) as spill:
        copies = rows_of(b"1", b"2", b"3", copy=True)
        originals = rows_of(b"4")
        await spill.put([*copies, *originals])
        (held,) = spill.files.held
        batch = await spill.files.take(held, MAIN, events=1, size=1000)
        assert batch is not None
        await spill.forget([row.key for row in (*copies[:2], *originals)])
        assert [event for _, event in stored(tmp_path)] == [b"1", b"3", b"4"]
        await spill.forget([])
        await spill.forget([copies[2].key, 10**9])
        await spill.files.settle(held, batch, 1)
        assert spill.waits(MAIN)
    account = assert_account_closes(tmp_path)[MAIN]
    assert (account.replayed, account.forgotten, account.waiting) == (1, 2, 1)


async def test_a_refused_disk_is_an_error_until_it_recovers(tmp_path: Path) -> None:
    hub, changes = Hub(), list[SpillChanged]()
    hub.on(SpillChanged, changes.append)
    folder = tmp_path / "spill"
    folder.write_text("in the way")
    async with open_spill(tmp_path / "other", hub=hub) as spill:
        spill.files._folder = SpillFolder(folder)
        for _ in range(2):
            with pytest.raises(AuditError, match=r"the spill store failed: .*spill"):
                await spill.put(rows_of(b"1"))
        assert not spill.waits(MAIN)
        assert not spill.has_room()
        folder.unlink()
        await spill.put(rows_of(b"2"))
        assert spill.has_room()
    assert [change.working for change in changes] == [False, True]
    assert [event for _, event in stored(folder)] == [b"2"]


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from sark.errors import AuditError
from sark.events import Hub
from sark.siem.spill import Spill
from sark.siem.spilling import SpillRow, next_key

async def main():
    spill = Spill(Path(sys.argv[1]), max_bytes=2**30, hub=Hub())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    kept = 0
    async def put():
        await spill.put([SpillRow("main", b"x" * 1000, False, next_key())])
    try:
        while True:
            await put()
            kept += 1
    except AuditError as error:
        print(kept, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await put()
    await spill.close()

asyncio.run(main())
"""


def test_a_full_disk_loses_nothing_and_recovers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    kept, _, reason = done.stdout.partition(" ")
    assert "the spill store failed" in reason
    assert int(kept) > 10
    assert len(stored(tmp_path)) == int(kept) + 1
    assert_account_closes(tmp_path)


async def test_a_disk_that_does_not_answer_hangs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, changes = Hub(), list[SpillChanged]()
    hub.on(SpillChanged, changes.append)
    async with open_spill(tmp_path, hub=hub) as spill:
        await spill.put(rows_of(b"before"))
        monkeypatch.setattr(store, "PUT_SECONDS", 0.05)
        with closing(sqlite3.connect(databases(tmp_path)[0], isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            written = asyncio.create_task(spill.put(rows_of(b"being written")))
            for _ in range(3):  # until it is in the other thread
                await asyncio.sleep(0)
            for put in (spill.put(rows_of(b"in line", sink=OTHER)), written):
                with pytest.raises(AuditError, match="does not answer"):
                    await put
            assert not spill.has_room()
            # What had not begun is not kept in memory for good.
            assert not spill.waits(OTHER)
            other.execute("ROLLBACK")
        # A healthy disk may take longer than that, on a machine with much to do.
        monkeypatch.undo()
        await until(spill.has_room, within=5, what="the disk answers again")
        await spill.put(rows_of(b"after"))
        assert stored(tmp_path) == [(MAIN, b"before"), (MAIN, b"being written"), (MAIN, b"after")]
    assert [change.working for change in changes] == [False, True]


@pytest.mark.parametrize("damage", ["no database", "truncated", "another program's"])
async def test_a_file_that_cannot_be_read_is_set_aside(tmp_path: Path, damage: str) -> None:
    async with open_spill(tmp_path) as spill:
        await spill.put(rows_of(*(b"%d" % n * 100 for n in range(100))))
    (path,) = databases(tmp_path)
    content = path.read_bytes()
    if damage == "no database":
        path.write_bytes(b"#!/bin/sh\n" * 1000)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:68] + b"\0\0\0\1" + content[72:])
    before = path.read_bytes()
    hub, aside = Hub(), list[SpillFileSetAside]()
    hub.on(SpillFileSetAside, aside.append)
    async with open_spill(tmp_path, hub=hub) as spill:
        if spill.files.held:  # a truncated one may look whole until it is read
            (held,) = spill.files.held
            with pytest.raises(AuditError):
                await spill.files.take(held, MAIN, events=1000, size=10**6)
        assert spill.files.held == []
        await spill.put(rows_of(b"new"))
    assert aside[0].path == f"{path}.corrupt"
    assert path.with_name(f"{path.name}.corrupt").read_bytes() == before
    assert stored(tmp_path) == [(MAIN, b"new")]


async def test_processes_share_a_folder_and_adopt_what_is_left(tmp_path: Path) -> None:
    first = Spill(tmp_path, max_bytes=10_000, hub=Hub())
    await first.put(rows_of(b"1" * 1000))
    async with open_spill(tmp_path, max_bytes=1500) as second:
        assert second.files.held == []
        await second.put(rows_of(b"2"))
        await first.close()
        await second.files.adopt()
        assert [held.file.waiting[MAIN] for held in second.files.held] == [1, 1]
        # Order among processes means nothing, so new events need not go behind what was adopted.
        adopted = second.files.held[0]
        assert second.waits(MAIN)
        assert not second.waits(OTHER)
        # What was adopted takes room as well.
        with pytest.raises(QueueFullError):
            await second.put(rows_of(b"3" * 500))
        batch = await second.files.take(adopted, MAIN, events=10, size=10_000)
        assert batch is not None
        await second.files.settle(adopted, batch, 1)
        await second.files.finish(adopted)
        assert len(databases(tmp_path)) == 1
        assert_account_closes(tmp_path)
    account = assert_account_closes(tmp_path)[MAIN]
    assert (account.spilled, account.replayed, account.waiting) == (2, 1, 1)


async def test_an_emptied_file_is_removed_and_its_account_stays(tmp_path: Path) -> None:
    for turn in range(3):
        async with open_spill(tmp_path) as spill:
            await spill.put(rows_of(b"%d" % turn))
            held = spill.files.held[-1]
            batch = await spill.files.take(held, MAIN, events=10, size=1000)
            assert batch is not None
            await spill.files.settle(held, batch, 1)
            assert not spill.waits(MAIN)
    assert names_in(tmp_path) == ["totals.db"]
    account = assert_account_closes(tmp_path)[MAIN]
    assert (account.spilled, account.replayed) == (3, 3)


async def test_disk_space_is_given_back(tmp_path: Path) -> None:
    async with open_spill(tmp_path, max_bytes=2**24) as spill:
        await spill.put(rows_of(*[b"x" * 10_000] * 1000))
        (held,) = spill.files.held
        path = held.file.path
        while batch := await spill.files.take(held, MAIN, events=1000, size=2**20):
            await spill.files.settle(held, batch, len(batch.events))
        await spill.files.finish(held)
        assert path.stat().st_size < 2**20
        assert path.with_name(f"{path.name}-wal").stat().st_size == 0


async def test_broken_totals_keep_nobody_from_removing_files(tmp_path: Path) -> None:
    (tmp_path / "totals.db").write_bytes(b"no database" * 1000)
    hub, changes = Hub(), list[SpillChanged]()
    hub.on(SpillChanged, changes.append)
    async with open_spill(tmp_path, hub=hub) as spill:
        await spill.put(rows_of(b"1"))
    async with open_spill(tmp_path, hub=hub) as spill:
        (held,) = spill.files.held
        batch = await spill.files.take(held, MAIN, events=1, size=100)
        assert batch is not None
        await spill.files.settle(held, batch, 1)
        with pytest.raises(AuditError, match=r"totals\.db was set aside"):
            await spill.files.finish(held)
        await spill.files.finish(held)
        assert spill.files.held == []
    assert names_in(tmp_path) == ["totals.db", "totals.db.corrupt"]
    assert [change.working for change in changes] == [False, True]


async def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    async with open_spill(tmp_path) as spill:
        await spill.put(rows_of(b"1"))
    with pytest.raises(AuditError, match="closed"):
        await spill.put(rows_of(b"2"))
    assert stored(tmp_path) == [(MAIN, b"1")]
