"""Warming on a real server: what it stores, what it spares, and what it must never outlive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sark.errors import EvaluationError, StoreError
from sark.events import EvaluatorBreakerChanged, Hub, Looked, Warmed
from sark.ops.health import readiness
from sark.policy import Decision, PolicyCache, Question
from sark.policy import warm_up as warm_up_module
from sark.policy.decisions import Decisions
from sark.policy.evaluators import Evaluation
from sark.policy.generations import Generations
from sark.policy.hot import HotRequests, spell
from sark.policy.policy_file import PolicyFile, PolicyRule
from sark.policy.projection import Without
from sark.policy.warm_up import WarmUp
from sark.policy.warming import BURST_SECONDS, FAILURES_TO_ASK, Unusable, WarmReport, warm
from sark.runtime import open_runtime
from sark.settings import ServerUrl, Settings
from sark.store import Store
from tests.support.gateways import (
    PATIENCE_SECONDS,
    Scripted,
    later,
    open_store,
    policy_cache,
    policy_decisions,
    question,
)
from tests.support.opa import OpaServer
from tests.support.polling import until
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer

ALLOW = Decision(allow=True, reason="warmed")
FAST = 100_000  # evaluations per second, where the rate is not the point


@asynccontextmanager
async def opened(
    url: str,
    evaluator: Scripted | None = None,
    *,
    cache_url: str | None = None,
    hub: Hub | None = None,
    patience: float = 5.0,
    **options: Any,
) -> AsyncIterator[Decisions]:
    settings = {"valkey_socket_timeout": patience}
    async with open_store(url, cache_url=cache_url, hub=hub, **settings) as store:
        cache = policy_cache(store, **options)
        decisions = policy_decisions(cache, evaluator or Scripted(ALLOW), hub=store.hub)
        try:
            yield decisions
        finally:
            await decisions.evaluations.close()


def many(count: int, first: int = 0) -> list[Question]:
    return [question(f"user-{number}") for number in range(first, first + count)]


async def result(decisions: Decisions, asked: Question) -> str:
    return (await decisions.cache.get(asked, decisions.revision, deadline=later())).result


def left_over(before: set[asyncio.Task[Any]]) -> list[str]:
    """Name the tasks that were begun since; the store's own reach for a server on their own."""
    names = [task.get_name() for task in asyncio.all_tasks() - before]
    return [name for name in names if name not in {"sark-connect", "sark-probe-state"}]


def counts_of(report: WarmReport) -> dict[str, int]:
    found = asdict(report)
    del found["seconds"], found["reason"]
    return {name: count for name, count in found.items() if count}


class Gate:
    """An evaluator's answer that comes when the test says so.

    Args:
        passing: How many evaluations pass before one has to wait.
    """

    def __init__(self, passing: int = 0) -> None:
        self.passing = passing
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.running = 0
        self.most = 0

    async def __call__(self, _policy: str, _input: bytes) -> Decision:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.passing:
                self.passing -= 1
                await asyncio.sleep(0)
            else:
                self.reached.set()
                await asyncio.wait_for(self.opened.wait(), PATIENCE_SECONDS)
        finally:
            self.running -= 1
        return ALLOW


