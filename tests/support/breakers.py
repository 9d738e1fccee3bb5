"""The breaker's scripts with a clock that a test sets, and breakers on a test's server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import valkey

from sark.breaker import Breaker, BreakerConfig, Outcome
from sark.breaker.shared import RULE_FRAGMENTS, Ended, Results, config_arguments, view_of
from sark.breaker.state import View
from sark.breaker.tally import Tally
from sark.events import BreakerChanged, Hub
from sark.keyspace import Keyspace
from sark.store import load_script
from tests.support.gateways import open_store
from tests.support.servers import ValkeyServer

SECOND = 1_000_000
START = 4_000_000_000 * SECOND
_CLOCK = "local function now_us() return tonumber(server.call('GET', 'test:clock')) end\n"


def tally_of(results: str) -> Tally:
    """Count results: ``.`` succeeded, ``x`` failed, ``s`` was slow."""
    tally = Tally()
    for result in results:
        tally.add(failed=result == "x", slow=result == "s")
    return tally


class Clocked:
    """One breaker on the server, at times that the test chooses."""

    def __init__(self, client: valkey.Valkey, name: str, config: BreakerConfig) -> None:
        self.client = client
        keys = Keyspace()
        self.keys = [
            keys.breaker_state(name),
            keys.breaker_failure_count(name),
            keys.breaker_last_failure(name),
            keys.breaker_details(name),
        ]
        self._config = config_arguments(config)
        self._scripts: dict[str, Any] = {
            body: client.script_load(
                _CLOCK + load_script("", *RULE_FRAGMENTS, ("sark.breaker", body)).text
            )
            for body in ("admit.lua", "sync.lua", "force.lua")
        }

    def admit(self, now: int) -> tuple[int, View]:
        granted, seen = self._run("admit.lua", now, 0.0, [])
        return granted, view_of(seen)

    def report(self, now: int, period: int, results: str, reason: str, jitter: float) -> View:
        arguments = Results(period, tally_of(results), reason).arguments()
        return view_of(self._run("sync.lua", now, jitter, arguments))

    def conclude(self, now: int, token: int, outcome: Outcome, reason: str, jitter: float) -> View:
        ended = [Ended(token, outcome, reason)]
        arguments = Results(0, Tally(), ended=ended).arguments()
        return view_of(self._run("sync.lua", now, jitter, arguments))

    def force(self, now: int, what: Literal["open", "closed", "reset"], span: int) -> View:
        return view_of(self._run("force.lua", now, 0.0, [what, span]))

    def _run(self, script: str, now: int, jitter: float, arguments: list[Any]) -> Any:
        self.client.set("test:clock", now, ex=600)
        given = [*self._config, jitter, *arguments]
        return self.client.evalsha(self._scripts[script], len(self.keys), *self.keys, *given)


class Changes(list[BreakerChanged]):
    """What a breaker told, in order."""

    @property
    def modes(self) -> list[str]:
        return [event.state if event.shared else f"{event.state} alone" for event in self]


@asynccontextmanager
async def breaker_at(url: str, config: BreakerConfig) -> AsyncIterator[Breaker]:
    """Run a breaker in a process that has nothing else."""
    async with open_store(url) as store:
        breaker = Breaker(store, "billing", config)
        async with breaker.running():
            yield breaker


@asynccontextmanager
async def open_breaker(
    server: ValkeyServer, name: str = "billing", hub: Hub | None = None, **config: Any
) -> AsyncIterator[tuple[Breaker, Changes]]:
    """Run a breaker as a process of its own would."""
    changes = Changes()
    async with open_store(server.url, hub=hub) as store:
        breaker = Breaker(store, name, BreakerConfig(**config), on_change=changes.append)
        async with breaker.running():
            yield breaker, changes
