"""Revocation: when an invalidation has returned, nothing older than it is served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sark.errors import InvalidRequestError, StoreError, StoreTimeoutError
from sark.events import GenerationChanged, Hub
from sark.gateway import Answer
from sark.policy import Decision, PolicyCache, Question
from sark.policy.freshness import generation_time
from sark.policy.generations import Generations
from tests.support.gateways import (
    SIGNER,
    Scripted,
    ask,
    generations,
    later,
    open_gateway,
    open_store,
    policy_cache,
    question,
)
from tests.support.servers import ValkeyServer

USERS = [
    "user-1",
    "user-12",
    "user-*",
    "*",
    "user-1:x",
    "user",
    "USER-1",
    "é",
    "e\u0301",
    "x" * 256,
]
POLICIES = ["authz", "authz2", "auth"]
QUESTIONS = [question(user, policy=policy) for user in USERS for policy in POLICIES]

Invalidate = Callable[[Generations], Awaitable[str]]


async def fill(cache: PolicyCache, asked: Question) -> None:
    found = await cache.get(asked, "r1", deadline=later())
    await cache.put(asked, Decision(allow=True), found.stamp, deadline=later())


async def valid(cache: PolicyCache) -> set[tuple[str, str]]:
    found = [await cache.get(asked, "r1", deadline=later()) for asked in QUESTIONS]
    return {
        (asked.user_id, asked.policy)
        for asked, each in zip(QUESTIONS, found, strict=True)
        if each.decision is not None
    }


EVERYTHING = {(user, policy) for user in USERS for policy in POLICIES}
SCOPES: list[tuple[str, Invalidate, set[tuple[str, str]]]] = [
    ("all", lambda generations: generations.invalidate_all(), EVERYTHING),
    *(
        (
            f"policy {name}",
            lambda generations, name=name: generations.invalidate_policy(name),
            {(user, name) for user in USERS},
        )
        for name in POLICIES
    ),
    *(
        (
            f"user {name[:10]}",
            lambda generations, name=name: generations.invalidate_user(name),
            {(name, policy) for policy in POLICIES},
        )
        for name in USERS
    ),
    ("unknown user", lambda generations: generations.invalidate_user("user-?"), set()),
    ("unknown policy", lambda generations: generations.invalidate_policy("*"), set()),
]


async def test_an_invalidation_revokes_its_scope_and_nothing_else(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache = policy_cache(store)
        for name, invalidate, revoked in SCOPES:
            for asked in QUESTIONS:
                await fill(cache, asked)
            assert await valid(cache) == EVERYTHING
            await invalidate(cache.generations)
            assert await valid(cache) == EVERYTHING - revoked, name


async def test_another_process_sees_it_at_once(server: ValkeyServer) -> None:
    async with open_store(server.url) as one, open_store(server.url) as other:
        writer, reader = policy_cache(one), policy_cache(other)
        for _ in range(20):
            await fill(writer, question())
            assert (await reader.get(question(), "r1")).result == "hit"
            await writer.generations.invalidate_user("alice")
            assert (await reader.get(question(), "r1")).result == "stale"


async def test_a_lost_token_costs_misses_and_never_revives(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        for lost in range(3):
            await fill(cache, asked)
            assert (await cache.get(asked, "r1")).result == "hit"
            with server.client() as client:
                old = client.get(cache.decision_key(asked))
                client.delete(cache.generation_keys(asked)[lost])
                assert (await cache.get(asked, "r1")).decision is None
                # Nor on any later look, and it is the very decision that lies there.
                assert (await cache.get(asked, "r1")).result == "stale"
                assert client.get(cache.decision_key(asked)) == old


async def test_a_token_lost_right_after_an_invalidation_does_not_undo_it(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        for lost in range(3):
            await fill(cache, asked)
            for invalidate in (
                cache.generations.invalidate_all(),
                cache.generations.invalidate_policy("authz"),
                cache.generations.invalidate_user("alice"),
            ):
                await invalidate
                with server.client() as client:
                    client.delete(cache.generation_keys(asked)[lost])
                assert (await cache.get(asked, "r1")).decision is None
                assert (await cache.get(asked, "r1")).decision is None


def written_at(freshness: str) -> int:
    """Read when the generation of a freshness token was written, in microseconds."""
    verified = SIGNER.verify(freshness)
    assert verified is not None
    return generation_time(verified.generation.encode())


async def test_tokens_are_unique_and_later_than_the_one_before(server: ValkeyServer) -> None:
    async with open_store(server.url) as one, open_store(server.url) as other:
        writers = [generations(store) for store in (one, other)]
        tokens = await asyncio.gather(*(writers[n % 2].invalidate_all() for n in range(200)))
        assert len(set(tokens)) == 200
        times = [written_at(token) for token in tokens]
        assert len(set(times)) == 200
        later_one = await writers[0].invalidate_all()
        assert written_at(later_one) > max(times)


async def test_a_token_from_the_future_is_still_followed_by_a_later_one(
    server: ValkeyServer,
) -> None:
    with server.client() as client:
        seconds, _ = client.time()
        future = (seconds + 10 * 365 * 86_400) * 1_000_000
        client.set("policy:generation", f"{future}-old")
        client.set("policy:version:authz", f"{future}-old")
        client.set("policy:user_version:alice", f"{future}-old", ex=60)
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        generations = cache.generations
        for expected in (future + 1, future + 2):
            for write in (
                generations.invalidate_all(),
                generations.invalidate_policy("authz"),
                generations.invalidate_user("alice"),
            ):
                await fill(cache, asked)
                assert (await cache.get(asked, "r1")).result == "hit"
                assert written_at(await write) == expected
                assert (await cache.get(asked, "r1")).result == "stale"


@pytest.mark.parametrize("broken", ["", "abc", "-5-x", "99999999999999999999999-x", "\xff"])
async def test_a_broken_token_is_replaced_by_a_right_one(server: ValkeyServer, broken: str) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        for key in cache.generation_keys(asked):
            with server.client() as client:
                client.set(key, broken, ex=60)
        await fill(cache, asked)
        tokens = {
            await cache.generations.invalidate_all(),
            await cache.generations.invalidate_all(),
        }
        assert len(tokens) == 2
        assert (await cache.get(asked, "r1")).decision is None


async def test_the_users_token_gets_its_ttl_anew(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        writer = generations(store)
        await writer.invalidate_user("alice")
        await writer.invalidate_policy("authz")
        with server.client() as client:
            client.expire("policy:user_version:alice", 5)
            await writer.invalidate_user("alice")
            assert 55 <= client.ttl("policy:user_version:alice") <= 60
            assert client.ttl("policy:version:authz") == -1


async def test_an_invalidation_is_reported_once_it_is_written(server: ValkeyServer) -> None:
    hub, seen = Hub(), list[GenerationChanged]()
    hub.on(GenerationChanged, seen.append)
    async with open_store(server.url, hub=hub) as store:
        writer = generations(store)
        await writer.invalidate_all()
        await writer.invalidate_policy("authz")
        await writer.invalidate_user("alice")
        with pytest.raises(InvalidRequestError):
            await writer.invalidate_user("")
    assert [(each.scope, each.name) for each in seen] == [
        ("all", ""),
        ("policy", "authz"),
        ("user", "alice"),
    ]


async def test_an_invalidation_that_may_not_have_happened_raises(
    private_server: Callable[..., ValkeyServer],
) -> None:
    own = private_server()
    hub, seen = Hub(), list[GenerationChanged]()
    hub.on(GenerationChanged, seen.append)
    async with open_store(own.url, hub=hub, valkey_socket_timeout=0.2) as store:
        writer = generations(store)
        await writer.invalidate_all()
        with own.paused(), pytest.raises(StoreTimeoutError):
            await writer.invalidate_user("alice")
        own.kill()
        for write in (
            writer.invalidate_all,
            lambda: writer.invalidate_policy("authz"),
            lambda: writer.invalidate_user("alice"),
        ):
            with pytest.raises(StoreError):
                await write()
    assert len(seen) == 1


class Gate:
    """Holds evaluations until told to let them go; each answer tells its number."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.evaluations = 0

    async def __call__(self, _policy: str, _input: bytes) -> Decision:
        self.evaluations += 1
        number = self.evaluations
        self.begun.set()
        await self.open.wait()
        return Decision(allow=True, reason=str(number))


