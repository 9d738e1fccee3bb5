"""The log of the most asked questions on a real server: shared, bounded, and fading."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sark.errors import EvaluationError
from sark.policy import Decision, Question
from sark.policy.hot import (
    DECAY_INTERVAL_MS,
    FORGOTTEN,
    HALF_LIFE_MS,
    LIFE_MS,
    MAX_FLUSHED,
    HotRequests,
    recall,
)
from sark.policy.policy_file import PolicyFile
from sark.store import Store
from tests.support.gateways import (
    Meeting,
    Scripted,
    ask,
    open_gateway,
    open_store,
    policy_cache,
    policy_decisions,
    processes,
    question,
    together,
)
from tests.support.hot import CountWork
from tests.support.near import near_gateway, warm
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer

KEY = "policy:hot_requests"
RULES = PolicyFile()


def log_on(store: Store, every: int = 1, keep: int = 1000) -> HotRequests:
    return HotRequests(store, every=every, keep=keep)


async def count(hot: HotRequests, *questions: Question, times: int = 1) -> None:
    for asked in questions:
        for _ in range(times):
            hot.note(asked, RULES)
    await hot.flush()


def scores(server: ValkeyServer) -> dict[bytes, float]:
    with server.client() as client:
        return dict(cast("list[tuple[bytes, float]]", client.zrange(KEY, 0, -1, withscores=True)))


def users(server: ValkeyServer) -> dict[str, float]:
    return {recall(m, RULES, ["authz"]).user_id: score for m, score in scores(server).items()}


def age(server: ValkeyServer, milliseconds: int) -> None:
    """Make the last decay look so long ago."""
    with server.client() as client:
        client.pexpire(KEY, LIFE_MS - milliseconds)


def life(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(cast("int", client.pttl(KEY)))


async def test_counts_add_up_and_the_most_asked_come_first(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        hot = log_on(store)
        await count(hot, question("ann"), times=2)
        await count(hot, question("ben"), times=5)
        await count(hot, question("ann"), times=1)
        await count(hot, question("cleo"), times=1)
        assert users(server) == {"ann": 3, "ben": 5, "cleo": 1}
        read = await hot.read()
        asked = [recall(member, RULES, ["authz"]) for member in read]
        assert asked == [question("ben"), question("ann"), question("cleo")]
        assert await hot.read(2) == read[:2]
        assert await hot.read(0) == []
    assert LIFE_MS - 60_000 < life(server) <= LIFE_MS


async def test_a_flush_is_one_round_trip_and_none_when_there_is_nothing(
    server: ValkeyServer,
) -> None:
    async with count_round_trips(server) as (url, counts), open_store(url) as store:
        hot = log_on(store)
        await count(hot, question("first"))
        counts.reset()
        for number in range(MAX_FLUSHED + 50):
            hot.note(question(f"u{number}"), RULES)
        await hot.flush()
        assert counts.round_trips == 1
        assert counts.commands["zincrby"] == MAX_FLUSHED
        counts.reset()
        await hot.flush()
        assert counts.round_trips == 0


async def test_the_log_keeps_the_most_asked_only(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        hot = log_on(store, keep=10)
        for number in range(30):
            await count(hot, question(f"u{number}"), times=number + 1)
        assert set(users(server)) == {f"u{number}" for number in range(20, 30)}
        await count(log_on(store, keep=3), question("u29"))
        assert set(users(server)) == {"u27", "u28", "u29"}


class TestDecay:
    async def test_counts_halve_in_a_half_life(self, server: ValkeyServer) -> None:
        async with open_store(server.url) as store:
            hot = log_on(store)
            await count(hot, question("ann"), times=80)
            age(server, HALF_LIFE_MS // 2)
            await count(hot, question("ben"))
            assert users(server) == {"ann": pytest.approx(80 * 0.5**0.5, rel=1e-3), "ben": 1}

    async def test_not_more_often_than_once_a_minute(self, server: ValkeyServer) -> None:
        async with open_store(server.url) as store:
            hot = log_on(store)
            await count(hot, question("ann"), times=80)
            age(server, DECAY_INTERVAL_MS - 10_000)
            await count(hot, question("ben"))
            assert users(server)["ann"] == 80
            assert life(server) < LIFE_MS - DECAY_INTERVAL_MS + 11_000
            age(server, DECAY_INTERVAL_MS)
            await count(hot, question("ben"))
            decayed = users(server)["ann"]
            assert decayed == pytest.approx(80 * 0.5 ** (1 / 60), rel=1e-3)
            await count(hot, question("ben"))
            assert users(server)["ann"] == decayed
            assert life(server) > LIFE_MS - 10_000

    async def test_a_long_pause_ages_by_one_half_life(self, server: ValkeyServer) -> None:
        async with open_store(server.url) as store:
            hot = log_on(store)
            await count(hot, question("ann"), times=80)
            age(server, 3 * 86_400_000)
            await count(hot, question("ben"))
            assert users(server) == {"ann": 40, "ben": 1}

    async def test_what_was_not_asked_for_long_is_forgotten(self, server: ValkeyServer) -> None:
        async with open_store(server.url) as store:
            hot = log_on(store)
            await count(hot, question("ann"), times=80)
            with server.client() as client:
                client.zadd(KEY, {question("old").text: 1.9 * FORGOTTEN})
                client.zadd(KEY, {question("just").text: 2 * FORGOTTEN})
            age(server, HALF_LIFE_MS)
            await count(hot, question("ben"))
            assert set(users(server)) == {"ann", "ben", "just"}

    async def test_a_log_that_lost_its_life_gets_one(self, server: ValkeyServer) -> None:
        async with open_store(server.url) as store:
            hot = log_on(store)
            await count(hot, question("ann"), times=3)
            with server.client() as client:
                client.persist(KEY)
            await count(hot, question("ann"))
            assert users(server) == {"ann": 4}
            assert life(server) > LIFE_MS - 10_000


async def test_processes_share_one_log(server: ValkeyServer) -> None:
    with processes(3) as pool:
        work = CountWork(Meeting(server.url, "hot", 3), flushes=40, keep=20)
        counted = await together(pool, 3, work)
    found = users(server)
    assert found["shared"] == sum(counted) == 3 * 400
    assert len(found) == 20


async def test_a_flush_that_fails_disturbs_nobody(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        hot = log_on(store)
        with server.client() as client:
            client.set(KEY, "of another type", ex=60)
        await count(hot, question())
        with server.client() as client:
            client.delete(KEY)
        await count(hot, question())
        assert users(server) == {"alice": 1}


class TestAnswers:
    """What the request path lets the log hear."""

    async def test_every_answer_counts_from_whichever_cache(self, server: ValkeyServer) -> None:
        async with open_gateway(server.url) as gateway:
            hot = gateway.decisions.hot = log_on(gateway.store)
            for _ in range(5):
                await gateway.authorize(ask("ann"))
            await gateway.authorize(ask("ben"))
            await hot.flush()
        assert users(server) == {"ann": 5, "ben": 1}

    async def test_decisions_without_rate_limits_count_too(self, server: ValkeyServer) -> None:
        async with open_store(server.url) as store:
            decisions = policy_decisions(policy_cache(store), Scripted())
            hot = decisions.hot = log_on(store)
            for _ in range(3):
                await decisions.decide(question("ann"))
            await hot.flush()
        assert users(server) == {"ann": 3}

    async def test_hits_of_the_near_cache_alone_count_too(self, server: ValkeyServer) -> None:
        async with near_gateway(server.url, near={"bound": 5.0}) as gateway:
            await warm(gateway.decisions, question("ann"))
            hot = gateway.decisions.hot = log_on(gateway.store)
            sources = [(await gateway.decisions.decide(question("ann"))).source for _ in range(20)]
            await hot.flush()
        assert sources == ["near"] * 20
        assert users(server) == {"ann": 20}

    @pytest.mark.parametrize(
        "decided",
        [Decision(allow=True, cacheable=False), Decision(allow=True, ttl=0), None, "raises"],
        ids=str,
    )
    async def test_what_may_not_be_kept_does_not_count(
        self, server: ValkeyServer, decided: Decision | str | None
    ) -> None:
        async def decide(_policy: str, _input: bytes) -> Decision | None:
            if isinstance(decided, str):
                raise EvaluationError(decided)
            return decided

        async with open_gateway(server.url, Scripted(decide)) as gateway:
            hot = gateway.decisions.hot = log_on(gateway.store)
            await gateway.authorize(ask())
            await hot.flush()
        assert users(server) == {}

    async def test_sensitive_actions_do_not_count(self, server: ValkeyServer) -> None:
        async with open_gateway(server.url) as gateway:
            hot = gateway.decisions.hot = log_on(gateway.store)
            for action in ("admin:read", "user:grant", "server:read"):
                await gateway.authorize(ask(action=action))
                await gateway.authorize(ask(action=action))
            await hot.flush()
        (member,) = scores(server)
        assert recall(member, RULES, ["authz"]) == question()

    async def test_counting_costs_a_request_no_command(self, server: ValkeyServer) -> None:
        async with (
            count_round_trips(server) as (url, counts),
            open_gateway(url) as gateway,
        ):
            for number in range(2):
                await gateway.authorize(ask(f"warm-up-{number}"))
            spent: list[Any] = []
            for hot in (None, log_on(gateway.store)):
                gateway.decisions.hot = hot
                counts.reset()
                for _ in range(10):
                    await gateway.authorize(ask("warm-up-0"))
                spent.append((counts.round_trips, counts.commands))
        assert spent[0] == spent[1]
