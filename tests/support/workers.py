"""``sark worker`` as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.polling import until_sync
from tests.support.service import CHECKOUT, SARK, environment

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Worker:
    """One worker; its logs are in a directory.

    Args:
        directory: Where to keep them.
        valkey_url: Whose events it forwards.
        sinks: Where to, as ``SARK_SIEM_SINKS``.
        arguments: Of the command.
        variables: Its other settings.
    """

    def __init__(
        self, directory: Path, valkey_url: str, sinks: str, *arguments: str, **variables: object
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "stderr"
        self._command: list[str | Path] = [SARK, "worker", *arguments]
        self._environment = environment(
            VALKEY_URL=valkey_url,
            SARK_SIEM_SINKS=sinks,
            SARK_KEY_DIR=directory / "keys",
            SARK_DATA_DIR=directory / "data",
            SARK_LOG_FORMAT="json",
            **variables,
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the worker was not started"
        return self._process

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Its log lines, without the words at its start and end."""
        lines = self.stderr.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def start(self) -> Self:
        """Start it and wait until it forwards."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=CHECKOUT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until_sync(
            lambda: self.process.poll() is not None or "Ctrl-C stops it" in self.stderr,
            within=START_SECONDS,
            what="the worker forwards",
        )
        assert self.process.poll() is None, f"it ended: {self.stderr}"
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End it at once, if it runs."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
