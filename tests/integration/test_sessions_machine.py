"""Any interleaving of logins, checks, refreshes, reuse, revocations and time, against a model."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from sark.sessions import Grant, SessionRules
from sark.settings import SessionCapPolicy
from tests.support.gateways import open_store
from tests.support.servers import ValkeyServer
from tests.support.sessions import SignedTokens, code_of, frozen_clock, log_in, sessions_on

USERS = st.sampled_from(["alice", "b:{o}*b é"])
LIFETIME, IDLE, ACCESS, GRACE, SEEN_EVERY, CAP = 100, 40, 20, 10, 5, 3


@dataclass
class Expected:
    """What the model knows of one session; times in seconds."""

    user_id: str
    session_id: str
    created: float
    seen: float
    grants: list[Grant]
    traded: list[float] = field(default_factory=list)
    ended: bool = False
    refused_tokens: set[int] = field(default_factory=set)

    @property
    def ends(self) -> float:
        return min(self.created + LIFETIME, self.seen + IDLE)

    def alive(self, now: float) -> bool:
        return not self.ended and self.ends > now


class Interleavings(RuleBasedStateMachine):
    """Real sessions beside the model, by a clock that stands still between the steps."""

    server: ClassVar[ValkeyServer]
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = self.server.client()
        self.client.flushall()
        self.known: list[Expected] = []
        self.loop = asyncio.Runner()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(frozen_clock(self.server))
        self.opened = AsyncExitStack()
        self.store = self.loop.run(self.opened.enter_async_context(open_store(self.server.url)))

    @initialize(at_cap=st.sampled_from(["refuse", "end_oldest"]))
    def begin(self, at_cap: SessionCapPolicy) -> None:
        self.at_cap = at_cap
        rules = SessionRules(
            lifetime=LIFETIME,
            idle=IDLE,
            access=ACCESS,
            grace=GRACE,
            seen_every=SEEN_EVERY,
            cap=CAP,
            at_cap=at_cap,
        )
        self.real = sessions_on(self.store, rules, tokens=SignedTokens(self.clock.now))

    def alive(self, user_id: str) -> list[Expected]:
        now = self.clock.now()
        return [each for each in self.known if each.user_id == user_id and each.alive(now)]

    def code(self, call: Any) -> str:
        return self.loop.run(code_of(call))

    @rule(target=sessions, user_id=USERS)
    def create(self, user_id: str) -> Expected | None:
        alive = self.alive(user_id)
        if len(alive) >= CAP and self.at_cap == "refuse":
            assert self.code(log_in(self.real, user_id)) == "cap"
            return None
        if len(alive) >= CAP:
            min(alive, key=lambda each: (each.ends, each.session_id)).ended = True
        grant = self.loop.run(log_in(self.real, user_id))
        now = self.clock.now()
        made = Expected(user_id, grant.session_id, now, now, [grant])
        self.known.append(made)
        return made

    @rule(session=sessions, back=st.integers(0, 6))
    def check(self, session: Expected | None, back: int) -> None:
        if session is None:
            return
        which = max(0, len(session.grants) - 1 - back)
        grant, now = session.grants[which], self.clock.now()
        code = self.code(self.real.authenticate(grant.access_token))
        if self.issued(grant) + grant.expires_in <= now:
            assert code == "expired"
        elif not session.alive(now):
            assert code == "ended"
        elif which in session.refused_tokens or which < len(session.grants) - 5:
            assert code == "revoked"
        else:
            assert code == "ok"
            self.use(session)

    def issued(self, grant: Grant) -> float:
        return self.loop.run(self.no_expiry.verify(grant.access_token)).issued_at

    @property
    def no_expiry(self) -> SignedTokens:
        return SignedTokens(lambda: 0)

    def use(self, session: Expected) -> None:
        if self.clock.now() - session.seen >= SEEN_EVERY:
            session.seen = self.clock.now()

    @rule(session=sessions)
    def touch(self, session: Expected | None) -> None:
        if session is None:
            return
        code = self.code(self.real.touch(session.user_id, session.session_id))
        assert code == ("ok" if session.alive(self.clock.now()) else "ended")
        if code == "ok":
            self.use(session)

    @rule(session=sessions, back=st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5]))
    def refresh(self, session: Expected | None, back: int) -> None:
        if session is None:
            return
        now, current = self.clock.now(), len(session.grants) - 1
        presented = max(0, current - back)
        token = session.grants[presented].refresh_token
        if not session.alive(now):
            assert self.code(self.real.refresh(token)) == "ended"
        elif presented == current:
            session.grants.append(self.loop.run(self.real.refresh(token)))
            session.seen = now
            session.traded.append(now)
        elif now - session.traded[presented] < GRACE and presented >= current - 4:
            again, latest = self.loop.run(self.real.refresh(token)), session.grants[current]
            left = self.issued(latest) + latest.expires_in - now
            assert again == msgspec.structs.replace(latest, expires_in=left)
        else:
            assert self.code(self.real.refresh(token)) == "refresh_reused"
            session.ended = True

    @rule(session=sessions)
    def revoke(self, session: Expected | None) -> None:
        if session is None:
            return
        ended = self.loop.run(self.real.revoke(session.user_id, session.session_id)).ended
        assert ended == ((session.session_id,) if session.alive(self.clock.now()) else ())
        session.ended = True

    @rule(session=sessions)
    def revoke_all_but_one(self, session: Expected | None) -> None:
        if session is None:
            return
        others = [each for each in self.alive(session.user_id) if each is not session]
        kept = session.session_id
        done = self.loop.run(self.real.revoke_user(session.user_id, except_session=kept))
        assert set(done.ended) == {each.session_id for each in others}
        for each in others:
            each.ended = True

    @rule(user_id=USERS)
    def revoke_user(self, user_id: str) -> None:
        alive = self.alive(user_id)
        ended = self.loop.run(self.real.revoke_user(user_id)).ended
        assert set(ended) == {each.session_id for each in alive}
        for each in alive:
            each.ended = True

    @rule(session=sessions)
    def revoke_token(self, session: Expected | None) -> None:
        if session is None:
            return
        claims = self.loop.run(self.no_expiry.verify(session.grants[-1].access_token))
        self.loop.run(self.real.revoke_token(claims))
        session.refused_tokens.add(len(session.grants) - 1)

    @rule(seconds=st.sampled_from([1, 4, 5, 9, 10, 19, 20, 39, 40, 99, 100]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.loop.run(self.real.sweep())

    @invariant()
    def listed_are_those_alive(self) -> None:
        if not hasattr(self, "real"):
            return
        for user_id in ("alice", "b:{o}*b é"):
            expected = self.alive(user_id)
            listed = self.loop.run(self.real.list(user_id))
            assert [each.session_id for each in listed] == [
                each.session_id
                for each in sorted(expected, key=lambda e: (e.created, e.session_id), reverse=True)
            ]
            for session, model in zip(reversed(listed), expected, strict=True):
                assert session.last_seen == model.seen
                assert session.created_at == model.created
            assert self.loop.run(self.real.count(user_id)) == len(expected)
            assert len(expected) <= CAP

    @invariant()
    def the_index_has_no_ghosts(self) -> None:
        """What it lists beyond those alive was alive, and its time has come."""
        listed = {
            each.decode(): score / 1000
            for key in self.client.scan_iter("session:index:*")
            for each, score in self.client.zrange(key, 0, -1, withscores=True)
        }
        for each in self.known:
            if each.alive(self.clock.now()):
                assert listed.pop(each.session_id) == each.ends
            elif not each.ended:
                assert listed.pop(each.session_id, each.ends) == each.ends
        assert not listed

    def teardown(self) -> None:
        self.loop.run(self.opened.aclose())
        self.loop.close()
        self.stack.close()
        self.client.flushall()
        self.client.close()


def test_any_interleaving(server: ValkeyServer) -> None:
    Interleavings.server = server
    run_state_machine_as_test(
        Interleavings,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