class TestWhatIsWarmed:
    async def test_is_then_answered_from_the_cache(self, server: ValkeyServer) -> None:
        evaluator = Scripted(ALLOW)
        async with opened(server.url, evaluator) as decisions:
            asked = many(250)
            report = await warm(decisions, asked, rate=FAST)
            assert counts_of(report) == {"asked": 250, "evaluated": 250, "stored": 250}
            assert report.seconds > 0
            assert len(evaluator.asked) == 250
            for each in asked:
                outcome = await decisions.decide(each, deadline=later())
                assert (outcome.source, outcome.allow, outcome.reason) == ("valkey", True, "warmed")
            assert len(evaluator.asked) == 250

    async def test_what_is_cached_is_left_alone(self, server: ValkeyServer) -> None:
        evaluator = Scripted(ALLOW)
        async with opened(server.url, evaluator) as decisions:
            await warm(decisions, many(10), rate=FAST)
            key = decisions.cache.decision_key(question("user-0"))
            with server.client() as client:
                client.expire(key, 1000)
                client.set(decisions.cache.decision_key(question("user-1")), b"corrupt", ex=1000)
            report = await warm(decisions, many(20), rate=FAST)
            assert counts_of(report) == {"asked": 20, "cached": 9, "evaluated": 11, "stored": 11}
            with server.client() as client:
                assert int(client.ttl(key)) <= 1000
            assert len(evaluator.asked) == 21

    async def test_repeated_questions_are_evaluated_once(self, server: ValkeyServer) -> None:
        evaluator = Scripted(ALLOW)
        async with opened(server.url, evaluator) as decisions:
            report = await warm(decisions, many(3) * 30, rate=FAST)
            assert counts_of(report) == {"asked": 90, "cached": 87, "evaluated": 3, "stored": 3}
            assert len(evaluator.asked) == 3

    async def test_what_may_not_be_kept_is_not(self, server: ValkeyServer) -> None:
        evaluator = Scripted(Decision(allow=True, cacheable=False))
        async with opened(server.url, evaluator) as decisions:
            report = await warm(decisions, many(3), rate=FAST)
            assert counts_of(report) == {"asked": 3, "evaluated": 3}
            assert await result(decisions, question("user-0")) == "absent"

    async def test_policies_that_are_never_kept_are_not_asked(self, server: ValkeyServer) -> None:
        rules = PolicyFile(rules={"authz": PolicyRule(cacheable=False)})
        evaluator = Scripted(ALLOW)
        async with opened(server.url, evaluator, rules=rules) as decisions:
            asked = [*many(3), question(policy="other")]
            report = await warm(decisions, asked, rate=FAST)
            assert counts_of(report) == {"asked": 4, "skipped": 3, "evaluated": 1, "stored": 1}
        assert [policy for policy, _ in evaluator.asked] == ["other"]

    async def test_what_cannot_be_asked_is_skipped(self, server: ValkeyServer) -> None:
        async with opened(server.url) as decisions:
            broken = [Unusable(f"file:{number}", "is no JSON") for number in range(250)]
            report = await warm(decisions, [*broken, *many(1)], rate=FAST)
            assert counts_of(report) == {"asked": 251, "skipped": 250, "evaluated": 1, "stored": 1}

    async def test_nothing_to_do_is_fine(self, server: ValkeyServer) -> None:
        async with opened(server.url) as decisions:
            assert counts_of(await warm(decisions, [], rate=1)) == {}

    async def test_a_failed_evaluation_is_counted_and_the_others_go_on(
        self, server: ValkeyServer
    ) -> None:
        async def decide(_policy: str, given: bytes) -> Decision | None:
            if b"user-1" in given:
                raise EvaluationError("broken")
            return None if b"user-2" in given else ALLOW

        async with opened(server.url, Scripted(decide)) as decisions:
            report = await warm(decisions, many(5), rate=FAST)
            assert counts_of(report) == {"asked": 5, "evaluated": 4, "stored": 3, "failed": 1}

    async def test_no_limit_is_charged_and_nothing_is_audited(self, server: ValkeyServer) -> None:
        hub, looks = Hub(), list[Looked]()
        hub.on(Looked, looks.append)
        async with opened(server.url, hub=hub) as decisions:
            await warm(decisions, many(20), rate=FAST)
        with server.client() as client:
            kinds = {key.split(b":")[1] for key in client.scan_iter()}
            assert all(key.startswith(b"policy:") for key in client.scan_iter())
        assert kinds == {b"generation", b"version", b"user_version", b"decision"}
        # Nor does it pass for look-ups of requests, whose hit ratio people watch.
        assert looks == []

    async def test_it_does_not_feed_the_log_that_it_comes_from(self, server: ValkeyServer) -> None:
        async with open_store(server.url) as store:
            decisions = policy_decisions(policy_cache(store), Scripted(ALLOW))
            hot = decisions.hot = HotRequests(store, every=1, keep=10)
            await warm(decisions, many(5), rate=FAST)
            await warm(decisions, many(5), rate=FAST)
            await hot.flush()
            assert await hot.read() == []


