"""``full`` takes the place of what was decided before: in Valkey, and in every near cache.

Nothing is revoked here: the generations stay as they are, and the policies' own data has changed.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from sark.errors import EvaluationError
from sark.gateway import Gateway
from sark.policy import Decision
from sark.policy.decision import decode_entry, encode_entry, is_withdrawal
from tests.support.gateways import Scripted, ask, open_gateway, question
from tests.support.near import BOUND_SECONDS, Numbered, near_gateway, near_of, warm
from tests.support.probe import count_round_trips
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

OLD = Decision(allow=True, reason="old")
NEW = Decision(allow=False, reason="new")
SECRET = Decision(allow=False, reason="not to be kept", cacheable=False)


async def heard(*gateways: Gateway) -> None:
    """Wait until the near caches have heard everything up to now, and no longer."""
    for gateway in gateways:
        near = near_of(gateway.decisions)
        at = near.now()
        while near._feed.coherent_at <= at:
            assert near.now() < at + 10, "the feed does not catch up"
            await asyncio.sleep(0)


def beat_quickly(*gateways: Gateway) -> None:
    """Let feeds tell how far they have come every few milliseconds, whatever their bound is."""
    for gateway in gateways:
        near_of(gateway.decisions)._feed._interval = 0.003


async def full(gateway: Gateway, user: str = "alice") -> str:
    return (await gateway.authorize(ask(user, consistency="full"))).reason


@pytest.mark.parametrize("through", ["decide", "authorize"])
async def test_it_replaces_what_other_processes_hold(server: ValkeyServer, through: str) -> None:
    evaluator = Scripted(OLD)
    async with (
        near_gateway(server.url, evaluator) as one,
        near_gateway(server.url, evaluator) as two,
    ):
        await warm(one.decisions, question())
        await warm(two.decisions, question())
        evaluator.decide = NEW
        if through == "decide":
            outcome = await two.decisions.decide(question(), consistency="full")
            assert outcome.reason == "new"
        else:
            assert await full(two) == "new"
        # Here at once, elsewhere as soon as it is heard.
        assert (await two.decisions.decide(question())).reason == "new"
        await heard(one)
        assert (await one.authorize(ask())).reason == "new"
        assert (await one.decisions.decide(question())).reason == "new"
        await warm(one.decisions, question())
        assert (await two.authorize(ask())).cached == "near", "its own news leave its copy alone"
    assert len(evaluator.asked) == 2


@pytest.mark.parametrize("decision", [SECRET, Decision(allow=False, ttl=0), None])
async def test_what_may_not_be_kept_replaces_all_the_same(
    server: ValkeyServer, decision: Decision | None
) -> None:
    async def undefined(_policy: str, _input: bytes) -> Decision | None:
        return None

    evaluator = Scripted(OLD)
    async with (
        near_gateway(server.url, evaluator) as one,
        near_gateway(server.url, evaluator) as two,
    ):
        await warm(one.decisions, question())
        await warm(two.decisions, question())
        evaluator.decide = decision if decision is not None else undefined
        answer = await two.authorize(ask(consistency="full"))
        assert (answer.allow, answer.cached, answer.ttl) == (False, False, 0)
        await heard(one, two)
        for gateway in (one, two):
            answer = await gateway.authorize(ask())
            assert (answer.allow, answer.cached) == (False, False)
        evaluator.decide = NEW
        for gateway in (one, two, one):
            assert (await gateway.authorize(ask())).reason == "new"
        assert (await one.authorize(ask())).cached, "what may be kept is kept again"


async def test_a_failed_evaluation_replaces_nothing(server: ValkeyServer) -> None:
    async def fail(_policy: str, _input: bytes) -> Decision:
        raise EvaluationError("out of order")

    evaluator = Scripted(OLD)
    async with near_gateway(server.url, evaluator) as gateway:
        await warm(gateway.decisions, question())
        evaluator.decide = fail
        assert not (await gateway.authorize(ask(consistency="full"))).allow
        assert (await gateway.authorize(ask())).cached == "near"


class Held:
    """Holds the first evaluation; the others go on."""

    def __init__(self, first: Decision, others: Decision) -> None:
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        self._decisions = (first, others)

    async def __call__(self, _policy: str, _input: bytes) -> Decision:
        if self.begun.is_set():
            return self._decisions[1]
        self.begun.set()
        await self.gate.wait()
        return self._decisions[0]


@pytest.mark.parametrize("wish", ["full", "fast"])
@pytest.mark.parametrize("later", [NEW, SECRET])
@pytest.mark.parametrize("split", [False, True])
async def test_an_evaluation_that_began_earlier_never_has_the_last_word(
    server: ValkeyServer, wish: str, later: Decision, split: bool
) -> None:
    with ValkeyServer() as cache:
        cache_url = cache.url if split else None
        held = Held(OLD, later)
        evaluator = Scripted(held)
        async with (
            near_gateway(server.url, evaluator, cache_url=cache_url) as one,
            near_gateway(server.url, evaluator, cache_url=cache_url) as two,
        ):
            slow = asyncio.create_task(one.authorize(ask(consistency=wish)))
            await held.begun.wait()
            assert await full(two) == later.reason
            if later is SECRET:
                # It would be an evaluation from before.
                assert (await one.authorize(ask())).reason == later.reason
            held.gate.set()
            assert (await slow).reason == "old", "who asked earlier may be answered so"
            await heard(one, two)
            for gateway in (one, two):
                assert (await gateway.authorize(ask())).reason == later.reason
                assert (await gateway.decisions.decide(question())).reason == later.reason


async def test_with_servers_of_their_own(server: ValkeyServer) -> None:
    """Decisions are on one server, and processes listen to the other."""
    evaluator = Scripted(OLD)
    with ValkeyServer() as cache:
        async with (
            near_gateway(server.url, evaluator, cache_url=cache.url) as one,
            near_gateway(server.url, evaluator, cache_url=cache.url) as two,
        ):
            await warm(one.decisions, question())
            evaluator.decide = NEW
            assert await full(two) == "new"
            await heard(one)
            assert (await one.authorize(ask())).reason == "new"


async def test_near_copies_that_outlived_the_servers_own_are_replaced_too(
    server: ValkeyServer,
) -> None:
    """Someone else filled the gap meanwhile, and had nothing to replace."""
    evaluator = Scripted(OLD)
    async with (
        near_gateway(server.url, evaluator) as one,
        open_gateway(server.url, evaluator) as two,
    ):
        await warm(one.decisions, question())
        evaluator.decide = NEW
        with server.client() as client:
            client.delete(two.decisions.cache.decision_key(question()))
        assert (await two.authorize(ask())).reason == "new"
        assert (await one.authorize(ask())).reason == "old"
        assert await full(two) == "new"
        await heard(one)
        assert (await one.authorize(ask())).reason == "new"


async def test_a_silent_feed_delays_it_by_no_more_than_the_bound(server: ValkeyServer) -> None:
    evaluator = Scripted(OLD)
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(server.url, evaluator, feed_url=proxy.url(server.password)) as one,
        open_gateway(server.url, evaluator) as two,
    ):
        await warm(one.decisions, question())
        evaluator.decide = NEW
        proxy.blackhole()
        await full(two)
        loop = asyncio.get_running_loop()
        acknowledged = last = loop.time()
        while loop.time() < acknowledged + 2 * BOUND_SECONDS:
            began = loop.time()
            if (await one.authorize(ask())).reason == "old":
                last = began
        assert last - acknowledged <= BOUND_SECONDS


async def test_a_clock_that_was_set_back_is_no_obstacle(server: ValkeyServer) -> None:
    evaluator = Scripted(OLD)
    async with open_gateway(server.url, evaluator) as gateway:
        decisions = gateway.decisions
        await gateway.authorize(ask())
        key = decisions.cache.decision_key(question())
        with server.client() as client:
            entry = decode_entry(client.get(key))
            assert entry is not None
            ahead = entry.began + 3_600_000_000
            client.set(key, encode_entry(OLD, entry.stamp, began=ahead), ex=60)
        evaluator.decide = NEW
        for wish in ("full", "fast"):
            assert (await gateway.authorize(ask(consistency=wish))).reason == "new"
        assert (await decisions.decide(question(), consistency="full")).reason == "new"
        assert (await decisions.decide(question())).source == "valkey"


async def test_two_quick_writes_to_a_hot_key(server: ValkeyServer) -> None:
    """Hundreds of runs, with readers in both processes and feeds that lag at random."""
    evaluator = Numbered()
    random = Random(7)
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(server.url, evaluator) as one,
        near_gateway(
            server.url, evaluator, feed_url=proxy.url(server.password), near={"bound": 5.0}
        ) as two,
    ):
        beat_quickly(one, two)
        done = False

        async def read_on(gateway: Gateway) -> None:
            while not done:
                await gateway.decisions.decide(question())
                await asyncio.sleep(0)

        readers = [asyncio.create_task(read_on(each)) for each in (one, two) for _ in range(3)]
        for _ in range(250):
            proxy.delay(random.choice([0, 0, 0.0005, 0.002]))
            writers = random.choices([one, two], k=2)
            if random.random() < 0.5:
                await full(writers[0])
                last = {await full(writers[1])}
            else:
                last = set(await asyncio.gather(full(writers[0]), full(writers[1])))
            await heard(one, two)
            seen = {(await each.decisions.decide(question())).reason for each in (one, two, one)}
            assert len(seen) == 1, "everybody has the same"
            assert seen <= last
        done = True
        await asyncio.gather(*readers)


async def test_a_read_under_way_leaves_no_replaced_value_behind(server: ValkeyServer) -> None:
    """Reads and writes cross in every order: the answer first, the news first, or at once."""
    users = [f"user-{number}" for number in range(300)]
    random = Random(3)
    evaluator = Scripted(OLD)
    async with (
        open_gateway(server.url, evaluator) as writer,
        FaultProxy(server.host, server.port) as reads,
        FaultProxy(server.host, server.port) as changes,
        near_gateway(
            reads.url(server.password),
            evaluator,
            feed_url=changes.url(server.password),
            near={"bound": 5.0},
            valkey_pool_size=60,
        ) as gateway,
    ):
        beat_quickly(gateway)
        for user in users:
            await writer.decisions.decide(question(user))
        await writer.decisions.evaluations.close()
        evaluator.decide = NEW
        early: list[str] = []

        async def cross(user: str) -> None:
            reading = asyncio.create_task(gateway.decisions.decide(question(user)))
            await asyncio.sleep(random.random() * 0.03)
            assert await full(writer, user) == "new"
            early.append((await reading).reason)

        for start in range(0, len(users), 50):
            reads.delay(random.choice([0, 0.01]))
            changes.delay(random.choice([0, 0.01]))
            await asyncio.gather(*map(cross, users[start : start + 50]))
        await heard(gateway)
        near = near_of(gateway.decisions)
        kept = [near.get_coherent(question(user).key, near.now()) for user in users]
        assert [entry.reason for entry in kept if entry is not None].count("old") == 0
        assert "old" in early, "some reads were answered before the write"
        reads.delay(0)
        for user in users:
            assert (await gateway.decisions.decide(question(user))).reason == "new"


async def test_what_it_costs(server: ValkeyServer) -> None:
    async with (
        count_round_trips(server) as (url, counts),
        near_gateway(url, Numbered(), feed_url=server.url) as gateway,
    ):
        await full(gateway)
        counts.reset()
        await full(gateway)
        commands = counts.commands
        assert counts.round_trips <= 3, (
            "the look-up, the decision and the audit event, perhaps in one write"
        )
        assert (commands["set"], commands["publish"]) == (1, 1)
        counts.reset()
        await gateway.authorize(ask(resource="srv-2"))
        assert (counts.commands["set"], counts.commands["publish"]) == (1, 0), "nothing to replace"


async def test_a_withdrawal_is_short_and_outlasts_evaluations(server: ValkeyServer) -> None:
    evaluator = Scripted(OLD)
    async with open_gateway(server.url, evaluator) as gateway:
        await gateway.authorize(ask())
        evaluator.decide = SECRET
        await full(gateway)
        with server.client() as client:
            key = gateway.decisions.cache.decision_key(question())
            assert is_withdrawal(client.get(key))
            # Twice the longest deadlines that can be set, and a request's budget.
            assert 180 <= client.ttl(key) <= 200
        # Nothing that was valid stood there: nothing is written.
        await gateway.authorize(ask(resource="srv-2"))
        with server.client() as client:
            assert len(client.keys("policy:decision:*")) == 1
