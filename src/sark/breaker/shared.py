"""One breaker's shared state: each call here is one script, so one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import random
from typing import Any, Literal, NamedTuple

import msgspec

from sark.breaker.config import BUCKETS, BreakerConfig, Outcome
from sark.breaker.state import View
from sark.breaker.tally import Tally
from sark.errors import StoreCommandError
from sark.store import Argument, Store, load_script

__all__ = [
    "MOST_ENDED",
    "RULE_FRAGMENTS",
    "Ended",
    "Results",
    "SharedState",
    "config_arguments",
    "view_of",
]

MOST_REASON_CHARACTERS = 200
MOST_ENDED = 100

_PACKAGE = "sark.breaker"
RULE_FRAGMENTS = ((_PACKAGE, "rules.lua"), (_PACKAGE, "keys.lua"))
_FRAGMENTS = (("sark.store", "clock.lua"), *RULE_FRAGMENTS)
_ADMIT = load_script("breaker.admit", *_FRAGMENTS, (_PACKAGE, "admit.lua"))
_SYNC = load_script("breaker.sync", *_FRAGMENTS, (_PACKAGE, "sync.lua"))
_FORCE = load_script("breaker.force", *_FRAGMENTS, (_PACKAGE, "force.lua"))


class Ended(NamedTuple):
    """How a probe ended.

    Attributes:
        token: Which.
        outcome: How.
        reason: Why it failed, without secrets.
    """

    token: int
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """What one process has to tell.

    Attributes:
        period: In which the counted calls were admitted.
        tally: What became of them.
        reason: Why the last of them failed, without secrets.
        ended: The probes that have ended, at most ``MOST_ENDED``.
    """

    period: int
    tally: Tally
    reason: str = ""
    ended: Sequence[Ended] = ()

    def arguments(self) -> list[Argument]:
        """List them as the script takes them."""
        t = self.tally
        counts = (t.calls, t.failures, t.slow, t.leading, t.longest, t.trailing)
        listed: list[Argument] = [self.period, *counts, _short(self.reason)]
        for token, outcome, reason in self.ended:
            listed += (token, outcome, _short(reason))
        return listed


class SharedState:
    """The state of one breaker in Valkey. All methods may raise ``StoreError``.

    Args:
        store: Where it is.
        name: Which breaker.
        config: Its rules.
    """

    def __init__(self, store: Store, name: str, config: BreakerConfig) -> None:
        self._store = store
        keys = store.keys
        self._keys = (
            keys.breaker_state(name),
            keys.breaker_failure_count(name),
            keys.breaker_last_failure(name),
            keys.breaker_details(name),
        )
        self._name = name
        self._config = config_arguments(config)

    async def admit(self, *, deadline: float) -> tuple[int, View]:
        """Ask for a call to be admitted; see ``rules.admit``."""
        reply = await self._store.state.run(
            _ADMIT, self._keys, [*self._config, 0], deadline=deadline
        )
        granted, shown = reply.value
        return int(granted), view_of(shown)

    async def sync(self, results: Results, *, deadline: float) -> View:
        """Bring results and take the state.

        What is counted may be lost with the connection, and is not sent again: counted twice it
        would open the breaker too early.
        """
        arguments = [*self._config, random(), *results.arguments()]  # noqa: S311 - jitter
        reply = await self._store.state.run(_SYNC, self._keys, arguments, deadline=deadline)
        return view_of(reply.value)

    async def is_still(self, seen: View, *, deadline: float) -> bool:
        """Tell whether nothing has happened since a view, with plain commands.

        They cost the server a tenth of a script, which is what most of the questions of an idle
        process need. Probes and what is held for a time change without leaving a trace in what is
        read here.
        """
        state, count, _, details = self._keys
        commands = [("GET", state), ("GET", count), ("HGET", details, "period")]
        replies, _ = await self._store.state.exchange(commands, deadline=deadline, idempotent=True)
        expected = (seen.state, str(seen.failures), str(seen.period))
        return replies == [text.encode() for text in expected]

    async def look(self, *, deadline: float | None = None) -> View:
        """Take the state."""
        arguments = [*self._config, 0, *Results(0, Tally()).arguments()]
        reply = await self._store.state.run(
            _SYNC, self._keys, arguments, deadline=deadline, idempotent=True
        )
        return view_of(reply.value)

    async def force(
        self,
        what: Literal["open", "closed", "reset"],
        seconds: float = 0.0,
        *,
        deadline: float | None = None,
    ) -> View:
        """Put it into a state by hand.

        Args:
            what: ``open`` or ``closed`` hold it there; ``reset`` closes it and forgets.
            seconds: How long it is held; 0: until somebody changes it.
            deadline: As in ``Server.execute``.
        """
        arguments = [*self._config, 0, what, round(seconds * 1_000_000)]
        reply = await self._store.state.run(
            _FORCE, self._keys, arguments, deadline=deadline, idempotent=True
        )
        return view_of(reply.value)

    async def enlist(self, *, deadline: float) -> None:
        """Put its name on the list of those that are in use."""
        names = self._store.keys.breaker_names
        await self._store.state.execute(
            "SADD", names, self._name, deadline=deadline, idempotent=True
        )


def config_arguments(config: BreakerConfig) -> list[Argument]:
    """List the rules as ``keys.lua`` takes them, but for the jitter, which comes last."""
    micros = (config.open_seconds, config.open_cap, config.probe_lease)
    open_us, cap_us, lease_us = (round(seconds * 1_000_000) for seconds in micros)
    return [
        config.failures,
        config.failure_rate,
        config.slow_rate,
        config.bucket_us,
        BUCKETS,
        config.minimum_calls,
        open_us,
        cap_us,
        config.probes,
        config.successes_to_close,
        lease_us,
    ]


def view_of(shown: Sequence[Any]) -> View:
    """Read a script's reply.

    Raises:
        StoreCommandError: The keys hold what no version of ours has written.
    """
    texts = [f.decode("utf-8", "replace") if isinstance(f, bytes) else f for f in shown]
    try:
        return msgspec.convert(texts, View)
    except msgspec.ValidationError as error:
        raise StoreCommandError(f"the breaker's keys are damaged: {error}") from None


def _short(reason: str) -> bytes:
    # A reason may come from anywhere; what cannot be encoded must not stop the others.
    return reason[:MOST_REASON_CHARACTERS].encode("utf-8", "replace")