class TestWithoutReplacing:
    """As for who can't know under which policies the others decide."""

    async def test_what_it_cannot_explain_is_left_alone(self, server: ValkeyServer) -> None:
        async with (
            opened(server.url, Scripted(ALLOW, revision="services")) as services,
            opened(server.url, Scripted(ALLOW, revision="other")) as other,
        ):
            await warm(services, many(10), rate=FAST)
            foreign = b"not one of ours"
            assert await result(services, question("user-10")) == "absent"
            with server.client() as client:
                client.set(services.cache.decision_key(question("user-10")), foreign, ex=60)
            report = await warm(other, many(15), rate=FAST, replace=False)
            assert counts_of(report) == {"asked": 15, "foreign": 11, "evaluated": 4, "stored": 4}
            assert report.done == 15
            assert [await result(services, each) for each in many(10)] == ["hit"] * 10
            with server.client() as client:
                assert client.get(services.cache.decision_key(question("user-10"))) == foreign
            again = await warm(other, many(15), rate=FAST, replace=False)
            assert counts_of(again) == {"asked": 15, "foreign": 11, "cached": 4}

    async def test_nor_is_what_was_stored_meanwhile_replaced(self, server: ValkeyServer) -> None:
        gate = Gate()
        async with (
            opened(server.url, Scripted(ALLOW, revision="services")) as services,
            opened(server.url, Scripted(gate, revision="other")) as other,
        ):
            warming = asyncio.create_task(warm(other, many(1), rate=FAST, replace=False))
            await gate.reached.wait()
            await services.decide(question("user-0"), deadline=later())
            await services.evaluations.close()
            gate.opened.set()
            assert counts_of(await warming) == {"asked": 1, "evaluated": 1}
            assert await result(services, question("user-0")) == "hit"


class TestCost:
    async def test_a_hundred_look_ups_are_one_round_trip(self, server: ValkeyServer) -> None:
        async with count_round_trips(server) as (url, counts), opened(url) as decisions:
            await warm(decisions, many(250), rate=FAST)
            counts.reset()
            report = await warm(decisions, many(250), rate=FAST)
            assert counts_of(report) == {"asked": 250, "cached": 250}
            assert counts.round_trips <= 3
            assert counts.commands["set"] == 0

    async def test_a_miss_costs_one_more(self, server: ValkeyServer) -> None:
        async with count_round_trips(server) as (url, counts), opened(url) as decisions:
            await warm(decisions, many(1, first=1000), rate=FAST)
            counts.reset()
            await warm(decisions, many(50), rate=FAST, concurrency=1)
            assert counts.round_trips == 1 + 50

    async def test_no_more_evaluations_at_a_time_than_allowed(self, server: ValkeyServer) -> None:
        gate = Gate()
        async with opened(server.url, Scripted(gate)) as decisions:
            warming = asyncio.create_task(warm(decisions, many(30), rate=FAST, concurrency=4))
            await until(lambda: gate.running == 4, within=PATIENCE_SECONDS, what="four run")
            await asyncio.sleep(0.05)
            assert gate.running == 4
            gate.opened.set()
            assert (await warming).stored == 30
        assert gate.most == 4

    async def test_evaluations_keep_to_the_rate(self, server: ValkeyServer) -> None:
        begun: list[float] = []

        async def decide(_policy: str, _input: bytes) -> Decision:
            begun.append(asyncio.get_running_loop().time())
            return ALLOW

        rate = 100
        async with opened(server.url, Scripted(decide)) as decisions:
            await warm(decisions, many(30), rate=rate, concurrency=30)
        # A task that starts late may be followed closely; the whole can only take longer.
        assert begun[-1] - begun[0] >= 29 / rate - BURST_SECONDS - 0.005
        assert sum(later - earlier < 0.001 for earlier, later in pairwise(begun)) < 15

    async def test_questions_are_read_as_they_are_needed(self, server: ValkeyServer) -> None:
        read = 0

        def source() -> Iterator[Question]:
            nonlocal read
            for each in many(1000):
                read += 1
                yield each

        gate = Gate(passing=5)
        async with opened(server.url, Scripted(gate)) as decisions:
            warming = asyncio.create_task(warm(decisions, source(), rate=FAST, concurrency=1))
            await gate.reached.wait()
            assert read == 100
            gate.opened.set()
            await warming
        assert read == 1000

    async def test_progress_is_told(self, server: ValkeyServer) -> None:
        told: list[int] = []
        async with opened(server.url) as decisions:
            report = await warm(
                decisions, many(150), rate=FAST, on_progress=lambda r: told.append(r.done)
            )
        assert told == sorted(told)
        assert told[-1] == report.done == 150
        assert len(set(told)) > 100


