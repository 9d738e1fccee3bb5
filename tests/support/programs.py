"""Programs that tests run beside themselves: each on free ports, with its files in one place."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.polling import until_sync
from tests.support.servers import free_port

READY_SECONDS = 30.0
STOP_SECONDS = 10.0
START_ATTEMPTS = 5


class Program(ABC):
    """One process that serves on ports of 127.0.0.1; ``with`` starts and ends it.

    Args:
        ports: How many ports it needs; they stay the same through restarts.

    Attributes:
        host: Where it listens.
        ports: Its ports, once started.
        directory: Its files; ``output`` and ``log`` in it are its standard streams.
    """

    def __init__(self, *, ports: int = 1) -> None:
        self.host = "127.0.0.1"
        self.ports: list[int] = []
        self.directory = Path(tempfile.mkdtemp(prefix="sark-test-"))
        self._wanted = ports
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Write the files that it needs, and give the command that serves on ``ports``."""

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def pid(self) -> int:
        assert self._process is not None, "the program was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> Path:
        return self.directory / "output"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> Self:
        """Start it, on the ports that it had before if there were any, and wait until it listens.

        Raises:
            AssertionError: It ended instead, or did not listen in time.
        """
        assert not self.running, "the program runs already"
        if self.ports:
            assert self._launch(), f"did not start:\n{self.log}"
            return self
        for _ in range(START_ATTEMPTS):
            # Another process may take a port between its choice and the program's bind.
            self.ports = [free_port() for _ in range(self._wanted)]
            if self._launch():
                return self
        raise AssertionError(f"did not start:\n{self.log}")

    def stop(self) -> None:
        """End it in order, by SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        self._end(signal.SIGKILL)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hang for the duration of a block: connections are accepted, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it if it runs, and remove its files."""
        try:
            self.kill()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _launch(self) -> bool:
        """Start the process; tell whether it listens on every port, or has ended instead."""
        command = self.command()
        with (self.directory / "log").open("ab") as log, self.output.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=output, stderr=log
            )
        until_sync(
            lambda: not self.running or all(map(self._listens, self.ports)),
            within=READY_SECONDS,
            what=f"{Path(command[0]).name} listens on {self.ports}",
        )
        return self.running

    def _listens(self, port: int) -> bool:
        try:
            socket.create_connection((self.host, port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # a paused process cannot act on SIGTERM
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the program ignored {number.name}") from None
