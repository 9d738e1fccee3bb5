"""Whatever is killed, stopped and refused, acknowledged events arrive and the account closes.

``FAULT_RUN_SECONDS`` sets how long faults happen, ``FAULT_RUN_SEED`` repeats those of a run.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from sark.parts.background import background
from sark.siem import EventQueue, QueueBounds, SinkQueue, SinkStatus
from sark.siem.spill import Replay, SpillStatus
from sark.store import Store
from tests.support.fault_run import (
    COPY,
    LEASE_SECONDS,
    MAIN,
    PRODUCERS,
    QUEUE_EVENTS,
    SENT_AT_ONCE,
    Parts,
    open_parts,
)
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.spills import assert_account_closes, open_spill
from tests.support.torments import heal, torment

SECONDS = float(os.environ.get("FAULT_RUN_SECONDS", "45"))
SEED = int(os.environ.get("FAULT_RUN_SEED", "") or secrets.randbits(32))
HEALED_SECONDS = 60.0 + 4 * SECONDS
SINKS = (MAIN, COPY)
BOUNDS = QueueBounds(QUEUE_EVENTS)
SPILLED_AT_ONCE = PRODUCERS * 1100
"""A group and a batch of replay, of each producer: what Valkey may have when it goes away."""

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300 + 10 * SECONDS)]


@dataclass
class Findings:
    """What a sink's receiver, its queue and the spill files say in the end.

    Attributes:
        received: How often each event arrived.
        account: The queue's account.
        spilled: That of the spill files.
        letters: Reasons of the dead letters that were replayed.
    """

    received: Counter[str]
    account: SinkStatus
    spilled: SpillStatus
    letters: Counter[str]

    @property
    def again(self) -> int:
        """Arrivals of events that had arrived before."""
        return self.received.total() - len(self.received)


class _Letter(msgspec.Struct):
    reason: str
    kind: str


class _Event(msgspec.Struct):
    id: str


class _Line(msgspec.Struct):
    """The collector writes the event into a record of its own, the file has it as it is."""

    event: _Event | None = None
    id: str = ""


_line = msgspec.json.Decoder(_Line).decode


@pytest.mark.parametrize(
    ("fsync", "kill_valkey"), [("everysec", False), ("always", True)], ids=["stopped", "killed"]
)
async def test_every_acknowledged_event_arrives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fsync: str, kill_valkey: bool
) -> None:
    """A Valkey that syncs every second may be stopped, one that always syncs may be killed."""
    with capsys.disabled():
        print(f"\nfaults for {SECONDS:g} s, FAULT_RUN_SEED={SEED}")  # noqa: T201
    with open_parts(tmp_path, fsync) as parts:
        done = await torment(parts, SEED, seconds=SECONDS, kill_valkey=kill_valkey)
        await heal(parts)
        findings = await drain(parts)
        acknowledged, refused = parts.acknowledged, sum(each.refused for each in parts.producers)
    with capsys.disabled():
        print_table(done, acknowledged, refused, findings)
    for sink, found in findings.items():
        missing = acknowledged - found.received.keys()
        assert not missing, f"{len(missing)} events were lost on their way to {sink}"
        assert found.account.balanced, found.account
        assert found.account.dropped.events == found.spilled.dropped == 0
        # What becomes a dead letter was refused when it was sent alone, as being too large.
        assert all(reason.startswith("rejected: HTTP 413") for reason in found.letters)
        of_valkey = sum(count for name, count in done.items() if name.startswith("valkey"))
        others = done.total() - of_valkey
        assert found.account.duplicates.events <= (of_valkey + 1) * SPILLED_AT_ONCE
        assert found.again <= found.account.duplicates.events + (others + 1) * SENT_AT_ONCE


async def drain(parts: Parts) -> dict[str, Findings]:
    """Wait until everything has left, the spill files and the dead letters included."""
    letters = {sink: Counter[str]() for sink in SINKS}
    async with open_store(parts.server.url) as store:
        queues = {
            sink: SinkQueue(store, sink, BOUNDS, lease=LEASE_SECONDS, most_expiries=1000)
            for sink in SINKS
        }

        async def is_drained() -> bool:
            for sink, queue in queues.items():
                letters[sink].update(map(_reason, await queue.failed(1000)))
                await queue.replay(1000)
            found = [await queue.status() for queue in queues.values()]
            left = [s.queued.events + s.in_flight.events + s.failed.events for s in found]
            return not any(left) and not [*parts.spill.glob("spill-*.db")]

        async with heir(store, parts.spill):
            await until(is_drained, within=HEALED_SECONDS, what="all events have left")
        accounts = {sink: await queue.status() for sink, queue in queues.items()}
    spilled = assert_account_closes(parts.spill)
    received = {sink: count_ids(lines) for sink, lines in parts.received.items()}
    return {s: Findings(received[s], accounts[s], spilled[s], letters[s]) for s in SINKS}


@asynccontextmanager
async def heir(store: Store, folder: Path) -> AsyncIterator[None]:
    """Replay what the producers have left, beside the block."""
    async with open_spill(folder, hub=store.hub) as spill:
        queue = EventQueue(store, SINKS, BOUNDS, flush_timeout=1.0, spill=spill)
        replay = Replay(spill, queue.put_back, sinks=SINKS, hub=store.hub)
        async with background(replay.run(), "heir"):
            yield
        await queue.close()


def count_ids(lines: Sequence[bytes]) -> Counter[str]:
    """Count how often each event is there; a line that is torn is not its event."""
    ids = Counter[str]()
    for line in lines:
        try:
            found = _line(line)
        except msgspec.MsgspecError:
            continue
        ids[found.id if found.event is None else found.event.id] += 1
    return ids


def _reason(entry: bytes) -> str:
    letter = msgspec.json.decode(entry, type=_Letter)
    return f"{letter.kind}: {letter.reason}"


def print_table(
    done: Counter[str], acknowledged: set[str], refused: int, findings: dict[str, Findings]
) -> None:
    """Print what happened, and what came of it."""
    rows = [("faults", ", ".join(f"{name} {count}" for name, count in sorted(done.items())))]
    rows.append(("acknowledged", f"{len(acknowledged):,}, refused {refused:,}"))
    for sink, found in findings.items():
        received, again = len(found.received), found.again
        copies = found.account.duplicates.events
        missing = len(acknowledged - found.received.keys())
        rows += [
            (f"{sink}: received", f"{received:,}, of which acknowledged: all but {missing}"),
            (f"{sink}: again", f"{again:,} ({again / received:.1%}), {copies:,} spilled copies"),
            (f"{sink}: spilled", f"{found.spilled.spilled:,}"),
            (f"{sink}: dead letters", f"{found.letters.total()}, replayed"),
        ]
    for name, text in rows:
        print(f"  {name:20} {text}")  # noqa: T201