Invalidate = Callable[[Generations], Awaitable[str]]


class TestRevocation:
    @pytest.mark.parametrize(
        ("invalidate", "revoked"),
        [
            (lambda generations: generations.invalidate_all(), range(10)),
            (lambda generations: generations.invalidate_policy("authz"), range(10)),
            (lambda generations: generations.invalidate_user("user-3"), [3]),
            (lambda generations: generations.invalidate_user("user-7"), [7]),
        ],
        ids=["all", "policy", "user under evaluation", "user looked up"],
    )
    async def test_no_warmed_decision_outlives_an_invalidation(
        self, server: ValkeyServer, invalidate: Invalidate, revoked: Sequence[int]
    ) -> None:
        """What was looked up before it, evaluated or not, is a miss after it."""
        gate = Gate(passing=3)
        async with opened(server.url, Scripted(gate)) as decisions:
            asked = many(10)
            warming = asyncio.create_task(warm(decisions, asked, rate=FAST, concurrency=1))
            await gate.reached.wait()  # user-3 is being evaluated, the later ones are looked up
            await invalidate(decisions.cache.generations)
            gate.opened.set()
            assert (await warming).stored == 10
            found = [await result(decisions, each) for each in asked]
            assert found == ["stale" if number in revoked else "hit" for number in range(10)]
            again = await warm(decisions, asked, rate=FAST)
            assert again.stored == len(revoked)
            assert [await result(decisions, each) for each in asked] == ["hit"] * 10

    async def test_a_request_joins_only_what_began_under_its_stamp(
        self, server: ValkeyServer
    ) -> None:
        gate = Gate()
        evaluator = Scripted(gate)
        async with opened(server.url, evaluator) as decisions:
            warming = asyncio.create_task(warm(decisions, many(1), rate=FAST))
            await gate.reached.wait()
            joined = asyncio.create_task(decisions.decide(question("user-0"), deadline=later()))
            await asyncio.sleep(0.05)
            assert len(evaluator.asked) == 1
            await decisions.cache.generations.invalidate_user("user-0")
            apart = asyncio.create_task(decisions.decide(question("user-0"), deadline=later()))
            await until(
                lambda: len(evaluator.asked) == 2, within=PATIENCE_SECONDS, what="it asks anew"
            )
            gate.opened.set()
            await asyncio.gather(warming, joined, apart)


def evaluations() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if "evaluate" in task.get_name()]


class TestCancellation:
    async def test_while_it_evaluates(self, server: ValkeyServer) -> None:
        """Nothing new begins; what was under way is stored, since requests may have joined it."""
        gate = Gate(passing=5)
        evaluator = Scripted(gate)
        async with opened(server.url, evaluator) as decisions:
            before = asyncio.all_tasks()
            warming = asyncio.create_task(warm(decisions, many(500), rate=FAST, concurrency=3))
            await until(lambda: gate.running == 3, within=PATIENCE_SECONDS, what="three run")
            warming.cancel()
            await asyncio.sleep(0.02)
            assert not warming.done()
            gate.opened.set()
            with pytest.raises(asyncio.CancelledError):
                await warming
            assert not left_over(before)
            assert decisions.evaluations.under_way == 0
            assert len(evaluator.asked) == 8
            assert [await result(decisions, each) for each in many(8)] == ["hit"] * 8

    async def test_while_it_waits_for_its_turn(self, server: ValkeyServer) -> None:
        evaluator = Scripted(ALLOW)
        async with opened(server.url, evaluator) as decisions:
            before = asyncio.all_tasks()
            warming = asyncio.create_task(warm(decisions, many(5) * 2, rate=0.01))
            await until(
                lambda: len(evaluator.asked) == 1 and not decisions.evaluations.under_way,
                within=PATIENCE_SECONDS,
                what="the first is evaluated",
            )
            warming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await warming
            assert not left_over(before)
            assert len(evaluator.asked) == 1

    async def test_at_any_moment(self, server: ValkeyServer) -> None:
        async with opened(server.url) as decisions:
            before = asyncio.all_tasks()
            for steps in range(0, 200, 3):
                first = 1000 * steps
                warming = asyncio.create_task(warm(decisions, many(120, first), rate=FAST))
                for _ in range(steps):
                    await asyncio.sleep(0)
                if warming.done():
                    assert (await warming).stored == 120
                    continue
                warming.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await warming
                assert not left_over(before)
                assert evaluations() == []