INVALIDATIONS: list[Invalidate] = [
    lambda generations: generations.invalidate_all(),
    lambda generations: generations.invalidate_policy("authz"),
    lambda generations: generations.invalidate_user("alice"),
]


@pytest.mark.parametrize("invalidate", INVALIDATIONS, ids=["all", "policy", "user"])
async def test_a_decision_overtaken_by_an_invalidation_is_stored_but_never_served(
    server: ValkeyServer, invalidate: Invalidate
) -> None:
    gate = Gate()
    async with open_gateway(server.url, Scripted(gate)) as gateway:
        overtaken = asyncio.create_task(gateway.authorize(ask()))
        await gate.begun.wait()
        await invalidate(gateway.decisions.cache.generations)
        gate.open.set()
        first = await overtaken
        assert (first.reason, first.cached, first.ttl) == ("1", False, 3600)
        with server.client() as client:
            assert client.exists(gateway.decisions.cache.decision_key(question()))
        second = await gateway.authorize(ask())
        assert (second.reason, second.cached) == ("2", False)
        third = await gateway.authorize(ask())
        assert (third.reason, third.cached) == ("2", "valkey")


async def test_a_newer_decision_survives_an_invalidation_elsewhere(server: ValkeyServer) -> None:
    gate = Gate()
    async with open_gateway(server.url, Scripted(gate), policies=("authz", "tools")) as gateway:
        running = asyncio.create_task(gateway.authorize(ask()))
        await gate.begun.wait()
        await gateway.decisions.cache.generations.invalidate_user("alice2")
        await gateway.decisions.cache.generations.invalidate_policy("tools")
        gate.open.set()
        await running
        assert (await gateway.authorize(ask())).cached == "valkey"


