"""Other rules of limits while the service runs; broken ones are refused, the running ones stay."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sark.errors import ConfigurationError
from sark.events import Hub, LimitsReloaded, LimitsReloadFailed
from sark.ratelimit.limit import Limit
from sark.ratelimit.limits import RateLimiter
from sark.ratelimit.rules_file import read_rules

__all__ = ["LimitsReloader", "ReloadedLimits"]


class ReloadedLimits(msgspec.Struct, frozen=True):
    """What came of a reload.

    Attributes:
        changed: Whether other rules are in force now.
        revision: Of those in force.
    """

    changed: bool
    revision: str


class LimitsReloader:
    """Reads the limits file again.

    Args:
        limiter: Who limits by it.
        path: The file, if there is one.
        default: The limit of each identity that no rule decides.
        hub: Where it is reported.
    """

    def __init__(
        self, limiter: RateLimiter, path: Path | None, default: Limit | None, *, hub: Hub
    ) -> None:
        self._limiter = limiter
        self._path = path
        self._default = default
        self._hub = hub

    async def reload(self) -> ReloadedLimits:
        """Read the file again, and put it in force if it is good.

        Raises:
            ConfigurationError: It is not, and the running rules stay. The message names file, line
                and reason.
        """
        before = self._limiter.rules.revision
        try:
            rules = read_rules(self._path, self._default)
        except ConfigurationError as error:
            self._limiter.refused_rules = str(error)
            self._hub.emit(LimitsReloadFailed(str(error)))
            raise
        self._limiter.refused_rules = ""
        changed = rules.revision != before
        if changed:
            # What is counted stays: it stands under the names of its rules.
            self._limiter.rules = rules
            self._hub.emit(LimitsReloaded(rules.revision))
        return ReloadedLimits(changed, rules.revision)
