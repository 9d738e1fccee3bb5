"""The parts of the audit path, all of them real and in processes of their own.

Producers append to Valkey and spill to one folder; workers forward to a Splunk collector behind
Envoy, and to a file. Everything that could take long to heal is short here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.envoy import Envoy
from tests.support.producers import Producer
from tests.support.receivers import HEC_TOKEN, hec_receiver
from tests.support.servers import ValkeyServer
from tests.support.workers import Worker

__all__ = [
    "BATCH_EVENTS",
    "COPY",
    "LEASE_SECONDS",
    "MAIN",
    "PRODUCERS",
    "QUEUE_EVENTS",
    "SENT_AT_ONCE",
    "WORKERS",
    "Parts",
    "open_parts",
]

MAIN, COPY = "main", "copy"
WORKERS = PRODUCERS = 3
LEASE_SECONDS = 2
QUEUE_EVENTS = 10_000
SPILL_BYTES = 4 * 2**20
"""In each process; more than that is refused."""
BATCH_EVENTS = 200
BATCHES_AT_ONCE = 2
SENT_AT_ONCE = WORKERS * BATCHES_AT_ONCE * BATCH_EVENTS
"""Events that may be on their way to a receiver at one moment."""
REQUEST_BYTES = 50_000
"""Above it the collector answers 413: full batches are a little larger."""
PROXY_SECONDS = 1.5

FORWARDING = {
    "SARK_SIEM_MAIN_TOKEN": HEC_TOKEN,
    "SARK_SIEM_LEASE": LEASE_SECONDS,
    "SARK_SIEM_BATCH_EVENTS": BATCH_EVENTS,
    "SARK_SIEM_BATCH_AGE_MS": 50,
    "SARK_SIEM_CONCURRENCY": BATCHES_AT_ONCE,
    "SARK_SIEM_TIMEOUT": 2,
    "SARK_SIEM_RETRY_CAP": 1,
    "SARK_SIEM_BREAKER_OPEN": 0.2,
    "SARK_SIEM_BREAKER_OPEN_CAP": 1,
    "SARK_SIEM_BREAKER_WINDOW": 5,
    "SARK_SIEM_GZIP": "false",  # so that the collector's limit is one of the batch
}


class Parts:
    """See the module's description.

    Args:
        directory: Where to keep their files.
        fsync: When Valkey syncs its append-only file.

    Attributes:
        server: The Valkey server.
        receiver: The Splunk collector.
        proxy: What stands before it.
        proxy_turn: Held by whoever does something to the proxy.
        file: The other receiver; what it was renamed to begins with its name.
        spill: The folder of the spill files.
        workers: Those that run now.
        appending: The producers that run now.
        producers: Those that ever ran.
    """

    def __init__(self, directory: Path, fsync: str) -> None:
        self.server = ValkeyServer({"appendonly": "yes", "appendfsync": fsync})
        self.receiver = hec_receiver(max_request_size=REQUEST_BYTES)
        self.file = directory / "copy.jsonl"
        self.spill = directory / "spill"
        self.workers: list[Worker] = []
        self.appending: list[Producer] = []
        self.producers: list[Producer] = []
        self._directory = directory
        self._numbers = itertools.count()
        self.proxy_turn = asyncio.Lock()
        self.proxy: Envoy

    def open(self, stack: ExitStack) -> None:
        """Start all parts, to be ended with the stack."""
        stack.enter_context(self.server)
        stack.enter_context(self.receiver)
        self.proxy = stack.enter_context(Envoy(self.receiver.port, timeout=PROXY_SECONDS))
        stack.callback(self._end_processes)
        for _ in range(PRODUCERS):
            self.appending.append(self.start_producer())
        for _ in range(WORKERS):
            self.workers.append(self.start_worker())

    def start_worker(self) -> Worker:
        """Start a worker; returns it when it forwards."""
        sinks = (
            f"{MAIN}=splunk+http://127.0.0.1:{self.proxy.port}?format=sark",
            f"{COPY}=file://{self.file}?format=sark",
        )
        worker = Worker(
            self._directory / f"worker-{next(self._numbers)}",
            self.server.url,
            ",".join(sinks),
            SARK_SIEM_MAX_EVENTS=QUEUE_EVENTS,
            **FORWARDING,
        )
        return worker.start()

    def start_producer(self) -> Producer:
        """Start a producer; returns it when it appends."""
        producer = Producer(
            self._directory / f"producer-{next(self._numbers)}",
            VALKEY_URL=self.server.url,
            # Only the names matter to it.
            SARK_SIEM_SINKS=f"{MAIN}=stdout:,{COPY}=stdout:",
            SARK_SIEM_MAX_EVENTS=QUEUE_EVENTS,
            SARK_SPILL_DIR=self.spill,
            SARK_SPILL_MAX_BYTES=SPILL_BYTES,
        )
        self.producers.append(producer)
        return producer.start()

    def rename_file(self) -> None:
        """Let the file receive under its name anew, as rotation does."""
        if self.file.exists():
            self.file.rename(f"{self.file}.{next(self._numbers)}")

    @property
    def received(self) -> dict[str, list[bytes]]:
        """The lines that each sink's receiver has written; some may be torn."""
        files = sorted(self.file.parent.glob(f"{self.file.name}*"))
        lines = itertools.chain.from_iterable(file.read_bytes().splitlines() for file in files)
        return {MAIN: self.receiver.output.read_bytes().splitlines(), COPY: [*lines]}

    @property
    def acknowledged(self) -> set[str]:
        """Ids of the events that were acknowledged to a producer."""
        return {event for each in self.producers for event in each.acknowledged}

    def _end_processes(self) -> None:
        for worker in self.workers:
            worker.kill()
        for producer in self.producers:
            producer.kill()


@contextmanager
def open_parts(directory: Path, fsync: str) -> Iterator[Parts]:
    """Start all parts, and end them."""
    with ExitStack() as stack:
        parts = Parts(directory, fsync)
        parts.open(stack)
        yield parts
