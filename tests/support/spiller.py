"""A process that spills as fast as it can and tells what was acknowledged; run to be killed.

Arguments: folder, and ``full`` or ``normal``. It writes a line to its output for each acknowledged
event, unbuffered, and replays to nobody: a queue without room.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from sark.events import Hub
from sark.siem.spill import Replay, Spill
from sark.siem.spilling import SpillRow, next_key

CALLERS = 20


async def main(folder: str, sync: str) -> None:
    spill = Spill(
        Path(folder), max_bytes=2**30, sync="full" if sync == "full" else "normal", hub=Hub()
    )
    numbers = count()
    taken = 0

    async def take_some(sink: str, events: Sequence[bytes], *, copies: bool) -> int:
        """Take one event of each batch, telling so before the store hears of it."""
        nonlocal taken
        del sink, copies
        os.write(1, b"T %b\n" % events[0])
        await asyncio.sleep(0.001)
        taken += 1
        return 1

    async def keep_putting() -> None:
        while True:
            event = b"%d-%d" % (os.getpid(), next(numbers))
            await spill.put([SpillRow("main", event, copy=False, key=next_key())])
            os.write(1, b"P %b\n" % event)

    async with asyncio.TaskGroup() as group:
        group.create_task(Replay(spill, take_some, sinks=["main"], hub=Hub()).run())
        for _ in range(CALLERS):
            group.create_task(keep_putting())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
