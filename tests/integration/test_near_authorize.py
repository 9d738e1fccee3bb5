"""``authorize`` with a near cache: what is at hand is judged by the server all the same."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.gateways import ask, generations, open_store, question, queued
from tests.support.near import Numbered, near_gateway, near_of, warm
from tests.support.probe import count_round_trips
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer


async def test_a_near_hit_leaves_out_only_its_own_read(server: ValkeyServer) -> None:
    async with (
        count_round_trips(server) as (url, counts),
        near_gateway(url, feed_url=server.url) as gateway,
    ):
        await warm(gateway.decisions, question())
        assert (await gateway.authorize(ask())).cached == "near"
        counts.reset()
        answer = await gateway.authorize(ask())
        assert (answer.cached, answer.allow) == ("near", True)
        assert 3590 <= answer.ttl <= 3600
        assert counts.round_trips == 2  # the generations with the limits, and the audit event
        near = counts.commands
        assert near["mget"] == 1
        assert not set(near) & {"get", "set"}
        near_of(gateway.decisions).cache.empty()
        counts.reset()
        assert (await gateway.authorize(ask())).cached == "valkey"
        assert counts.round_trips == 2
    assert [event["cached"] for event in queued(server)] == ["near", "near", "valkey"]


@pytest.mark.parametrize("scope", ["all", "policy", "user"])
async def test_a_near_decision_is_judged_by_the_servers_generations(
    server: ValkeyServer, scope: str
) -> None:
    """The feed hears nothing at all, and still nothing revoked is served."""
    evaluator = Numbered()
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(
            server.url, evaluator, feed_url=proxy.url(server.password), near={"bound": 60.0}
        ) as gateway,
        open_store(server.url) as elsewhere,
    ):
        made = generations(elsewhere)
        await warm(gateway.decisions, question())
        proxy.blackhole()
        for _ in range(100):
            at = evaluator.number
            match scope:
                case "all":
                    await made.invalidate_all()
                case "policy":
                    await made.invalidate_policy("authz")
                case _:
                    await made.invalidate_user("alice")
            answers = [await gateway.authorize(ask()) for _ in range(3)]
            assert all(int(answer.reason) > at for answer in answers)
            assert [answer.cached for answer in answers] == [False, "near", "near"]


async def test_a_revoked_near_decision_is_counted_as_stale_and_replaced(
    server: ValkeyServer,
) -> None:
    async with near_gateway(server.url, Numbered()) as gateway:
        await warm(gateway.decisions, question())
        with server.client() as client:
            client.delete("policy:user_version:alice")
        answer = await gateway.authorize(ask())
        assert answer.cached is False
        again = await gateway.authorize(ask())
        assert again.cached in {"near", "valkey"}
        assert again.reason == answer.reason


async def test_another_run_of_the_server_ends_near_decisions(server: ValkeyServer) -> None:
    """Its stamp holds the run: the generations may be the same, and the last writes lost."""
    async with near_gateway(server.url, Numbered()) as gateway:
        decisions, asked = gateway.decisions, question()
        await warm(decisions, asked)
        glance = decisions.glance(asked, use_entry=True)
        assert glance.entry is not None
        found = await decisions.cache.get(asked, decisions.revision)
        same = await decisions.settle(asked, decisions.plan(None, None), glance, found)
        assert same.source == "near"
        other = decisions.cache.judge_split(
            [*found.tokens, None, -2, found.at], [None, -2], "another run", "r1"
        )
        outcome = await decisions.settle(asked, decisions.plan(None, None), glance, other)
        assert outcome.source == "evaluated"


async def test_revocations_against_many_requests_at_once(server: ValkeyServer) -> None:
    """Each request knows which revocations had returned when it began."""
    evaluator = Numbered()
    async with near_gateway(server.url, evaluator) as gateway, open_store(server.url) as elsewhere:
        made = generations(elsewhere)
        floor = 0
        sources: list[object] = []
        done = asyncio.Event()

        async def request_on() -> None:
            while not done.is_set():
                at = floor
                answer = await gateway.authorize(ask())
                sources.append(answer.cached)
                assert int(answer.reason) > at

        tasks = [asyncio.create_task(request_on()) for _ in range(20)]
        for _ in range(60):
            reached = evaluator.number
            await made.invalidate_user("alice")
            floor = reached
            await asyncio.sleep(0.005)
        done.set()
        await asyncio.gather(*tasks)
    assert {False, "near"} <= set(sources)
