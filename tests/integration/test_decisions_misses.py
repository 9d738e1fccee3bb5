"""Misses: one evaluation for all who wait, what is kept of it, and what is hot never expires."""

from __future__ import annotations

import asyncio

import pytest

from sark.errors import EvaluationError
from sark.events import EvaluationFailed, Hub
from sark.policy import Decision
from tests.support.gateways import Scripted, ask, open_gateway, question, queued
from tests.support.near import Numbered, near_gateway, warm
from tests.support.polling import until
from tests.support.servers import ValkeyServer


class Gated(Numbered):
    """An evaluator that waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.cancelled = 0
        self.decide = self._wait

    async def _wait(self, policy: str, input_json: bytes) -> Decision:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self._next(policy, input_json)


async def begun(evaluator: Scripted, count: int = 1) -> None:
    await until(lambda: len(evaluator.asked) >= count, within=10, what="it is being evaluated")


async def test_a_thousand_tasks_that_miss_one_key_evaluate_once(server: ValkeyServer) -> None:
    evaluator = Gated()
    async with open_gateway(server.url, evaluator) as gateway:
        # Its generations exist, so that all see the same.
        await gateway.decisions.cache.get(question(), "r1")
        tasks = [asyncio.create_task(gateway.decisions.decide(question())) for _ in range(500)]
        tasks += [asyncio.create_task(gateway.decisions.decide(question())) for _ in range(500)]
        await begun(evaluator)
        await asyncio.sleep(0.05)
        evaluator.gate.set()
        outcomes = await asyncio.gather(*tasks)
        assert len(evaluator.asked) == 1
        assert {outcome.reason for outcome in outcomes} == {"1"}
        assert (await gateway.decisions.decide(question())).source == "valkey"


async def test_a_thousand_requests_that_miss_one_key_evaluate_once(server: ValkeyServer) -> None:
    evaluator = Numbered()
    async with open_gateway(server.url, evaluator) as gateway:
        answers = await asyncio.gather(*(gateway.authorize(ask()) for _ in range(1000)))
        # The tokens are made by one script run, so every request has seen the same ones.
        assert len(evaluator.asked) == 1
        assert {answer.reason for answer in answers} == {"1"}
    assert len(queued(server)) == 1000


async def test_a_cancelled_leader_takes_nothing_away_from_the_others(server: ValkeyServer) -> None:
    evaluator = Gated()
    async with open_gateway(server.url, evaluator) as gateway:
        leader = asyncio.create_task(gateway.decisions.decide(question()))
        await begun(evaluator)
        others = [asyncio.create_task(gateway.decisions.decide(question())) for _ in range(5)]
        await asyncio.sleep(0.02)
        leader.cancel()
        others.pop().cancel()
        await asyncio.sleep(0)
        evaluator.gate.set()
        assert {(await other).reason for other in others} == {"1"}
        assert leader.cancelled()
        assert (len(evaluator.asked), evaluator.cancelled) == (1, 0)


async def test_an_evaluation_that_everybody_left_is_still_kept(server: ValkeyServer) -> None:
    evaluator = Gated()
    async with open_gateway(server.url, evaluator) as gateway:
        leader = asyncio.create_task(gateway.decisions.decide(question()))
        await begun(evaluator)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        evaluator.gate.set()
        await gateway.decisions.evaluations.close()
        assert (await gateway.decisions.decide(question())).source == "valkey"


async def test_nobody_joins_an_evaluation_from_before_a_revocation(server: ValkeyServer) -> None:
    evaluator = Gated()
    async with open_gateway(server.url, evaluator) as gateway:
        decisions = gateway.decisions
        early = asyncio.create_task(decisions.decide(question()))
        await begun(evaluator)
        await decisions.cache.generations.invalidate_user("alice")
        late = [asyncio.create_task(decisions.decide(question())) for _ in range(5)]
        await begun(evaluator, 2)
        evaluator.gate.set()
        assert (await early).reason == "1"
        assert {(await task).reason for task in late} == {"2"}
        await decisions.evaluations.close()
        # Whichever was stored last: the early one is not valid any more.
        assert (await decisions.decide(question())).reason != "1"


async def test_other_questions_and_policies_do_not_share(server: ValkeyServer) -> None:
    evaluator = Gated()
    questions = [question(), question("bob"), question(policy="tools"), question(context={"a": 1})]
    async with open_gateway(server.url, evaluator) as gateway:
        tasks = [asyncio.create_task(gateway.decisions.decide(each)) for each in questions]
        await begun(evaluator, 4)
        evaluator.gate.set()
        assert {(await task).reason for task in tasks} == {"1", "2", "3", "4"}


async def test_full_joins_nobody(server: ValkeyServer) -> None:
    evaluator = Gated()
    async with open_gateway(server.url, evaluator) as gateway:
        tasks = [
            asyncio.create_task(gateway.decisions.decide(question(), consistency=consistency))
            for consistency in ("fast", "full", "full")
        ]
        await begun(evaluator, 3)
        evaluator.gate.set()
        assert {(await task).reason for task in tasks} == {"1", "2", "3"}


async def test_a_denial_is_kept_like_a_permission(server: ValkeyServer) -> None:
    evaluator = Scripted(Decision(allow=False, reason="no"))
    async with near_gateway(server.url, evaluator) as gateway:
        await warm(gateway.decisions, question())
        outcome = await gateway.decisions.decide(question())
        assert (outcome.source, outcome.allow, outcome.reason) == ("near", False, "no")
        assert len(evaluator.asked) == 1


@pytest.mark.parametrize(
    ("failure", "source", "reason"),
    [
        (None, "undefined", "undefined"),
        (EvaluationError("it broke"), "failed", "evaluation_failed"),
        (TimeoutError(), "failed", "evaluation_failed"),
    ],
)
async def test_what_is_no_decision_denies_and_is_never_kept(
    server: ValkeyServer, failure: Exception | None, source: str, reason: str
) -> None:
    async def fail(_policy: str, _input: bytes) -> Decision | None:
        if failure is None:
            return None
        raise failure

    evaluator = Scripted(fail)
    async with near_gateway(server.url, evaluator) as gateway:
        for number in range(1, 4):
            outcome = await gateway.decisions.decide(question())
            assert (outcome.source, outcome.allow, outcome.reason) == (source, False, reason)
            answer = await gateway.authorize(ask())
            assert (answer.cached, answer.allow, answer.reason, answer.ttl) == (
                False,
                False,
                reason,
                0,
            )
            assert len(evaluator.asked) == 2 * number
        with server.client() as client:
            assert client.keys("policy:decision:*") == []


async def test_an_engine_that_hangs_is_given_up_at_its_deadline(server: ValkeyServer) -> None:
    hub, failures = Hub(), list[EvaluationFailed]()
    hub.on(EvaluationFailed, failures.append)
    evaluator = Gated()
    async with open_gateway(server.url, evaluator, evaluator_timeout=0.15, hub=hub) as gateway:
        loop = asyncio.get_running_loop()
        await gateway.decisions.cache.get(question(), "r1")
        started = loop.time()
        outcomes = await asyncio.gather(*(gateway.decisions.decide(question()) for _ in range(20)))
        assert 0.1 <= loop.time() - started < 2
        assert {(o.allow, o.reason) for o in outcomes} == {(False, "evaluation_failed")}
        assert evaluator.cancelled == 1
        assert [f.reason for f in failures] == ["no decision within 0.15 s"]
        evaluator.gate.set()
        assert (await gateway.decisions.decide(question())).allow


async def test_an_engine_with_a_bug_breaks_only_those_who_wait(server: ValkeyServer) -> None:
    async def bug(_policy: str, _input: bytes) -> Decision:
        raise ZeroDivisionError

    evaluator = Scripted(bug)
    async with open_gateway(server.url, evaluator) as gateway:
        tasks = [gateway.decisions.decide(question()) for _ in range(5)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(
            isinstance(result, ZeroDivisionError) or not getattr(result, "allow", True)
            for result in results
        )
        evaluator.decide = Decision(allow=True)
        assert (await gateway.decisions.decide(question())).allow


async def test_a_hot_decision_is_evaluated_again_before_it_expires(server: ValkeyServer) -> None:
    evaluator = Numbered()
    async with open_gateway(server.url, evaluator) as gateway:
        decisions, asked = gateway.decisions, question()
        key = decisions.cache.decision_key(asked)
        await decisions.decide(asked)
        await decisions.evaluations.close()
        with server.client() as client:
            client.pexpire(key, 300_000)
            outcomes = await asyncio.gather(*(decisions.decide(asked) for _ in range(2)))
            assert [outcome.source for outcome in outcomes] == ["valkey", "valkey"]
            await until(lambda: evaluator.number == 2, within=5, what="it is evaluated again")
            await decisions.evaluations.close()
            assert client.ttl(key) > 3500
        outcome = await decisions.decide(asked)
        assert (outcome.source, outcome.reason) == ("valkey", "2")
        for _ in range(20):
            await decisions.decide(asked)
        await decisions.evaluations.close()
        assert evaluator.number == 2


async def test_many_who_see_a_hot_decision_end_evaluate_it_once(server: ValkeyServer) -> None:
    evaluator = Gated()
    evaluator.gate.set()
    async with open_gateway(server.url, evaluator) as gateway:
        decisions, asked = gateway.decisions, question()
        await decisions.decide(asked)
        await decisions.evaluations.close()
        evaluator.gate.clear()
        with server.client() as client:
            client.pexpire(decisions.cache.decision_key(asked), 300_000)
        outcomes = await asyncio.gather(*(decisions.decide(asked) for _ in range(200)))
        assert {outcome.source for outcome in outcomes} == {"valkey"}
        await begun(evaluator, 2)
        evaluator.gate.set()
        await decisions.evaluations.close()
        assert len(evaluator.asked) == 2


async def test_a_cold_decision_is_left_to_expire(server: ValkeyServer) -> None:
    evaluator = Numbered()
    async with open_gateway(server.url, evaluator) as gateway:
        decisions, asked = gateway.decisions, question()
        await decisions.decide(asked)
        await decisions.evaluations.close()
        with server.client() as client:
            client.pexpire(decisions.cache.decision_key(asked), 300_000)
        assert (await decisions.decide(asked)).source == "valkey"
        await decisions.evaluations.close()
        assert evaluator.number == 1


async def test_a_life_that_the_policy_chose_does_not_look_like_one_that_ends(
    server: ValkeyServer,
) -> None:
    """A minute is less than a tenth of the tier's hour."""
    evaluator = Numbered(ttl=60)
    async with open_gateway(server.url, evaluator) as gateway:
        for _ in range(50):
            await gateway.decisions.decide(question())
        await gateway.decisions.evaluations.close()
        assert evaluator.number == 1


async def test_a_hot_near_decision_is_evaluated_before_it_expires(server: ValkeyServer) -> None:
    """The whole life of a decision that is asked for all the time: nobody ever waits again."""
    evaluator = Numbered(ttl=2)
    async with near_gateway(server.url, evaluator) as gateway:
        decisions, asked = gateway.decisions, question()
        await warm(decisions, asked)
        loop = asyncio.get_running_loop()
        end = loop.time() + 2.5
        sources = set()
        while loop.time() < end:
            sources.add((await decisions.decide(asked)).source)
            await asyncio.sleep(0.001)
        assert sources == {"near", "valkey"}
        assert evaluator.number == 2
