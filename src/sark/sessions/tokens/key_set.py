"""The signing keys of a deployment and their life: next, active, retired, gone.

Verifiers elsewhere cache the published keys for ``JWKS_MAX_AGE_SECONDS``. So a key is published
before it signs, as *next*, and stays published after it has signed, as *retired*, until the last
token that it signed has expired. A rotation makes the next key active, the active one retired, and
adds a new next one: at no moment does anybody meet a token whose key was not published in time.

Everything here is decided without I/O; ``key_file`` reads and writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sark.errors import ConfigurationError
from sark.sessions.tokens.keys import Algorithm, SigningKey

__all__ = ["JWKS_MAX_AGE_SECONDS", "KeyRecord", "KeySet", "KeyState"]

JWKS_MAX_AGE_SECONDS = 300
PUBLISHED_SECONDS = 2 * JWKS_MAX_AGE_SECONDS
"""How long a key must have been published before it signs: a cache may be refreshed late once."""

RETIREMENT_SLACK_SECONDS = 60
"""For processes that sign with the former key until they notice, and for clocks that differ."""

KeyState = Literal["active", "next", "retired"]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key and where it is in its life.

    Attributes:
        key: The key.
        state: Whether it signs (``active``), will sign (``next``) or has signed (``retired``).
        created_at: Unix time.
        activated_at: Unix time since which it signs; None before.
        retired_at: Unix time since which it only verifies; None before.
    """

    key: SigningKey
    state: KeyState
    created_at: int
    activated_at: int | None = None
    retired_at: int | None = None

    def verifies_until(self, retention: int) -> float:
        """Unix time after which nothing that it signed is valid; infinite while it may sign."""
        return float("inf") if self.retired_at is None else self.retired_at + retention


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys at one moment; exactly one is active and at most one is next.

    Attributes:
        records: In the order of publication: active, next, then retired ones, latest first.
    """

    records: tuple[KeyRecord, ...]

    @property
    def active(self) -> KeyRecord:
        """The one that signs."""
        return next(record for record in self.records if record.state == "active")

    @property
    def upcoming(self) -> KeyRecord | None:
        """The one that will sign."""
        return next((record for record in self.records if record.state == "next"), None)

    @property
    def states(self) -> list[tuple[str, KeyState]]:
        """The kid and the state of each: all that can change from one moment to another."""
        return [(record.key.kid, record.state) for record in self.records]

    @classmethod
    def first(cls, algorithm: Algorithm, now: int) -> KeySet:
        """Make the keys of a new deployment: one to sign, one to follow it."""
        active = KeyRecord(SigningKey.generate(algorithm), "active", now, activated_at=now)
        return cls((active, _next(algorithm, now)))

    def current(self, now: float, retention: int) -> KeySet:
        """Leave out what verifies nothing any more."""
        return KeySet(tuple(r for r in self.records if r.verifies_until(retention) > now))

    def with_next(self, algorithm: Algorithm, now: int) -> KeySet:
        """Publish another next key; one that waited has signed nothing and is dropped."""
        retired = [record for record in self.records if record.state == "retired"]
        return KeySet((self.active, _next(algorithm, now), *retired))

    def rotated(
        self, algorithm: Algorithm, now: int, retention: int, *, hurry: bool = False
    ) -> KeySet:
        """Let the next key sign, retire the active one, and publish a new next one.

        Args:
            algorithm: Of the new next key.
            now: Unix time.
            retention: Seconds for which a retired key is kept.
            hurry: Do so although some verifiers may not have the next key yet.

        Raises:
            ConfigurationError: The next key has not been published for long enough.
        """
        upcoming = self.upcoming
        if upcoming is None:
            raise ConfigurationError("there is no next key: make one with `sark keys generate`")
        age = now - upcoming.created_at
        if age < PUBLISHED_SECONDS and not hurry:
            raise ConfigurationError(
                f"the next key has been published for {max(0, age)} s, expected "
                f"{PUBLISHED_SECONDS} s so that whoever caches the keys has it; wait, or --now"
            )
        retired = replace(self.active, state="retired", retired_at=now)
        active = replace(upcoming, state="active", activated_at=now)
        earlier = [r for r in self.current(now, retention).records if r.state == "retired"]
        return KeySet((active, _next(algorithm, now), retired, *earlier))


def _next(algorithm: Algorithm, now: int) -> KeyRecord:
    return KeyRecord(SigningKey.generate(algorithm), "next", now)
