"""The near cache alone: what it answers without asking, and when it must not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from random import Random

import msgspec
import pytest

from sark.errors import EvaluationError
from sark.events import Enforced, Hub, NearCacheChanged
from sark.policy import Decision
from sark.policy.decisions import Decisions
from sark.policy.evaluators import Evaluation
from sark.policy.generations import Generations
from tests.support.gateways import Scripted, generations, open_gateway, open_store, question
from tests.support.near import (
    BOUND_SECONDS,
    MARGIN_SECONDS,
    Numbered,
    near_gateway,
    near_of,
    serving,
    warm,
)
from tests.support.polling import until
from tests.support.probe import count_round_trips
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

Revoke = Callable[[Generations], Awaitable[str]]
SCOPES: dict[str, Revoke] = {
    "all": lambda made: made.invalidate_all(),
    "policy": lambda made: made.invalidate_policy("authz"),
    "user": lambda made: made.invalidate_user("alice"),
}
HEARD_ANYWAY = {"ping", "time", "info"}


async def test_a_hit_costs_no_command(server: ValkeyServer) -> None:
    async with (
        count_round_trips(server) as (url, counts),
        near_gateway(url, feed_url=server.url) as gateway,
    ):
        decisions, asked = gateway.decisions, question()
        await warm(decisions, asked)
        counts.reset()
        for consistency in (None, "fast"):
            for _ in range(500):
                outcome = await decisions.decide(asked, consistency=consistency)
                assert (outcome.source, outcome.allow) == ("near", True)
        assert counts.round_trips == 0
        assert not set(counts.commands) - HEARD_ANYWAY
        assert 3590 <= outcome.ttl <= 3600


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_revocation_from_elsewhere_is_enforced_within_the_bound(
    server: ValkeyServer, scope: str
) -> None:
    hub, enforced = Hub(), list[Enforced]()
    hub.on(Enforced, enforced.append)
    latencies = []
    async with (
        near_gateway(server.url, Numbered(), hub=hub) as gateway,
        open_store(server.url) as elsewhere,
    ):
        decisions, made, asked = gateway.decisions, generations(elsewhere), question()
        loop = asyncio.get_running_loop()
        for _ in range(30):
            await warm(decisions, asked)
            old = (await decisions.decide(asked)).reason
            await SCOPES[scope](made)
            acknowledged = loop.time()
            while (await decisions.decide(asked)).reason == old:
                assert loop.time() - acknowledged < BOUND_SECONDS + MARGIN_SECONDS
                await asyncio.sleep(0)
            latencies.append(loop.time() - acknowledged)
    # It is heard at once, and not only when the bound has passed.
    assert sorted(latencies)[15] < BOUND_SECONDS / 5
    assert {event.scope for event in enforced} == {scope}
    assert len(enforced) == 30
    assert sorted(event.seconds for event in enforced)[15] < BOUND_SECONDS / 5


async def test_a_revocation_spares_others(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered()) as gateway, open_store(server.url) as elsewhere:
        decisions = gateway.decisions
        alice, bob = question("alice"), question("bob")
        await warm(decisions, alice, bob)
        await generations(elsewhere).invalidate_user("alice")
        await until(
            lambda: near_of(decisions).cache.get(alice.key, 0.0) is None,
            within=5,
            what="it is heard",
        )
        assert (await decisions.decide(bob)).source == "near"


@pytest.mark.parametrize("loss", ["delete", "expire", "flush"])
async def test_a_lost_generation_ends_its_near_decisions(server: ValkeyServer, loss: str) -> None:
    async with near_gateway(server.url, Numbered()) as gateway:
        decisions, asked = gateway.decisions, question()
        await warm(decisions, asked)
        with server.client() as client:
            match loss:
                case "delete":
                    client.delete("policy:generation")
                case "expire":
                    client.pexpire("policy:user_version:alice", 1)
                case _:
                    client.flushall()
        near = near_of(decisions)
        await until(
            lambda: near.cache.get(asked.key, near.now()) is None,
            within=5,
            what="the near decision is gone",
        )
        assert (await decisions.decide(asked)).source == "evaluated"


async def test_a_silent_feed_is_served_from_no_longer_than_the_bound(server: ValkeyServer) -> None:
    hub, changes = Hub(), list[NearCacheChanged]()
    hub.on(NearCacheChanged, changes.append)
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(
            server.url, Numbered(), feed_url=proxy.url(server.password), hub=hub
        ) as gateway,
        open_store(server.url) as elsewhere,
    ):
        decisions, asked = gateway.decisions, question()
        loop = asyncio.get_running_loop()
        await warm(decisions, asked)
        old = (await decisions.decide(asked)).reason
        proxy.blackhole()
        await generations(elsewhere).invalidate_user("alice")
        acknowledged = loop.time()
        near_until = acknowledged
        while loop.time() < acknowledged + 2 * BOUND_SECONDS:
            before = loop.time()
            outcome = await decisions.decide(asked)
            if outcome.reason == old:
                near_until = before
            if outcome.source != "near":
                assert outcome.reason != old, "Valkey served what was revoked"
            await asyncio.sleep(0.001)
        assert near_until > acknowledged, "the feed was silent, so it was served for a while"
        assert near_until - acknowledged <= BOUND_SECONDS
        assert not near_of(decisions).serving
        assert (await decisions.decide(asked)).source == "valkey"
        await proxy.forward()
        await serving(near_of(decisions))
        await warm(decisions, asked)
        assert (await decisions.decide(asked)).reason != old
    assert [change.serving for change in changes] == [True, False, True]


async def test_after_a_pause_nothing_stale_is_served(server: ValkeyServer) -> None:
    """The whole process stands still while elsewhere a decision is revoked."""
    async with near_gateway(server.url, Numbered()) as gateway:
        decisions, asked = gateway.decisions, question()
        await warm(decisions, asked)
        old = (await decisions.decide(asked)).reason

        async def revoke() -> None:
            async with open_store(server.url) as store:
                await generations(store).invalidate_user("alice")

        def stand_still() -> None:
            elsewhere = threading.Thread(target=lambda: asyncio.run(revoke()))
            elsewhere.start()
            time.sleep(1.0)
            elsewhere.join()

        stand_still()
        # The first look-up comes before the loop has read anything from its sockets.
        outcome = await decisions.decide(asked)
        assert outcome.reason != old
        assert outcome.source == "evaluated"
        await serving(near_of(decisions))
        await warm(decisions, asked)


async def test_high_sensitivity_never_enters(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered()) as gateway:
        decisions = gateway.decisions
        for action in ("user:grant", "admin:read", "unknown"):
            asked = question(action=action)
            sources = [(await decisions.decide(asked)).source for _ in range(20)]
            assert sources == ["evaluated", *["valkey"] * 19]
        assert near_of(decisions).cache.stats().entries == 0


@pytest.mark.parametrize(
    "decision", [Decision(allow=True, cacheable=False), Decision(allow=True, ttl=0)]
)
async def test_what_may_not_be_kept_never_enters(server: ValkeyServer, decision: Decision) -> None:
    async with near_gateway(server.url, Scripted(decision)) as gateway:
        for _ in range(5):
            assert (await gateway.decisions.decide(question())).source == "evaluated"
        assert near_of(gateway.decisions).cache.stats().entries == 0


async def test_a_near_decision_never_outlives_the_servers(server: ValkeyServer) -> None:
    async def fail(_policy: str, _input: bytes) -> Decision:
        raise EvaluationError("out of order")

    evaluator = Numbered(ttl=1)
    async with (
        near_gateway(server.url, evaluator) as gateway,
        open_gateway(server.url, evaluator) as other,
    ):
        decisions, asked = gateway.decisions, question()
        key = decisions.cache.decision_key(asked)
        with server.client() as client:
            for left in (300, 500, 700):
                client.delete(key)
                await other.decisions.decide(asked)
                await other.decisions.evaluations.close()
                client.pexpire(key, left)
                near_of(decisions).cache.empty()
                await warm(decisions, asked)
                # Else it would be evaluated again in time, because it is hot.
                evaluator.decide = fail
                while client.exists(key):
                    await decisions.decide(asked)
                assert (await decisions.decide(asked)).source == "failed"
                evaluator.decide = evaluator._next


async def test_two_quick_revocations_of_a_hot_key(server: ValkeyServer) -> None:
    evaluator = Numbered()
    async with near_gateway(server.url, evaluator) as gateway, open_store(server.url) as elsewhere:
        decisions, made, asked = gateway.decisions, generations(elsewhere), question()
        near = near_of(decisions)

        async def ask_on(answers: list[str]) -> None:
            while True:
                answers.append((await decisions.decide(asked)).reason)
                await asyncio.sleep(0)

        for _ in range(30):
            await warm(decisions, asked)
            askers = [asyncio.create_task(ask_on([])) for _ in range(5)]
            await made.invalidate_user("alice")
            await made.invalidate_user("alice")
            reached = evaluator.number
            loop = asyncio.get_running_loop()
            acknowledged = loop.time()
            await until(
                lambda at=acknowledged: near._feed.coherent_at > at,
                within=5,
                what="both are heard",
            )
            last = int((await decisions.decide(asked)).reason)
            for asker in askers:
                asker.cancel()
            await asyncio.gather(*askers, return_exceptions=True)
            # Evaluated after the second, or at least not before the first of them began.
            assert last >= reached
            with server.client() as client:
                stored = client.get(decisions.cache.decision_key(asked))
            assert b'"reason":"%d"' % last in stored


async def test_hot_decisions_stay_in_a_full_cache(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered(), near={"entries": 10}) as gateway:
        decisions, hot = gateway.decisions, question("hot")
        await warm(decisions, hot)
        for number in range(40):
            await warm(decisions, question(f"cold-{number}"))
            assert (await decisions.decide(hot)).source == "near"
        assert near_of(decisions).cache.stats().entries == 10


async def test_a_reason_larger_than_the_near_cache_is_answered_all_the_same(
    server: ValkeyServer,
) -> None:
    evaluator = Scripted(Decision(allow=True, reason="x" * 50_000))
    async with near_gateway(server.url, evaluator, near={"size": 10_000}) as gateway:
        sources = [(await gateway.decisions.decide(question())).source for _ in range(4)]
        assert sources == ["evaluated", "valkey", "valkey", "valkey"]


async def test_other_policies_end_near_decisions_at_once(server: ValkeyServer) -> None:
    evaluator = Numbered()
    async with near_gateway(server.url, evaluator) as gateway:
        decisions, asked = gateway.decisions, question()
        await warm(decisions, asked)
        evaluator.revision = "r2"
        assert (await decisions.decide(asked)).source == "evaluated"


async def test_going_back_to_earlier_policies_does_not_revive_those_between(
    server: ValkeyServer,
) -> None:
    """The near cache is filled by ``authorize`` as well, and must follow the revision there."""
    evaluator = Scripted(Decision(allow=False, reason="first"))
    async with near_gateway(server.url, evaluator) as gateway:
        decisions, asked = gateway.decisions, question()
        await warm(decisions, asked)
        evaluator.revision, evaluator.decide = "r2", Decision(allow=True, reason="second")
        for _ in range(5):
            glance = decisions.glance(asked, use_entry=True)
            found = await decisions.cache.get(asked, decisions.revision)
            outcome = await decisions.settle(asked, decisions.plan(None, None), glance, found)
            assert outcome.reason == "second"
            if outcome.flight is not None:
                await outcome.flight.ttl()
        assert near_of(decisions).cache.stats().entries == 1
        evaluator.revision, evaluator.decide = "r1", Decision(allow=False, reason="first")
        for _ in range(3):
            assert (await decisions.decide(asked)).reason == "first"


async def test_a_decision_of_an_engine_that_lags_behind_does_not_stay(server: ValkeyServer) -> None:
    """One of several engines answers with an earlier bundle than the one that is known."""

    class Lagging(Scripted):
        async def evaluate(self, policy: str, input_json: bytes) -> Evaluation:
            return msgspec.structs.replace(
                await super().evaluate(policy, input_json), revision="r0"
            )

    async with near_gateway(server.url, Lagging()) as gateway:
        decisions, asked = gateway.decisions, question()
        for _ in range(5):
            outcome = await decisions.decide(asked)
            assert outcome.source == "evaluated"
            assert outcome.flight is not None
            await outcome.flight.ttl()
        assert near_of(decisions).cache.stats().entries == 0


@pytest.mark.parametrize("slow", ["reads", "feed", "both"])
async def test_a_read_under_way_leaves_no_old_value_behind(server: ValkeyServer, slow: str) -> None:
    """Reads and revocations cross in every order: the answer first, the change first, or at once.

    Every user has a decision in Valkey from before; it is being read at the moment at which it is
    revoked. When the dust has settled, no near cache may know it.
    """
    users = [f"user-{number}" for number in range(150)]
    random = Random(slow)
    evaluator = Scripted(Decision(allow=True, reason="old"))
    async with (
        open_gateway(server.url, evaluator) as filler,
        FaultProxy(server.host, server.port) as reads,
        FaultProxy(server.host, server.port) as changes,
        near_gateway(
            reads.url(server.password),
            evaluator,
            feed_url=changes.url(server.password),
            near={"bound": 2.0},
            valkey_pool_size=60,
        ) as gateway,
        open_store(server.url) as elsewhere,
    ):
        decisions, made = gateway.decisions, generations(elsewhere)
        for user in users:
            await filler.decisions.decide(question(user))
        evaluator.decide = Decision(allow=False, reason="new")
        late: list[str] = []

        async def cross(user: str) -> None:
            asked = question(user)
            reading = asyncio.create_task(decisions.decide(asked))
            await asyncio.sleep(random.random() * 0.03)
            await made.invalidate_user(user)
            first = await reading
            # One that began before may answer either way; it also may have been near.
            late.append(first.reason)

        if slow != "feed":
            reads.delay(0.01)
        if slow != "reads":
            changes.delay(0.01)
        for start in range(0, len(users), 50):
            await asyncio.gather(*map(cross, users[start : start + 50]))
        await settle(decisions)
        near = near_of(decisions)
        kept = [near.get_coherent(question(user).key, near.now()) for user in users]
        assert [entry.reason for entry in kept if entry is not None].count("old") == 0
        assert "old" in late, "some reads were answered before the revocation"
        reads.delay(0)
        for user in users:
            assert (await decisions.decide(question(user))).reason == "new"


async def settle(decisions: Decisions) -> None:
    """Wait until the feed has come past this moment, and evaluations have been stored."""
    near = near_of(decisions)
    at = near.now()
    await until(lambda: near._feed.coherent_at > at, within=10, what="the feed has caught up")
    await until(
        lambda: not decisions.evaluations.under_way, within=10, what="all evaluations are stored"
    )
