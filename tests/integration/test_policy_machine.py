"""Any interleaving of questions, invalidations and losses: no revoked decision is ever served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import unquote

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sark.gateway import Answer
from sark.policy import Decision
from tests.support.gateways import Scripted, ask, open_gateway, question
from tests.support.servers import ValkeyServer

USERS = st.sampled_from(["user-1", "user-12", "user-*"])
POLICIES = st.sampled_from(["authz", "tools"])

Subject = tuple[str, str]


@dataclass
class Held:
    """A request whose evaluation waits.

    Attributes:
        subject: User and policy.
        gate: Lets the evaluation go on.
        task: The request.
        current: Whether the generations that it read are still the server's.
    """

    subject: Subject
    gate: asyncio.Event
    task: asyncio.Task[Answer]
    current: bool = True


class Revocation(RuleBasedStateMachine):
    """A gateway against a model that only knows when what was revoked.

    Every evaluation takes the next number and gives it as its reason; an invalidation notes the
    number reached when it was called. A cached answer must carry a greater one.
    """

    server: ClassVar[ValkeyServer]

    def __init__(self) -> None:
        super().__init__()
        with self.server.client() as client:
            client.flushall()
        self.loop = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.evaluations = 0
        self.hold = False
        self.reached: asyncio.Event | None = None
        self.held: list[Held] = []
        self.everything = 0
        self.policies: dict[str, int] = {}
        self.users: dict[str, int] = {}
        # Subjects whose decision must be found.
        self.cached: set[Subject] = set()
        opening = open_gateway(self.server.url, Scripted(self.decide), policies=("authz", "tools"))
        self.gateway = self.loop.run(self.stack.enter_async_context(opening))

    async def decide(self, _policy: str, _input: bytes) -> Decision:
        self.evaluations += 1
        decision = Decision(allow=True, reason=str(self.evaluations))
        if self.hold:
            gate = self.gate = asyncio.Event()
            assert self.reached is not None
            self.reached.set()
            await gate.wait()
        return decision

    def judge(self, subject: Subject, answer: Answer) -> None:
        user, policy = subject
        assert answer.policy == policy
        if answer.cached:
            floor = max(self.everything, self.policies.get(policy, 0), self.users.get(user, 0))
            assert int(answer.reason) > floor, "a revoked decision was served"
        else:
            assert subject not in self.cached, "a valid decision was not found"

    def would_join(self, subject: Subject) -> bool:
        """Whether a request would share an evaluation that is held, and so wait for it."""
        return any(each.subject == subject and each.current for each in self.held)

    @rule(user=USERS, policy=POLICIES)
    def authorize(self, user: str, policy: str) -> None:
        if self.would_join((user, policy)):
            return
        answer = self.loop.run(self.gateway.authorize(ask(user, policy=policy)))
        self.judge((user, policy), answer)
        self.cached.add((user, policy))

    @rule(user=USERS, policy=POLICIES)
    def begin(self, user: str, policy: str) -> None:
        """Ask, and hold the evaluation if there is one."""
        if self.would_join((user, policy)):
            return

        async def begin() -> None:
            self.hold, self.reached = True, asyncio.Event()
            task = asyncio.create_task(self.gateway.authorize(ask(user, policy=policy)))
            reached = asyncio.create_task(self.reached.wait())
            await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
            self.hold = False
            if self.reached.is_set():
                self.held.append(Held((user, policy), self.gate, task))
            else:
                reached.cancel()
                self.judge((user, policy), await task)

        self.loop.run(begin())

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.held) - 1))
        held = self.held.pop(number)

        async def finish() -> Answer:
            held.gate.set()
            return await held.task

        answer = self.loop.run(finish())
        assert not answer.cached
        # One that is outdated does not take the place of a newer one.
        if held.current:
            self.cached.add(held.subject)

    @rule()
    def invalidate_all(self) -> None:
        at = self.evaluations
        self.loop.run(self.gateway.decisions.cache.generations.invalidate_all())
        self.everything = at
        self.forget(lambda _: True)

    @rule(policy=POLICIES)
    def invalidate_policy(self, policy: str) -> None:
        at = self.evaluations
        self.loop.run(self.gateway.decisions.cache.generations.invalidate_policy(policy))
        self.policies[policy] = at
        self.forget(lambda subject: subject[1] == policy)

    @rule(user=USERS)
    def invalidate_user(self, user: str) -> None:
        at = self.evaluations
        self.loop.run(self.gateway.decisions.cache.generations.invalidate_user(user))
        self.users[user] = at
        self.forget(lambda subject: subject[0] == user)

    @rule(data=st.data())
    def lose_a_key(self, data: st.DataObject) -> None:
        with self.server.client() as client:
            keys = sorted(client.keys("policy:*"))
            if not keys:
                return
            key = data.draw(st.sampled_from(keys)).decode()
            client.delete(key)
        kind, _, name = unquote(key.removeprefix("policy:")).partition(":")
        match kind:
            case "generation":
                self.forget(lambda _: True)
            case "version":
                self.forget(lambda subject: subject[1] == name)
            case "user_version":
                self.forget(lambda subject: subject[0] == name)
            case _:
                self.cached.clear()

    @rule(user=USERS, policy=POLICIES)
    def corrupt(self, user: str, policy: str) -> None:
        key = self.gateway.decisions.cache.decision_key(question(user, policy=policy))
        with self.server.client() as client:
            client.set(key, b'{"allow":true', ex=60)
        self.cached.discard((user, policy))

    @rule()
    def forget_scripts(self) -> None:
        with self.server.client() as client:
            client.script_flush()

    def forget(self, concerns: Callable[[Subject], bool]) -> None:
        for held in self.held:
            held.current = held.current and not concerns(held.subject)
        self.cached = {subject for subject in self.cached if not concerns(subject)}

    def teardown(self) -> None:
        async def end() -> None:
            for held in self.held:
                held.gate.set()
            await asyncio.gather(*(held.task for held in self.held))
            await self.stack.aclose()

        try:
            self.loop.run(end())
        finally:
            self.loop.close()


def test_no_interleaving_serves_a_revoked_decision(server: ValkeyServer) -> None:
    Revocation.server = server
    run_state_machine_as_test(
        Revocation,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
