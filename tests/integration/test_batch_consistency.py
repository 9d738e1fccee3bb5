"""A batch with a consistency: every question by the same rules as a single one."""

from __future__ import annotations

from typing import Any

import pytest

from sark.batch import BatchQuestion, BatchRequest, authorize_many
from sark.gateway import Answer, Gateway
from tests.support.gateways import generations, open_gateway, open_store, question
from tests.support.near import Numbered, near_gateway, near_of, warm
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

RESOURCES = ("srv-1", "srv-2", "srv-3")
USER_TOKEN = "policy:user_version:alice"


async def ask_all(gateway: Gateway, **wishes: Any) -> list[Answer]:
    questions = [BatchQuestion(action="server:read", resource=each) for each in RESOURCES]
    return await authorize_many(
        gateway, BatchRequest(user_id="alice", questions=questions, **wishes)
    )


def cached(answers: list[Answer]) -> list[object]:
    return [answer.cached for answer in answers]


async def warm_all(gateway: Gateway) -> set[str]:
    for resource in RESOURCES:
        await warm(gateway.decisions, question(resource=resource))
    return {answer.reason for answer in await ask_all(gateway)}


async def test_fast_takes_near_decisions(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered()) as gateway:
        await warm_all(gateway)
        assert cached(await ask_all(gateway)) == ["near"] * 3
        near_of(gateway.decisions).cache.empty()
        assert cached(await ask_all(gateway)) == ["valkey"] * 3
        assert cached(await ask_all(gateway, consistency="fast")) == ["near"] * 3


async def test_full_evaluates_all_and_replaces_all(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered()) as gateway:
        old = await warm_all(gateway)
        answers = await ask_all(gateway, consistency="full")
        assert cached(answers) == [False] * 3
        new = [answer.reason for answer in answers]
        assert old.isdisjoint(new)
        assert [answer.reason for answer in await ask_all(gateway)] == new


async def test_fresh_leaves_near_decisions_out(server: ValkeyServer) -> None:
    """The feed is silent and within its bound: what is near may be from before."""
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(
            server.url, Numbered(), feed_url=proxy.url(server.password), near={"bound": 60.0}
        ) as gateway,
        open_store(server.url) as elsewhere,
    ):
        old = await warm_all(gateway)
        proxy.blackhole()
        unrelated = await generations(elsewhere).invalidate_user("bob")
        assert cached(await ask_all(gateway, freshness=unrelated)) == ["valkey"] * 3
        token = await generations(elsewhere).invalidate_user("alice")
        answers = await ask_all(gateway, freshness=token)
        assert cached(answers) == [False] * 3
        assert old.isdisjoint(answer.reason for answer in answers)
        assert cached(await ask_all(gateway, freshness=token)) == ["valkey"] * 3


async def test_what_the_server_has_lost_is_evaluated_and_not_stored(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered()) as gateway, open_store(server.url) as elsewhere:
        old = await warm_all(gateway)
        with server.client() as client:
            before = client.get(USER_TOKEN)
            token = await generations(elsewhere).invalidate_user("alice")
            client.set(USER_TOKEN, before, ex=60)
            for _ in range(2):
                answers = await ask_all(gateway, freshness=token)
                assert cached(answers) == [False] * 3
                assert old.isdisjoint(answer.reason for answer in answers)
            assert {answer.reason for answer in await ask_all(gateway)} == old


@pytest.mark.parametrize("left_seconds", [1000, 3599, 3601, 5000])
async def test_a_users_token_is_renewed_below_half_of_its_life(
    server: ValkeyServer, left_seconds: int
) -> None:
    """Two hours with the default tiers: it has to outlive the decisions that are stored now."""
    async with open_gateway(server.url, Numbered()) as gateway:
        await ask_all(gateway)
        with server.client() as client:
            assert client.ttl(USER_TOKEN) == pytest.approx(7200, abs=2)
            token = client.get(USER_TOKEN)
            client.expire(USER_TOKEN, left_seconds)
            await ask_all(gateway)
            renewed = 7200 if left_seconds < 3600 else left_seconds
            assert client.ttl(USER_TOKEN) == pytest.approx(renewed, abs=2)
            assert client.get(USER_TOKEN) == token
