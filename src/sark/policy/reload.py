"""Other policies while the service runs.

A reload is all or nothing. The policy file and the engine's policies are read and checked first;
only when both are good do they come into force, and until then the running ones decide.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from sark.errors import ConfigurationError, EvaluationError, PolicyError
from sark.events import Hub, PoliciesReloaded, PoliciesRestored, PolicyReloadFailed
from sark.policy.decisions import Decisions
from sark.policy.policy_file import PolicyFile, read_policy_file

__all__ = ["PolicyReloader", "Reloaded"]

REMEMBERED_REVISIONS = 8

Refresh = Callable[[], Awaitable[None]]
"""Lets the engine read its policies again; what was in force stays so when it raises."""


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
