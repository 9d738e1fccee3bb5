"""The parts of the audit path, all of them real, and what befalls them at random.

Producers append to Valkey and spill; workers forward to a Splunk collector behind Envoy, and to a
file. Each fault is drawn by a generator of its own part, so that a seed gives the same faults in
the same order for each part, though not the same course of events.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from tests.support.envoy import Envoy
from tests.support.producers import Producer
from tests.support.receivers import HEC_TOKEN, Tenzir, hec_receiver
from tests.support.servers import ValkeyServer
from tests.support.workers import Worker

__all__ = ["COPY", "MAIN", "FaultRun", "open_fault_run"]

MAIN, COPY = "main", "copy"
WORKERS = PRODUCERS = 3
LEASE_SECONDS = 2
BATCH_EVENTS = 200
QUEUE_EVENTS = 5000
REQUEST_BYTES = 60_000
"""Above it the collector answers 413, also to batches: half of them are larger."""

Turn = Callable[[], Awaitable[None]]


class FaultRun:
    """See the module's description. Its parts run while it is open.

    Attributes:
        server: The Valkey server, with an append-only file.
        receiver: The Splunk collector.
        proxy: What stands before it.
        producers: Every process that ever appended.
        done: How often each fault has happened.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.server = ValkeyServer({"appendonly": "yes", "appendfsync": "everysec"})
        self.receiver: Tenzir = hec_receiver(max_request_size=REQUEST_BYTES)
        self.producers: list[Producer] = []
        self.done = Counter[str]()
        self.spill = directory / "spill"
        self._directory = directory
        self._seed = seed
        self._appending: list[Producer] = []
        self._workers: list[Worker] = []
        self._numbers = itertools.count()
        self._turn = asyncio.Lock()
        self.proxy: Envoy

    @property
    def received(self) -> dict[str, list[bytes]]:
        """The lines that each sink has received, in order."""
        files = sorted(self._directory.glob("copy.jsonl*"))
        copies = itertools.chain.from_iterable(file.read_bytes().splitlines() for file in files)
        return {MAIN: self.receiver.output.read_bytes().splitlines(), COPY: list(copies)}

    def open(self, stack: ExitStack) -> None:
        """Start all parts, to be ended with the stack."""
        stack.enter_context(self.server)
        stack.enter_context(self.receiver)
        self.proxy = stack.enter_context(Envoy(self.receiver.port, timeout=1.5))
        stack.callback(self._end_processes)
        for _ in range(PRODUCERS):
            self._start_producer()
        for _ in range(WORKERS):
            self._start_worker()

    async def torment(self, seconds: float) -> None:
        """Let faults happen, in all parts at once, for a time."""
        until = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(
            self._torment("proxy", self._fault_of_proxy, until),
            self._torment("receiver", self._fault_of_receiver, until),
            self._torment("valkey", self._fault_of_valkey, until),
            self._torment("worker", self._fault_of_worker, until),
            self._torment("producer", self._fault_of_producer, until),
            self._torment("file", self._fault_of_file, until),
        )

    async def heal(self) -> None:
        """Take all faults away, and stop appending. Those who forward begin anew.

        A worker that a 401 has paused would look again by itself, after a minute.
        """
        await asyncio.to_thread(self.proxy.inject)
        for producer in self._appending:
            await asyncio.to_thread(producer.stop)
        self._appending.clear()
        await self._restart_workers()

    async def _torment(
        self, part: str, fault: Callable[[Random], Awaitable[str]], until: float
    ) -> None:
        """Let one fault after the other happen to a part, each with a rest behind it."""
        random = Random(f"{self._seed} {part}")
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            name = await fault(random)
            self.done[f"{part} {name}"] += 1
            await asyncio.sleep(random.uniform(0.2, 2.0))

    async def _fault_of_proxy(self, random: Random) -> str:
        proxy, share = self.proxy, random.choice([10, 30, 60, 100])
        kind = random.choice([429, 503, 500, 413, 401, "mixture", "delay", "cut", "cut"])
        if kind == "cut":
            await asyncio.to_thread(proxy.kill)
            await asyncio.sleep(random.uniform(0.0, 0.5))
            await asyncio.to_thread(proxy.start)
            return "killed"
        if kind == "delay":
            delay = random.randint(100, 2500)
            await asyncio.to_thread(proxy.inject, delayed=share, delay_ms=delay)
        elif kind == "mixture":
            await asyncio.to_thread(proxy.inject, dict.fromkeys([413, 429, 500, 503], 20))
        else:
            await asyncio.to_thread(proxy.inject, {kind: share})
        await asyncio.sleep(random.uniform(0.5, 2.0))
        await asyncio.to_thread(proxy.inject)
        if kind == 401:  # noqa: PLR2004 - the status
            await self._restart_workers()
        return f"answers {kind}" if isinstance(kind, int) else str(kind)

    async def _fault_of_receiver(self, random: Random) -> str:
        receiver = self.receiver
        if random.random() < 0.5:  # noqa: PLR2004 - even odds
            with receiver.paused():
                await asyncio.sleep(random.uniform(0.5, 2.5))
            return "paused"
        await asyncio.to_thread(receiver.kill)
        with receiver.output.open("ab") as output:
            output.write(b"\n")  # ends what it may have left torn
        await asyncio.sleep(random.uniform(0.0, 2.0))
        await asyncio.to_thread(receiver.start)
        return "killed"

    async def _fault_of_valkey(self, random: Random) -> str:
        await asyncio.sleep(random.uniform(0.0, 4.0))
        server = self.server
        if random.random() < 0.5:  # noqa: PLR2004 - even odds
            with server.paused():
                await asyncio.sleep(random.uniform(0.3, 2.0))
            return "paused"
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(random.uniform(0.0, 1.0))
        await asyncio.to_thread(server.start)
        return "restarted"

    async def _fault_of_worker(self, random: Random) -> str:
        async with self._turn:
            worker = random.choice(self._workers)
            if random.random() < 0.3:  # noqa: PLR2004 - odds
                worker.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(random.uniform(0.5, 2.0) * LEASE_SECONDS)
                worker.process.send_signal(signal.SIGCONT)
                return "paused"
            worker.process.kill()
            worker.process.wait()
            self._workers.remove(worker)
            await asyncio.to_thread(self._start_worker)
            return "killed"

    async def _fault_of_producer(self, random: Random) -> str:
        await asyncio.sleep(random.uniform(0.0, 3.0))
        producer = random.choice(self._appending)
        self._appending.remove(producer)
        await asyncio.to_thread(producer.kill)
        await asyncio.to_thread(self._start_producer)
        return "killed"

    async def _fault_of_file(self, random: Random) -> str:
        await asyncio.sleep(random.uniform(1.0, 5.0))
        file = self._directory / "copy.jsonl"
        if file.exists():
            file.rename(self._directory / f"copy.jsonl.{next(self._numbers)}")
        return "rotated"

    async def _restart_workers(self) -> None:
        """End the workers in order, and start others."""
        async with self._turn:
            ended, self._workers = self._workers, []
            for worker in ended:
                assert await asyncio.to_thread(worker.stop) == 0, worker.stderr
            for _ in ended:
                await asyncio.to_thread(self._start_worker)

    def _start_worker(self) -> None:
        directory = self._directory / f"worker-{next(self._numbers)}"
        sinks = (
            f"{MAIN}=splunk+http://127.0.0.1:{self.proxy.port}?format=sark",
            f"{COPY}=file://{self._directory}/copy.jsonl?format=sark",
        )
        worker = Worker(
            directory,
            self.server.url,
            ",".join(sinks),
            SARK_SIEM_MAIN_TOKEN=HEC_TOKEN,
            SARK_SIEM_MAX_EVENTS=QUEUE_EVENTS,
            SARK_SIEM_LEASE=LEASE_SECONDS,
            SARK_SIEM_BATCH_EVENTS=BATCH_EVENTS,
            SARK_SIEM_BATCH_AGE_MS=50,
            SARK_SIEM_CONCURRENCY=2,
            SARK_SIEM_TIMEOUT=2,
            SARK_SIEM_RETRY_CAP=1,
            SARK_SIEM_BREAKER_OPEN=0.2,
            SARK_SIEM_BREAKER_OPEN_CAP=1,
            SARK_SIEM_BREAKER_WINDOW=5,
        )
        self._workers.append(worker)
        worker.start()

    def _start_producer(self) -> None:
        producer = Producer(
            self._directory / f"producer-{next(self._numbers)}",
            VALKEY_URL=self.server.url,
            SARK_SIEM_SINKS=f"{MAIN}=stdout:,{COPY}=stdout:",
            SARK_SIEM_MAX_EVENTS=QUEUE_EVENTS,
            SARK_SPILL_DIR=self.spill,
            SARK_KEY_DIR=self._directory / "keys",
        )
        self.producers.append(producer)
        self._appending.append(producer)
        producer.start()

    def _end_processes(self) -> None:
        for each in (*self._workers, *self._appending):
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()


@contextmanager
def open_fault_run(directory: Path, seed: int) -> Iterator[FaultRun]:
    """Start all parts, and end them."""
    with ExitStack() as stack:
        run = FaultRun(directory, seed)
        run.open(stack)
        yield run
