"""Processes that append audit events, and what they say was acknowledged."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.polling import until_sync
from tests.support.service import CHECKOUT, environment

__all__ = ["Producer"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Producer:
    """One process; see ``audit_producer``.

    Args:
        directory: Where to keep its files.
        variables: Its settings.
    """

    def __init__(self, directory: Path, **variables: object) -> None:
        directory.mkdir(parents=True)
        self._ledger = directory / "acknowledged"
        self._log = directory / "log"
        self._environment = environment(SARK_DATA_DIR=directory / "data", **variables)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the producer was not started"
        return self._process

    @property
    def acknowledged(self) -> list[str]:
        """Ids of the events that were acknowledged, in that order."""
        return [line for line in self._lines() if line != "-"]

    @property
    def refused(self) -> int:
        """How many were refused."""
        return self._lines().count("-")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> Self:
        """Start it and wait until it appends."""
        program = [sys.executable, "-m", "tests.support.audit_producer"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*program, self._ledger],
                cwd=CHECKOUT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until_sync(
            lambda: self.process.poll() is not None or "appending" in self.log,
            within=START_SECONDS,
            what="the producer appends",
        )
        assert self.process.poll() is None, f"it ended: {self.log}"
        return self

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it in order: its callers get their answers, what it has spilled stays on disk."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_SECONDS)
        assert code == 0, f"it ended with {code}: {self.log}"

    def _lines(self) -> list[str]:
        if not self._ledger.exists():
            return []
        # A line is one write, so that a killed process leaves none unfinished.
        return self._ledger.read_text().splitlines()