class TestServers:
    async def test_state_and_cache_apart(
        self, server: ValkeyServer, private_server: Callable[..., ValkeyServer]
    ) -> None:
        cache_server = private_server()
        evaluator = Scripted(ALLOW)
        opening = opened(server.url, evaluator, cache_url=cache_server.url, patience=1.0)
        async with opening as decisions:
            assert (await warm(decisions, many(150), rate=FAST)).stored == 150
            report = await warm(decisions, many(150), rate=FAST)
            assert counts_of(report) == {"asked": 150, "cached": 150}
            await decisions.cache.generations.invalidate_all()
            assert (await warm(decisions, many(150), rate=FAST)).stored == 150
            cache_server.kill()
            report = await warm(decisions, many(150), rate=FAST)
            assert counts_of(report) == {"asked": 100, "failed": 100}
            assert report.reason == "the cache server does not answer"
        assert len(evaluator.asked) == 300

    async def test_without_the_state_server(
        self, private_server: Callable[..., ValkeyServer]
    ) -> None:
        lost = private_server()
        async with opened(lost.url, patience=0.5) as decisions:
            lost.kill()
            before = asyncio.all_tasks()
            with pytest.raises(StoreError):
                await warm(decisions, many(5), rate=FAST)
            assert not left_over(before)


async def record(store: Store, *members: bytes) -> HotRequests:
    hot = HotRequests(store, every=1, keep=100)
    for rank, member in enumerate(members):
        await store.cache.execute("ZADD", store.keys.policy_hot_requests, 100 - rank, member)
    await store.cache.execute("EXPIRE", store.keys.policy_hot_requests, 60)
    return hot


@asynccontextmanager
async def warming_up(
    url: str,
    gate: Scripted,
    *members: bytes,
    ready_within: float = 0.0,
    patience: float = 5.0,
    **options: Any,
) -> AsyncIterator[tuple[WarmUp, list[Warmed], Decisions]]:
    hub, told = Hub(), list[Warmed]()
    hub.on(Warmed, told.append)
    async with open_store(url, valkey_socket_timeout=patience) as store:
        hot = await record(store, *members)
        cache = PolicyCache(store, policy_cache(store).generations, policy_cache(store).tiers)
        cache.rules = options.get("rules", cache.rules)
        decisions = policy_decisions(cache, gate)
        warm_up = WarmUp(
            decisions, hot, policies=["authz"], rate=FAST, ready_within=ready_within, hub=hub
        )
        try:
            yield warm_up, told, decisions
        finally:
            await warm_up.close()


