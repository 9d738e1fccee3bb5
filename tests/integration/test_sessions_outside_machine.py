"""Any interleaving of outside tokens, revocations and time in two processes, against a model."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from sark.sessions import SessionRules
from tests.support.gateways import open_store
from tests.support.servers import ValkeyServer
from tests.support.sessions import (
    SignedTokens,
    code_of,
    frozen_clock,
    outside_token,
    sessions_on,
)

LIFETIME, IDLE, SEEN_EVERY = 100, 40, 5
PLACES = st.integers(0, 1)
NAMES = st.sampled_from(["idp-1", "idp-2"])


@dataclass
class Expected:
    """What the model knows of a provider's session; times in seconds."""

    created: float
    seen: float
    ended_by_somebody: bool = False

    @property
    def ends(self) -> float:
        return min(self.created + LIFETIME, self.seen + IDLE)

    def alive(self, now: float) -> bool:
        return not self.ended_by_somebody and now < self.ends


@dataclass(frozen=True)
class Token:
    """A token as its provider issued it."""

    name: str
    text: str
    issued: float
    expires: float


class OutsideInterleavings(RuleBasedStateMachine):
    """Two processes with memories of their own beside the model."""

    server: ClassVar[ValkeyServer]
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = self.server.client()
        self.client.flushall()
        self.known: dict[str, Expected] = {}
        self.revoked: set[str] = set()
        self.not_before = 0.0
        self.issued = 0
        self.loop = asyncio.Runner()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(frozen_clock(self.server))
        self.opened = AsyncExitStack()
        store = self.loop.run(self.opened.enter_async_context(open_store(self.server.url)))
        rules = SessionRules(
            lifetime=LIFETIME, idle=IDLE, seen_every=SEEN_EVERY, adopt=True, leeway=0
        )
        verifier = SignedTokens(self.clock.now)
        self.places = [sessions_on(store, rules, tokens=verifier) for _ in range(2)]

    @rule(target=tokens, name=NAMES, life=st.sampled_from([30, LIFETIME]))
    def issue(self, name: str, life: int) -> Token:
        self.issued += 1
        now = self.clock.now()
        text = outside_token("alice", name, f"t-{self.issued}", at=now, life=life)
        return Token(name, text, now, now + life)

    @rule(token=tokens, place=PLACES)
    def use(self, token: Token, place: int) -> None:
        now, session = self.clock.now(), self.known.get(token.name)
        code = self.loop.run(code_of(self.places[place].authenticate(token.text)))
        if token.expires <= now:
            assert code == "expired"
        elif token.text in self.revoked:
            assert code in {"revoked", "ended"}
        elif session is not None and session.alive(now):
            assert code == "ok"
            if now - session.seen >= SEEN_EVERY:
                session.seen = now
        elif self.refused_for_good(session) or token.issued <= self.last_end(session):
            assert code == "ended"
        else:
            assert code == "ok"
            self.known[token.name] = Expected(now, now)

    @staticmethod
    def refused_for_good(session: Expected | None) -> bool:
        return session is not None and session.ended_by_somebody

    def last_end(self, session: Expected | None) -> float:
        return max(self.not_before, session.ends if session is not None else 0)

    @rule(token=tokens, place=PLACES)
    def revoke_token(self, token: Token, place: int) -> None:
        async def revoke() -> None:
            claims = await SignedTokens(lambda: 0).verify(token.text)
            await self.places[place].revoke_token(claims)

        self.loop.run(revoke())
        self.revoked.add(token.text)

    @rule(name=NAMES, place=PLACES)
    def revoke(self, name: str, place: int) -> None:
        self.loop.run(self.places[place].revoke("alice", name))
        if name in self.known:
            self.known[name].ended_by_somebody = True

    @rule(place=PLACES)
    def revoke_user(self, place: int) -> None:
        self.loop.run(self.places[place].revoke_user("alice"))
        self.loop.run(self.places[place].sweep())
        self.not_before = self.clock.now()
        for session in self.known.values():
            if session.alive(self.not_before):
                session.ended_by_somebody = True

    @rule(seconds=st.sampled_from([1, 4, 5, 29, 30, 39, 40, 41, 99, 100]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def listed_are_those_alive(self) -> None:
        now = self.clock.now()
        listed = {each.session_id for each in self.loop.run(self.places[0].list("alice"))}
        assert listed == {name for name, session in self.known.items() if session.alive(now)}

    def teardown(self) -> None:
        self.loop.run(self.opened.aclose())
        self.loop.close()
        self.stack.close()
        self.client.flushall()
        self.client.close()


def test_any_interleaving_of_outside_tokens(server: ValkeyServer) -> None:
    OutsideInterleavings.server = server
    run_state_machine_as_test(
        OutsideInterleavings,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
