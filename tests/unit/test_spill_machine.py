"""The account and the order of a spill file, whatever is done to it."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sark.siem.spill.file import Batch, SpillFile
from sark.siem.spilling import SpillRow
from tests.support.spills import assert_account_closes, stored

MAX_BYTES = 200
SINKS = ("main", "siem2")
sinks = st.sampled_from(SINKS)


@dataclass
class Known:
    """What the model knows of a row."""

    row: SpillRow
    may_be_sent: bool = False

    @property
    def size(self) -> int:
        return len(self.row.event)


class SpillMachine(RuleBasedStateMachine):
    """Puts, sends, settles, forgets and crashes at random, beside a model of plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sark-spill-"))
        self.file = self.open()
        self.waiting: dict[str, list[Known]] = {sink: [] for sink in SINKS}
        self.ended: dict[str, Counter[str]] = {sink: Counter() for sink in SINKS}
        self.batches: dict[str, tuple[Batch, list[bool]]] = {}
        self.numbers = count()

    def open(self) -> SpillFile:
        return SpillFile(self.folder / "spill-1.db", sync="normal")

    def teardown(self) -> None:
        self.file.close()
        shutil.rmtree(self.folder)

    @property
    def size(self) -> int:
        return sum(known.size for rows in self.waiting.values() for known in rows)

    @rule(
        puts=st.lists(
            st.lists(st.tuples(sinks, st.integers(1, 80), st.booleans()), min_size=1, max_size=3),
            min_size=1,
            max_size=3,
        ),
        drop=st.booleans(),
    )
    def put(self, puts: list[list[tuple[str, int, bool]]], *, drop: bool) -> None:
        groups = [
            [SpillRow(sink, b"x" * size, copy, next(self.numbers)) for sink, size, copy in rows]
            for rows in puts
        ]
        written = self.file.write(groups, max_bytes=MAX_BYTES, drop_oldest=drop)
        dropped = Counter[str]()
        for rows, kept in zip(groups, written.kept, strict=True):
            excess = self.size + sum(len(row.event) for row in rows) - MAX_BYTES
            gone: list[tuple[str, Known]] = []
            for sink in dict.fromkeys(row.sink for row in rows):
                for known in self.waiting[sink] if drop else ():
                    if not known.may_be_sent and excess > 0:
                        gone.append((sink, known))
                        excess -= known.size
            assert kept == (excess <= 0)
            if not kept:
                continue
            for sink, known in gone:
                self.waiting[sink].remove(known)
                self.end(sink, "dropped", [known])
                dropped[sink] += 1
            for row in rows:
                self.waiting[row.sink].append(Known(row))
        assert written.dropped == dropped

    @rule(sink=sinks, events=st.integers(1, 4), size=st.integers(1, 150))
    def take(self, sink: str, events: int, size: int) -> None:
        batch = self.file.take(sink, events=events, size=size)
        rows = self.waiting[sink]
        assert (batch is None) == (not rows)
        if batch is None:
            return
        taken = rows[: len(batch.events)]
        assert list(batch.events) == [known.row.event for known in taken]
        assert {known.row.copy or known.may_be_sent for known in taken} == {batch.copies}
        assert len(taken) <= events
        assert len(taken) == 1 or sum(known.size for known in taken) <= size
        self.batches[sink] = batch, [known.may_be_sent for known in taken]
        for known in taken:
            known.may_be_sent = True

    @rule(sink=sinks, share=st.floats(0, 1))
    def settle(self, sink: str, share: float) -> None:
        if sink not in self.batches:
            return
        batch, were_sent = self.batches.pop(sink)
        count = round(share * len(batch.events))
        self.file.settle(batch, count)
        rows = self.waiting[sink]
        self.end(sink, "replayed", rows[:count])
        for known, was_sent in zip(rows[: len(were_sent)], were_sent, strict=True):
            known.may_be_sent = was_sent
        del rows[:count]

    @rule(keys=st.sets(st.integers(0, 30)))
    def forget(self, keys: set[int]) -> None:
        forgotten = self.file.forget(keys)
        for sink, rows in self.waiting.items():
            gone = [
                known
                for known in rows
                if known.row.copy and known.row.key in keys and not known.may_be_sent
            ]
            assert forgotten[sink] == len(gone)
            self.end(sink, "forgotten", gone)
            for known in gone:
                rows.remove(known)

    @rule()
    def crash(self) -> None:
        """Open it anew: what was taken and not settled may have been sent."""
        self.file.close()
        self.file = self.open()
        self.batches.clear()

    def end(self, sink: str, how: str, rows: list[Known]) -> None:
        self.ended[sink][how] += len(rows)
        self.ended[sink][f"{how}_bytes"] += sum(known.size for known in rows)

    @invariant()
    def account_closes(self) -> None:
        status = assert_account_closes(self.folder)
        found = stored(self.folder)
        for sink, rows in self.waiting.items():
            assert [event for of, event in found if of == sink] == [k.row.event for k in rows]
            assert self.file.count()[sink] == len(rows)
            assert self.file.waiting_bytes[sink] == sum(known.size for known in rows)
            if sink in status:
                for name, expected in self.ended[sink].items():
                    assert getattr(status[sink], name) == expected, name


TestSpillMachine = SpillMachine.TestCase
TestSpillMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
