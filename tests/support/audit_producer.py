"""A process that appends audit events as fast as it can, in bursts; run to be killed.

It appends as a service does: group commit, spill store, replay, by the settings in its environment.
Argument: a file, to which it writes a line for each event that was acknowledged, before it appends
the next: the event's id; and ``-`` for each that was refused. SIGTERM ends it in order.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys

import uvloop

from sark.errors import AuditError
from sark.events import Hub
from sark.parts.spill import open_queue, open_spill
from sark.settings import load
from sark.siem import EventQueue
from sark.store import Store, Topology
from tests.support.forwarders import event

CALLERS = 20
BUDGET_SECONDS = 0.25
# Some callers can't wait for their group, and some don't wait to the end.
IMPATIENT, FICKLE = 0.02, 0.02
IMPATIENT_SECONDS = 0.002
BURST_SECONDS, REST_SECONDS = (0.05, 0.5), (0.05, 2.0)


async def main(ledger: str) -> None:
    settings = load()
    topology = Topology.of(settings)
    assert topology is not None, "VALKEY_URL is set"
    hub, stopped = Hub(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    lines = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    async with (
        Store(topology, settings, hub) as store,
        open_spill(settings, hub) as spill,
        open_queue(settings, store, spill) as queue,
    ):
        os.write(1, b"appending\n")
        burst = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(beat(burst, stopped))
            for _ in range(CALLERS):
                group.create_task(append(queue, lines, burst, stopped))


async def beat(burst: asyncio.Event, stopped: asyncio.Event) -> None:
    """Let the callers go on and wait, in turns."""
    while not stopped.is_set():
        burst.set()
        await asyncio.sleep(random.uniform(*BURST_SECONDS))
        burst.clear()
        await asyncio.sleep(random.uniform(*REST_SECONDS))
    burst.set()


async def append(
    queue: EventQueue, lines: int, burst: asyncio.Event, stopped: asyncio.Event
) -> None:
    """Append one event after the other."""
    number = 0
    while not stopped.is_set():
        await burst.wait()
        number += 1
        made = event(number)
        wait = IMPATIENT_SECONDS if random.random() < IMPATIENT else BUDGET_SECONDS
        leave = IMPATIENT_SECONDS if random.random() < FICKLE else None
        try:
            async with asyncio.timeout(leave):
                await queue.append(made, deadline=asyncio.get_running_loop().time() + wait)
        except TimeoutError:
            continue
        except AuditError:
            os.write(lines, b"-\n")
            await asyncio.sleep(BUDGET_SECONDS)
        else:
            os.write(lines, b"%b\n" % made.id.encode())


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