async def test_a_stale_decision_does_not_overwrite_a_newer_one(
    server: ValkeyServer,
) -> None:
    gate = Gate()
    async with open_gateway(server.url, Scripted(gate)) as gateway:
        old = asyncio.create_task(gateway.authorize(ask()))
        await gate.begun.wait()
        await gateway.decisions.cache.generations.invalidate_user("alice")
        held, gate.open = gate.open, asyncio.Event()
        gate.open.set()
        assert (await gateway.authorize(ask())).reason == "2"
        held.set()
        assert (await old).reason == "1"
        answers = [await gateway.authorize(ask()) for _ in range(3)]
        assert [answer.reason for answer in answers] == ["2", "2", "2"]


async def test_under_load_nothing_older_than_an_acknowledged_invalidation_is_served(
    server: ValkeyServer,
) -> None:
    evaluations = 0

    async def decide(_policy: str, _input: bytes) -> Decision:
        nonlocal evaluations
        evaluations += 1
        number = evaluations
        await asyncio.sleep(0)
        return Decision(allow=True, reason=str(number))

    async with (
        open_gateway(server.url, Scripted(decide)) as one,
        open_gateway(server.url, Scripted(decide)) as other,
    ):
        acknowledged = 0
        over = False
        hits = 0

        async def read(gateway_number: int) -> None:
            nonlocal hits
            while not over:
                floor = acknowledged
                answer: Answer = await (one, other)[gateway_number % 2].authorize(ask())
                if answer.cached:
                    hits += 1
                    assert int(answer.reason) > floor

        readers = [asyncio.create_task(read(number)) for number in range(8)]
        for _ in range(60):
            before = evaluations
            await one.decisions.cache.generations.invalidate_user("alice")
            acknowledged = before
            await other.authorize(ask())
        over = True
        await asyncio.gather(*readers)
        assert hits
