"""Any interleaving of questions, revocations, losses and broken feeds, with the near cache on.

What has been revoked is never served through ``authorize``, nor to who brings the revocation's
token, and through ``decide`` for no longer than the bound. What ``full`` has replaced is served by
near caches of other processes only, for no longer than the bound. The loop stands still between two
steps, so every step also comes after a pause.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sark.errors import SarkError
from sark.gateway import Gateway
from sark.policy import Decision, TtlTiers
from tests.support.gateways import Scripted, ask, generations, open_store, question
from tests.support.near import near_gateway, near_of
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

USERS = st.sampled_from(["user-1", "user-12", "user-*", "org:bob"])
POLICIES = st.sampled_from(["authz", "tools"])
BOUND_SECONDS = 0.04

T = TypeVar("T")
Subject = tuple[str, str]


class NearRevocation(RuleBasedStateMachine):
    """Two gateways with near caches, of which one hears changes by way of a bad network.

    Every evaluation takes the next number and gives it as its reason; a revocation notes the number
    reached when it was called, and when it was acknowledged. An answer must carry a greater number,
    unless it is a near one from within the bound.
    """

    server: ClassVar[ValkeyServer]
    restarts: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        if not self.server.running:
            self.server.start()
        with self.server.client() as client:
            client.flushall()
        self.loop = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.number = 0
        # By scope and name: the number reached, and the moment of the acknowledgement.
        self.revoked: dict[tuple[str, str], tuple[int, float]] = {}
        self.tokens: dict[tuple[str, str], str] = {}
        # By subject: the number that replaced earlier ones, when it was there, and through whom.
        self.replaced: dict[Subject, list[tuple[int, float, int]]] = {}
        # By gateway: the number reached when it was given other policies.
        self.changed = [0, 0]
        self.revisions = 0

    @initialize()
    def open(self) -> None:
        async def open_all() -> tuple[FaultProxy, tuple[Gateway, ...]]:
            enter = self.stack.enter_async_context
            proxy = await enter(FaultProxy(self.server.host, self.server.port))
            bad = proxy.url(self.server.password)
            gateways = [
                await enter(
                    near_gateway(
                        self.server.url,
                        Scripted(self.decide_next),
                        feed_url=feed,
                        policies=("authz", "tools"),
                        tiers=TtlTiers(1, 1, 1),
                        near={"bound": BOUND_SECONDS},
                    )
                )
                for feed in (self.server.url, bad)
            ]
            self.elsewhere = await enter(open_store(self.server.url))
            return proxy, tuple(gateways)

        self.proxy, self.gateways = self.loop.run(open_all())

    async def decide_next(self, _policy: str, _input: bytes) -> Decision:
        self.number += 1
        return Decision(allow=True, reason=str(self.number))

    def floor(self, subject: Subject, *, at: float) -> int:
        """Tell the number that everything revoked until some moment stands at or below."""
        user, policy = subject
        scopes = (("all", ""), ("policy", policy), ("user", user))
        known = [self.revoked[scope] for scope in scopes if scope in self.revoked]
        return max((number for number, when in known if when <= at), default=0)

    def judge(self, subject: Subject, which: int, reason: str, *, near: bool, began: float) -> None:
        """Check what holds of every answer."""
        number = int(reason)
        assert number > self.changed[which]
        for latest, when, through in self.replaced.get(subject, ()):
            if not near or through == which or when <= began - BOUND_SECONDS:
                assert number >= latest

    @rule(user=USERS, policy=POLICIES, which=st.integers(0, 1))
    def authorize(self, user: str, policy: str, which: int) -> None:
        gateway, began = self.gateways[which], time.monotonic()
        answer = self.patiently(lambda: gateway.authorize(ask(user, policy=policy)))
        assert int(answer.reason) > self.floor((user, policy), at=began)
        near = answer.cached == "near"
        self.judge((user, policy), which, answer.reason, near=near, began=began)

    @precondition(lambda self: not self.restarts)
    @rule(user=USERS, policy=POLICIES, which=st.integers(0, 1), alone=st.booleans())
    def full(self, user: str, policy: str, which: int, alone: bool) -> None:
        gateway, reached = self.gateways[which], self.number
        if alone:
            asked = question(user, policy=policy)
            deciding = gateway.decisions.decide(asked, consistency="full")
            reason = self.patiently(lambda: deciding).reason
        else:
            asking = gateway.authorize(ask(user, policy=policy, consistency="full"))
            reason = self.patiently(lambda: asking).reason
        assert int(reason) > reached
        told = (int(reason), time.monotonic(), which)
        self.replaced.setdefault((user, policy), []).append(told)

    @rule(user=USERS, policy=POLICIES, which=st.integers(0, 1))
    def with_tokens(self, user: str, policy: str, which: int) -> None:
        """Who brings the tokens of all revocations is served nothing from before them."""
        scopes = (("all", ""), ("policy", policy), ("user", user))
        tokens = [self.tokens[scope] for scope in scopes if scope in self.tokens]
        if not tokens:
            return
        decisions, began = self.gateways[which].decisions, time.monotonic()
        asked, freshness = question(user, policy=policy), ",".join(tokens)
        outcome = self.patiently(lambda: decisions.decide(asked, freshness=freshness))
        assert outcome.source != "near"
        assert int(outcome.reason) > self.floor((user, policy), at=began)
        self.judge((user, policy), which, outcome.reason, near=False, began=began)

    @rule(which=st.integers(0, 1))
    def change_policies(self, which: int) -> None:
        self.revisions += 1
        evaluator = self.gateways[which].decisions.evaluations.evaluator
        assert isinstance(evaluator, Scripted)
        evaluator.revision = f"r1.{self.revisions}"
        self.changed[which] = self.number

    @rule(user=USERS, policy=POLICIES, which=st.integers(0, 1), times=st.integers(1, 3))
    def decide(self, user: str, policy: str, which: int, times: int) -> None:
        decisions = self.gateways[which].decisions
        asked = question(user, policy=policy)
        for _ in range(times):
            began = time.monotonic()
            outcome = self.patiently(lambda: decisions.decide(asked))
            old_enough = began - BOUND_SECONDS if outcome.source == "near" else began
            assert int(outcome.reason) > self.floor((user, policy), at=old_enough)
            near = outcome.source == "near"
            self.judge((user, policy), which, outcome.reason, near=near, began=began)

    @rule(scope=st.sampled_from(["all", "policy", "user"]), user=USERS, policy=POLICIES)
    def revoke(self, scope: str, user: str, policy: str) -> None:
        made, reached = generations(self.elsewhere), self.number
        match scope:
            case "all":
                name = ""
                token = self.patiently(made.invalidate_all)
            case "policy":
                name = policy
                token = self.patiently(lambda: made.invalidate_policy(policy))
            case _:
                name = user
                token = self.patiently(lambda: made.invalidate_user(user))
        self.tokens[scope, name] = token
        self.revoked[scope, name] = (reached, time.monotonic())

    @rule(
        user=USERS,
        policy=POLICIES,
        which=st.integers(0, 3),
        how=st.sampled_from(["evict", "expire", "expire soon"]),
    )
    def lose_a_key(self, user: str, policy: str, which: int, how: str) -> None:
        cache, asked = self.gateways[0].decisions.cache, question(user, policy=policy)
        key = [*cache.generation_keys(asked), cache.decision_key(asked)][which]
        with self.server.client() as client:
            match how:
                case "evict":
                    client.delete(key)
                case "expire":
                    client.pexpire(key, 1)
                case _:
                    client.pexpire(key, 30)

    @rule()
    def break_the_feed(self) -> None:
        self.loop.run(self.proxy.drop())

    @rule()
    def silence_the_feed(self) -> None:
        self.proxy.blackhole()

    @rule()
    def heal_the_feed(self) -> None:
        self.loop.run(self.proxy.forward())

    @rule()
    def let_the_feeds_catch_up(self) -> None:
        near = near_of(self.gateways[0].decisions)

        async def catch_up() -> None:
            await until(lambda: near.serving, within=10, what="the near cache serves")

        self.loop.run(catch_up())

    @rule()
    def turn(self) -> None:
        """Let the loop read what has arrived, and no more."""
        self.loop.run(asyncio.sleep(0))

    @rule()
    def flush(self) -> None:
        with self.server.client() as client:
            client.flushall()

    @precondition(lambda self: self.restarts)
    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        if kill:
            self.server.kill()
        else:
            self.server.stop()
        self.server.start()

    def patiently(self, ask_it: Callable[[], Awaitable[T]]) -> T:
        """Ask again while the server is away; nothing that fails has told anything."""
        deadline = time.monotonic() + 10

        async def attempt() -> T:
            while True:
                try:
                    return await ask_it()
                except SarkError:
                    assert self.restarts
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)

        return self.loop.run(attempt())

    def teardown(self) -> None:
        try:
            self.loop.run(self.stack.aclose())
        finally:
            self.loop.close()


def run(machine: type[NearRevocation], *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_no_interleaving_serves_a_revoked_decision(server: ValkeyServer) -> None:
    class Here(NearRevocation):
        pass

    Here.server = server
    run(Here, examples=60, steps=40)


def test_no_interleaving_with_restarts_serves_a_revoked_decision() -> None:
    class Here(NearRevocation):
        restarts = True

    with ValkeyServer({"appendonly": "yes", "appendfsync": "everysec"}) as server:
        Here.server = server
        run(Here, examples=6, steps=25)
