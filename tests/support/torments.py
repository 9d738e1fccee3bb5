"""What befalls the parts of the audit path, at random and all at once.

Each part has a generator of its own, so a seed gives each of them the same faults in the same
order, though not the same course of events.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from random import Random

from tests.support.envoy import ENVOY_STATUSES
from tests.support.fault_run import LEASE_SECONDS, PRODUCERS, WORKERS, Parts

__all__ = ["heal", "torment"]

Fault = Callable[[Random], Awaitable[str]]

REST_SECONDS = (0.2, 2.0)
QUIET_SECONDS = 0.5


async def torment(parts: Parts, seed: int, *, seconds: float, kill_valkey: bool) -> Counter[str]:
    """Let faults happen for a time.

    Args:
        parts: To whom.
        seed: Which ones.
        seconds: For how long.
        kill_valkey: Whether Valkey is killed, else it is stopped in order.

    Returns:
        How often each has happened.
    """
    done = Counter[str]()
    until = asyncio.get_running_loop().time() + seconds
    faults: dict[str, Fault] = {
        "proxy": partial(_of_proxy, parts),
        "receiver": partial(_of_receiver, parts),
        "valkey": partial(_of_valkey, parts, kill=kill_valkey),
        "file": partial(_of_file, parts),
    }
    faults |= {f"worker {slot}": partial(_of_worker, parts, slot) for slot in range(WORKERS)}
    faults |= {f"producer {slot}": partial(_of_producer, parts, slot) for slot in range(PRODUCERS)}

    async def repeat(part: str, fault: Fault) -> None:
        random = Random(f"{seed} {part}")
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(random.uniform(*REST_SECONDS))
            done[f"{part.split(maxsplit=1)[0]} {await fault(random)}"] += 1

    async with asyncio.TaskGroup() as group:
        for part, fault in faults.items():
            group.create_task(repeat(part, fault))
    return done


async def heal(parts: Parts) -> None:
    """Take all faults away, and stop appending.

    The workers begin anew: one that a 401 has paused would look again only after a minute.
    """
    await asyncio.to_thread(parts.proxy.inject)
    for producer in parts.appending:
        await asyncio.to_thread(producer.stop)
    for slot in range(WORKERS):
        await _restart_worker(parts, slot)


async def _of_proxy(parts: Parts, random: Random) -> str:
    kind = random.choice([*map(str, ENVOY_STATUSES), "mixture", "delay", "delay", "cut", "cut"])
    if kind == "cut":
        async with parts.proxy_turn:
            await asyncio.to_thread(parts.proxy.kill)
            await asyncio.sleep(random.uniform(0.0, 0.5))
            await asyncio.to_thread(parts.proxy.start)
        return "killed"
    share = random.choice([10, 30, 60, 100])
    if kind == "delay":
        delay_ms = random.randint(100, 2500)
        await _inject(parts, delayed=share, delay_ms=delay_ms)
    else:
        mixture = dict.fromkeys([413, 429, 500, 503], 20)
        await _inject(parts, mixture if kind == "mixture" else {int(kind): share})
    await asyncio.sleep(random.uniform(0.5, 2.0))
    await _inject(parts)
    return f"answers {kind}" if kind.isdecimal() else kind


async def _of_receiver(parts: Parts, random: Random) -> str:
    receiver = parts.receiver
    if random.random() < 0.5:
        with receiver.paused():
            await asyncio.sleep(random.uniform(0.5, 2.5))
        return "paused"
    async with parts.proxy_turn:
        with parts.proxy.paused():
            await _until_written(parts)
            await asyncio.to_thread(receiver.kill)
    with receiver.output.open("ab") as output:
        output.write(b"\n")  # ends the line that it may have left torn
    await asyncio.sleep(random.uniform(0.0, 2.0))
    await asyncio.to_thread(receiver.start)
    return "killed"


async def _until_written(parts: Parts) -> None:
    """Wait until the collector, which gets nothing new, has written all that it has taken.

    Without indexer acknowledgement a collector answers before the events are safe: one that is
    killed under load loses some, whoever sent them.
    """
    loop = asyncio.get_running_loop()
    size, changed_at = -1, loop.time()
    while loop.time() < changed_at + QUIET_SECONDS:
        now = parts.receiver.output.stat().st_size
        if now != size:
            size, changed_at = now, loop.time()
        await asyncio.sleep(QUIET_SECONDS / 10)


async def _of_valkey(parts: Parts, random: Random, *, kill: bool) -> str:
    server = parts.server
    await asyncio.sleep(random.uniform(0.0, 4.0))
    kind = random.random()
    if kind < 0.3:
        server.client().client_kill_filter(_type="normal", skipme=True)
        return "cut off"
    if kind < 0.6:
        with server.paused():
            await asyncio.sleep(random.uniform(0.3, 2.0))
        return "paused"
    await asyncio.to_thread(server.kill if kill else server.stop)
    await asyncio.sleep(random.uniform(0.0, 1.0))
    await asyncio.to_thread(server.start)
    return "killed" if kill else "stopped"


async def _of_file(parts: Parts, random: Random) -> str:
    await asyncio.sleep(random.uniform(1.0, 5.0))
    parts.rename_file()
    return "renamed"


async def _of_worker(parts: Parts, slot: int, random: Random) -> str:
    await asyncio.sleep(random.uniform(0.0, 4.0))
    worker, kind = parts.workers[slot], random.random()
    if kind < 0.3:
        await _pause(worker.process.pid, random.uniform(0.5, 2.0) * LEASE_SECONDS)
        return "paused"
    if kind < 0.5:
        await _restart_worker(parts, slot)
        return "stopped"
    worker.kill()
    parts.workers[slot] = await asyncio.to_thread(parts.start_worker)
    return "killed"


async def _of_producer(parts: Parts, slot: int, random: Random) -> str:
    await asyncio.sleep(random.uniform(2.0, 12.0))
    producer, kind = parts.appending[slot], random.random()
    if kind < 0.3:
        await _pause(producer.process.pid, random.uniform(0.2, 2.0))
        return "paused"
    await asyncio.to_thread(producer.stop if kind < 0.5 else producer.kill)
    parts.appending[slot] = await asyncio.to_thread(parts.start_producer)
    return "stopped" if kind < 0.5 else "killed"


async def _inject(
    parts: Parts, aborts: Mapping[int, int] | None = None, *, delayed: int = 0, delay_ms: int = 0
) -> None:
    async with parts.proxy_turn:
        await asyncio.to_thread(parts.proxy.inject, aborts, delayed=delayed, delay_ms=delay_ms)


async def _pause(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


async def _restart_worker(parts: Parts, slot: int) -> None:
    """End a worker in order, and start another."""
    worker = parts.workers[slot]
    code = await asyncio.to_thread(worker.stop)
    assert code == 0, f"the worker ended with {code}: {worker.stderr}"
    parts.workers[slot] = await asyncio.to_thread(parts.start_worker)
