"""A process that spills is killed with -9 at random moments: what it acknowledged is there."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.polling import until
from tests.support.service import CHECKOUT
from tests.support.spills import MAIN, Taker, assert_account_closes, open_spill, replaying, stored

KILLS = 6


def run_and_kill(folder: Path, sync: str, after: int) -> tuple[set[bytes], set[bytes]]:
    """Let it acknowledge so many events, kill it, and tell what it put and what was taken."""
    command = [sys.executable, "-m", "tests.support.spiller", str(folder), sync]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.kill()
        lines += process.stdout.readlines()
    lines = [line for line in lines if line.endswith(b"\n")]
    put = {line[2:-1] for line in lines if line.startswith(b"P")}
    taken = {line[2:-1] for line in lines if line.startswith(b"T")}
    assert len(put) + len(taken) >= after - 1, "it worked until it was killed"
    return put, taken


@pytest.mark.heavy
@pytest.mark.parametrize("sync", ["full", "normal"])
async def test_what_was_acknowledged_survives_kills(tmp_path: Path, sync: str) -> None:
    put, taken = set[bytes](), set[bytes]()
    for _ in range(KILLS):
        more_put, more_taken = run_and_kill(tmp_path, sync, random.randint(1, 1500))
        put |= more_put
        taken |= more_taken
    there = {event for _, event in stored(tmp_path)}
    assert put <= there | taken
    assert_account_closes(tmp_path)
    # Each process adopted what the ones before it left, and the last one's heir replays it all.
    taker = Taker()
    async with open_spill(tmp_path, max_bytes=2**30) as spill, replaying(spill, taker):
        await until(lambda: not spill.files.held, within=20, what="all files are emptied")
    assert put <= set(taker.events) | taken
    # Only what may have been sent when its process was killed is sent again, and as a copy.
    again = [event for _, event, copy in taker.taken if event in taken and not copy]
    assert again == []
    account = assert_account_closes(tmp_path)[MAIN]
    assert account.waiting == 0