class Away(Scripted):
    """An engine that is away until the test says otherwise, or from some evaluation on."""

    def __init__(self, away_after: int = 1000) -> None:
        super().__init__(ALLOW)
        self.is_away = True
        self.away_after = away_after
        self.checks = 0

    async def evaluate(self, policy: str, input_json: bytes) -> Evaluation:
        self.is_away = self.is_away or len(self.asked) >= self.away_after
        if self.is_away:
            raise EvaluationError("away")
        return await super().evaluate(policy, input_json)

    async def ready(self) -> str | None:
        self.checks += 1
        return "away" if self.is_away else None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(warm_up_module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(warm_up_module, "LONGEST_PAUSE_SECONDS", 0.05)


class TestAtTheStart:
    async def test_the_log_is_warmed_the_most_asked_first(self, server: ValkeyServer) -> None:
        evaluator = Scripted(ALLOW)
        rules = PolicyFile(rules={"authz": PolicyRule(Without([("secret",)]))})
        members = [
            spell(question("ann")),
            b"no question",
            spell(question("ben", context={"secret": 1})),
            spell(question(policy="gone")),
        ]
        async with warming_up(server.url, evaluator, *members, rules=rules) as (
            up,
            told,
            decisions,
        ):
            assert (up.holds_readiness, up.state) == (False, "not asked for")
            up.start()
            await until(lambda: told, within=PATIENCE_SECONDS, what="it ends")
            assert up.state == "ended, 4 questions"
            assert await result(decisions, question("ann")) == "hit"
            assert await result(decisions, question("ben")) == "hit"
        (event,) = told
        assert (event.evaluated, event.stored, event.skipped, event.reason) == (2, 2, 2, "")
        inputs = [given for _, given in evaluator.asked]
        assert [b"ann" in inputs[0], b"ben" in inputs[1]] == [True, True]
        assert b"secret" not in b"".join(inputs)

    async def test_readiness_waits_for_it_up_to_a_bound(self, server: ValkeyServer) -> None:
        gate = Gate()
        member = spell(question())
        async with warming_up(server.url, Scripted(gate), member, ready_within=0.2) as (
            up,
            told,
            _,
        ):
            begun = asyncio.get_running_loop().time()
            up.start()
            assert up.holds_readiness
            await until(
                lambda: not up.holds_readiness, within=PATIENCE_SECONDS, what="readiness gives up"
            )
            assert asyncio.get_running_loop().time() - begun >= 0.2
            assert (up.state, told) == ("under way, 0 questions", [])
            gate.opened.set()

    async def test_readiness_comes_when_it_ends(self, server: ValkeyServer) -> None:
        gate = Gate()
        member = spell(question())
        async with warming_up(
            server.url, Scripted(gate), member, ready_within=PATIENCE_SECONDS
        ) as (
            up,
            told,
            _,
        ):
            up.start()
            await gate.reached.wait()
            assert up.holds_readiness
            gate.opened.set()
            await until(lambda: told, within=PATIENCE_SECONDS, what="it ends")
            await asyncio.sleep(0)
            assert not up.holds_readiness

    async def test_readiness_does_not_wait_unless_told(self, server: ValkeyServer) -> None:
        gate = Gate()
        async with warming_up(server.url, Scripted(gate), spell(question())) as (up, _, _):
            up.start()
            assert not up.holds_readiness
            await gate.reached.wait()
            assert not up.holds_readiness
            gate.opened.set()

    async def test_the_health_report_says_so(self, server: ValkeyServer, tmp_path: Any) -> None:
        settings = Settings(
            valkey_url=ServerUrl(server.url),
            key_dir=tmp_path,
            data_dir=tmp_path / "data",
            warm_ready_ms=60_000,
            near_cache_entries=0,
        )
        gate = Gate()
        async with open_runtime(settings) as runtime:
            runtime.gateway.decisions.evaluations.evaluator = Scripted(gate)
            await record(runtime.store, spell(question()))
            assert (await readiness(runtime)).ready
            runtime.warm_up.start()
            await gate.reached.wait()
            report = await readiness(runtime)
            assert not report.ready
            assert [check.part for check in report.checks if not check.ok] == ["warm-up"]
            gate.opened.set()
            await until(
                lambda: not runtime.warm_up.holds_readiness,
                within=PATIENCE_SECONDS,
                what="it ends",
            )
            assert (await readiness(runtime)).ready

    async def test_a_lost_server_is_told_and_stops_nothing(
        self, private_server: Callable[..., ValkeyServer]
    ) -> None:
        lost = private_server()
        member = spell(question())
        async with warming_up(lost.url, Scripted(ALLOW), member, patience=0.5) as (up, told, _):
            lost.kill()
            up.start()
            await until(lambda: told, within=PATIENCE_SECONDS, what="it gives up")
        assert told[0].reason
        assert told[0].stored == 0

    @pytest.mark.usefixtures("quick")
    async def test_an_engine_that_is_not_up_yet_is_waited_for(self, server: ValkeyServer) -> None:
        evaluator = Away()
        members = [spell(each) for each in many(50)]
        async with warming_up(server.url, evaluator, *members) as (up, told, decisions):
            up.start()
            await until(lambda: evaluator.checks > 3, within=PATIENCE_SECONDS, what="it asks")
            assert evaluator.asked == [], "no question is wasted"
            assert [event.reason for event in told] == ["away"], "told once"
            assert up.state == "waits to try again, 0 questions"
            evaluator.is_away = False
            await until(lambda: len(told) == 2, within=PATIENCE_SECONDS, what="it warms")
            assert (told[1].stored, told[1].reason) == (50, "")
            assert await result(decisions, question("user-49")) == "hit"

    @pytest.mark.usefixtures("quick")
    async def test_an_opa_that_starts_after_the_service(
        self, server: ValkeyServer, tmp_path: Path
    ) -> None:
        hub, told, opened = Hub(), list[Warmed](), list[EvaluatorBreakerChanged]()
        hub.on(Warmed, told.append)
        hub.on(EvaluatorBreakerChanged, opened.append)
        async with OpaServer() as opa:
            await opa.stop()
            settings = Settings(
                valkey_url=ServerUrl(server.url),
                key_dir=tmp_path,
                data_dir=tmp_path / "data",
                opa_url=opa.url,
                opa_watch_interval=3600,
                policies=("full",),
                warm_rate=FAST,
            )
            async with open_runtime(settings, hub=hub) as runtime:
                asked = [question(f"user-{number}", policy="full") for number in range(200)]
                await record(runtime.store, *(spell(each) for each in asked))
                runtime.warm_up.start()
                await until(lambda: told, within=PATIENCE_SECONDS, what="it has to wait")
                assert told[0].reason == "OPA: connection refused"
                assert told[0].failed == 0
                await opa.start()
                await until(lambda: not told[-1].reason, within=PATIENCE_SECONDS, what="it warms")
                assert (told[-1].stored, told[-1].failed) == (200, 0)
        assert opened == []

    @pytest.mark.usefixtures("quick")
    async def test_an_engine_that_goes_away_is_not_asked_everything(
        self, server: ValkeyServer
    ) -> None:
        evaluator = Away(away_after=20)
        evaluator.is_away = False
        members = [spell(each) for each in many(100)]
        async with warming_up(server.url, evaluator, *members) as (up, told, _):
            up.start()
            await until(lambda: told, within=PATIENCE_SECONDS, what="it stops")
            assert (told[0].reason, told[0].stored) == ("away", 20)
            assert FAILURES_TO_ASK <= told[0].failed < 20
            evaluator.away_after, evaluator.is_away = 1000, False
            await until(lambda: len(told) == 2, within=PATIENCE_SECONDS, what="it goes on")
            assert (told[1].cached, told[1].stored, told[1].reason) == (20, 80, "")

    async def test_questions_that_fail_by_themselves_are_left_behind(
        self, server: ValkeyServer
    ) -> None:
        async def decide(_policy: str, given: bytes) -> Decision:
            if b"user-1" in given:
                raise EvaluationError("broken for these")
            return ALLOW

        members = [spell(each) for each in many(30)]
        async with warming_up(server.url, Scripted(decide), *members) as (up, told, _):
            up.start()
            await until(lambda: told, within=PATIENCE_SECONDS, what="it ends")
            assert up.state == "ended, 30 questions"
        assert (told[0].stored, told[0].failed, told[0].reason) == (19, 11, "")

    @pytest.mark.usefixtures("quick")
    async def test_a_server_that_comes_back_is_warmed(
        self, private_server: Callable[..., ValkeyServer]
    ) -> None:
        lost = private_server()
        async with warming_up(lost.url, Scripted(ALLOW), patience=0.5) as (up, told, decisions):
            lost.kill()
            up.start()
            await until(lambda: told, within=PATIENCE_SECONDS, what="it has to wait")
            lost.start()
            with lost.client() as client:
                client.zadd("policy:hot_requests", {spell(question()): 1})
                client.expire("policy:hot_requests", 60)
            await until(lambda: not told[-1].reason, within=PATIENCE_SECONDS, what="it warms")
            assert told[-1].stored == 1
            assert await result(decisions, question()) == "hit"

    async def test_closing_ends_it(self, server: ValkeyServer) -> None:
        evaluator = Scripted(ALLOW)
        async with warming_up(server.url, evaluator, spell(question())) as (up, told, _):
            before = asyncio.all_tasks()
            up.start()
            await up.close()
            await up.close()
            assert not left_over(before)
        assert told == []
