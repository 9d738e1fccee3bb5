"""Other policies while the service runs: read again on request, and when their files change.

A reload is all or nothing. The policy file and the engine's policies are read and checked first;
only when both are good do they come into force, and until then the running ones decide.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from sark.errors import ConfigurationError, EvaluationError, PolicyError
from sark.events import Hub, PoliciesReloaded, PoliciesRestored, PolicyReloadFailed
from sark.policy.decisions import Decisions
from sark.policy.policy_file import PolicyFile, read_policy_file

__all__ = ["Fingerprint", "PolicyReloader", "PolicyWatcher", "Reloaded", "fingerprint"]

REMEMBERED_REVISIONS = 8

Refresh = Callable[[], Awaitable[None]]
"""Lets the engine read its policies again; what was in force stays so when it raises."""

Fingerprint = tuple[tuple[str, int, int, int], ...]

_log = logging.getLogger("sark.policy.reload")


class Reloaded(msgspec.Struct, frozen=True):
    """What came of a reload.

    Attributes:
        changed: Whether other policies are in force now.
        revision: Of those in force.
    """

    changed: bool
    revision: str


class PolicyReloader:
    """Reads the policies again.

    Args:
        decisions: Who decides by them.
        refresh: Lets the engine read its own again.
        policies: The names that are served.
        path: The policy file, if there is one.
        hub: Where it is reported.

    A reload that finds the running policies again after others had been refused reports that too:
    else the last word on them would be that refusal.

    Attributes:
        earlier: The last revisions that were in force before.
        refused: Why the last reload was refused; empty when it was not.
    """

    def __init__(
        self,
        decisions: Decisions,
        refresh: Refresh,
        *,
        policies: Sequence[str],
        path: Path | None,
        hub: Hub,
    ) -> None:
        self._decisions = decisions
        self._refresh = refresh
        self._policies = tuple(policies)
        self._path = path
        self._hub = hub
        self._lock = asyncio.Lock()
        self.earlier: deque[str] = deque(maxlen=REMEMBERED_REVISIONS)
        self.refused = ""

    async def reload(self) -> Reloaded:
        """Read everything again, and put it in force if all of it is good.

        Raises:
            ConfigurationError: Something does not load, and the running policies stay. The message
                names file, line and reason.
            EvaluationError: The engine could not be asked; likewise.
        """
        async with self._lock:
            before = self._decisions.revision
            try:
                rules = await self._load()
            except (ConfigurationError, EvaluationError) as error:
                self.refused = str(error)
                self._hub.emit(PolicyReloadFailed(self.refused))
                raise
            was_refused, self.refused = bool(self.refused), ""
            self._decisions.cache.rules = rules
            revision = self._decisions.revision
        if revision != before:
            self.earlier.append(before)
            self._hub.emit(PoliciesReloaded(revision))
        elif was_refused:
            self._hub.emit(PoliciesRestored(revision))
        return Reloaded(revision != before, revision)

    async def _load(self) -> PolicyFile:
        try:
            rules = read_policy_file(self._path)
            rules.check(self._policies)
            await self._refresh()
        except OSError as error:
            # A directory that is being replaced, say.
            raise PolicyError(f"{error.filename}: {error.strerror}") from None
        return rules


class PolicyWatcher:
    """Reloads when somebody asks, and when files have changed.

    Args:
        reloader: Does it.
        paths: Files and directories to look at.
        seen: Their fingerprint from before they were first read.
        interval: Seconds between two looks; 0 looks never.
    """

    def __init__(
        self,
        reloader: PolicyReloader,
        paths: Sequence[Path],
        seen: Fingerprint,
        *,
        interval: float,
    ) -> None:
        self._reloader = reloader
        self._paths = tuple(paths)
        self._seen: Fingerprint | None = seen
        self._interval = interval or None
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Ask for a reload soon; what comes of it is reported as an event."""
        self._requested.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            requested = await self._wait()
            # Taken before the files are read: what changes meanwhile is seen the next time.
            found = await asyncio.to_thread(fingerprint, self._paths)
            if requested or found != self._seen:
                await self._reload(found)

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(self._interval):
                await self._requested.wait()
        except TimeoutError:
            return False
        self._requested.clear()
        return True

    async def _reload(self, found: Fingerprint) -> None:
        self._seen = found
        try:
            await self._reloader.reload()
        except ConfigurationError:
            return  # half-written, perhaps: tried again when the files change again
        except EvaluationError:
            self._seen = None  # the engine was away; the files needn't change for another try
        except Exception:  # noqa: BLE001 - a bug must not end the watch; the running ones stay
            _log.exception("reloading policies failed")


def fingerprint(paths: Sequence[Path]) -> Fingerprint:
    """Sum up names, times and sizes of files, without reading them.

    Inodes count too, so that a directory that was replaced as a whole shows, as mounted
    configuration is. Files whose name begins with a dot are left out, as when policies are read.
    """
    return tuple(entry for path in paths for entry in _entries(path))


def _entries(path: Path) -> list[tuple[str, int, int, int]]:
    found = [_entry(str(path))]
    for root, directories, files in os.walk(path):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        found += [_entry(os.path.join(root, name)) for name in names]  # noqa: PTH118 - many
    return found


def _entry(path: str) -> tuple[str, int, int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - likewise
    except OSError:
        return path, 0, -1, 0
    return path, status.st_mtime_ns, status.st_size, status.st_ino
