"""The decision cache on a real server: what is kept, for how long, and what is never served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sark.events import CacheWriteFailed, Hub
from sark.policy import Decision, Found, PolicyCache, Question, TtlTiers
from sark.policy.decision import encode_entry
from sark.store import Store
from tests.support.gateways import later, open_store, policy_cache, question
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer

ALLOW = Decision(allow=True, reason="first")


async def look(cache: PolicyCache, asked: Question, revision: str = "r1") -> Found:
    return await cache.get(asked, revision, deadline=later())


async def fill(cache: PolicyCache, asked: Question, decision: Decision = ALLOW) -> int:
    found = await look(cache, asked)
    return await cache.put(asked, decision, found.stamp, deadline=later())


async def test_a_decision_is_missed_once_and_then_found(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        assert (await look(cache, asked)).result == "absent"
        assert await fill(cache, asked) == 3600
        found = await look(cache, asked)
        assert found.result == "hit"
        assert found.decision is not None
        assert (found.decision.allow, found.decision.reason) == (True, "first")
        assert found.decision.ttl == 3600
        for other in (
            question("bob"),
            question(policy="tools"),
            question(resource="srv-2"),
            question(context={"a": None}),
            question(action="server:list"),
        ):
            assert (await look(cache, other)).result == "absent"


@pytest.mark.parametrize(
    ("action", "ttl", "kept"),
    [
        ("server:read", None, 3600),
        ("server:write", None, 900),
        ("user:grant", None, 300),
        ("unknown", None, 300),
        ("admin:read", None, 300),
        ("server:read", 3601, 3600),
        ("server:read", 10**12, 3600),
        ("user:grant", 3600, 300),
        ("server:read", 60, 60),
        ("user:grant", 1, 1),
    ],
)
async def test_the_ttl_is_the_policys_but_never_longer_than_the_tier(
    server: ValkeyServer, action: str, ttl: int | None, kept: int
) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question(action=action)
        assert await fill(cache, asked, Decision(allow=True, ttl=ttl)) == kept
        with server.client() as client:
            left = client.pttl(cache.decision_key(asked))
        assert kept * 1000 - 900 <= left <= kept * 1000


@pytest.mark.parametrize(
    "decision",
    [
        Decision(allow=True, cacheable=False),
        Decision(allow=True, ttl=60, cacheable=False),
        Decision(allow=True, ttl=0),
        Decision(allow=True, ttl=-1),
    ],
)
async def test_what_may_not_be_kept_is_not_even_sent(
    server: ValkeyServer, decision: Decision
) -> None:
    hub, failures = Hub(), list[CacheWriteFailed]()
    hub.on(CacheWriteFailed, failures.append)
    async with (
        count_round_trips(server) as (url, counts),
        open_store(url, hub=hub) as store,
    ):
        cache, asked = policy_cache(store), question()
        found = await look(cache, asked)
        counts.reset()
        assert await cache.put(asked, decision, found.stamp, deadline=later()) == 0
        assert counts.round_trips == 0
        assert (await look(cache, asked)).result == "absent"
    assert failures == []


def _of_version(version: int, reason: str) -> bytes:
    return encode_entry(Decision(allow=True, reason=reason), "s").replace(
        b'"v":"2', b'"v":"%d' % version
    )


@pytest.mark.parametrize(
    "stored",
    [
        *(b"", b"{", b"null", b"\xff\xfe", b"[1]", b'{"v":1}', b'{"x":' + b"[" * 100_000),
        _of_version(3, ""),
        _of_version(0, ""),
    ],
    ids=lambda stored: repr(stored[:12]),
)
async def test_a_corrupt_or_foreign_value_is_a_miss_and_is_overwritten(
    server: ValkeyServer, stored: bytes
) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        with server.client() as client:
            client.set(cache.decision_key(asked), stored, ex=60)
        assert (await look(cache, asked)).result == "corrupt"
        await fill(cache, asked)
        assert (await look(cache, asked)).result == "hit"


async def test_a_key_of_another_type_is_a_miss_and_is_overwritten(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        keys = [cache.decision_key(asked), *cache.generation_keys(asked)]
        for key in keys:
            await fill(cache, asked)
            assert (await look(cache, asked)).result == "hit"
            with server.client() as client:
                client.delete(key)
                client.rpush(key, "x")
                client.expire(key, 60)
            assert (await look(cache, asked)).decision is None
        await fill(cache, asked)
        assert (await look(cache, asked)).result == "hit"


async def test_a_decision_of_another_revision_is_a_miss(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        assert (await look(cache, asked, "r2")).result == "stale"
        assert (await look(cache, asked, "")).result == "stale"
        assert (await look(cache, asked, "r1")).result == "hit"


async def test_a_decision_filed_under_anothers_key_is_still_judged_by_its_stamp(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        cache, alice, bob = policy_cache(store), question("alice"), question("bob")
        await fill(cache, alice)
        await look(cache, bob)
        with server.client() as client:
            value: Any = client.get(cache.decision_key(alice))
            client.set(cache.decision_key(bob), value, ex=60)
        assert (await look(cache, bob)).result == "stale"


async def test_looking_costs_one_round_trip_and_no_script(server: ValkeyServer) -> None:
    async with count_round_trips(server) as (url, counts), open_store(url) as store:
        cache, asked = policy_cache(store), question()
        found = await look(cache, asked)
        await cache.put(asked, ALLOW, found.stamp, deadline=later())
        counts.reset()
        await cache.put(asked, ALLOW, found.stamp, deadline=later())
        assert counts.round_trips == 1
        assert counts.commands == {"evalsha": 1, "mget": 1, "set": 1}
        counts.reset()
        assert (await look(cache, asked)).result == "hit"
        assert counts.round_trips == 1
        assert counts.commands == {"multi": 1, "mget": 1, "pttl": 1, "exec": 1}


async def test_a_server_that_forgot_the_scripts_is_given_them_again(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        with server.client() as client:
            client.script_flush()
        assert (await look(cache, asked)).result == "hit"


async def test_many_callers_that_find_no_tokens_agree_on_new_ones(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        found = await asyncio.gather(*(look(cache, asked) for _ in range(50)))
        assert len({each.stamp for each in found}) == 1


async def test_a_restart_costs_a_miss_though_everything_survived(
    private_server: Callable[..., ValkeyServer],
) -> None:
    own = private_server({"appendonly": "yes", "appendfsync": "always"})
    async with open_store(own.url) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        keys = [cache.decision_key(asked), *cache.generation_keys(asked)]
        before = stored(own, keys)
        own.restart()
        assert stored(own, keys) == before
        assert None not in before
        async with open_store(own.url) as fresh:
            assert (await look(policy_cache(fresh), asked)).result == "stale"
            await fill(policy_cache(fresh), asked)
            assert (await look(policy_cache(fresh), asked)).result == "hit"


def stored(server: ValkeyServer, keys: list[str]) -> list[Any]:
    with server.client() as client:
        values: list[Any] = client.mget(keys)
    return values


async def test_split_servers_hold_what_is_theirs(
    server: ValkeyServer, private_server: Callable[..., ValkeyServer]
) -> None:
    own = private_server()
    async with open_store(server.url, cache_url=own.url) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        assert (await look(cache, asked)).result == "hit"
        assert names(own) == {cache.decision_key(asked)}
        assert names(server) == set(cache.generation_keys(asked))
        await cache.generations.invalidate_user("alice")
        assert (await look(cache, asked)).result == "stale"
        with own.client() as client:
            client.delete(cache.decision_key(asked))
            client.rpush(cache.decision_key(asked), "x")
        assert (await look(cache, asked)).decision is None
        await fill(cache, asked)
        assert (await look(cache, asked)).result == "hit"


async def test_a_cache_server_that_is_down_is_a_miss(
    server: ValkeyServer, private_server: Callable[..., ValkeyServer]
) -> None:
    own = private_server()
    hub, failures = Hub(), list[CacheWriteFailed]()
    hub.on(CacheWriteFailed, failures.append)
    async with open_store(server.url, cache_url=own.url, hub=hub) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        own.kill()
        found = await cache.get(asked, "r1", deadline=later(0.2))
        assert found.result == "unavailable"
        assert await cache.put(asked, ALLOW, found.stamp, deadline=later(0.2)) == 0
    assert len(failures) == 1


def names(server: ValkeyServer) -> set[str]:
    with server.client() as client:
        return {key.decode() for key in client.scan_iter()}


async def renewed_ttl(store: Store, server: ValkeyServer, left: int, *, hit: bool) -> int:
    """Give a user's token so many seconds to live, look once, and tell what it then has."""
    tiers = TtlTiers(high=10, medium=20, low=30)
    cache, asked = policy_cache(store, tiers), question()
    await fill(cache, asked)
    token = cache.generation_keys(asked)[2]
    with server.client() as client:
        client.expire(token, left)
        if not hit:
            client.delete(cache.decision_key(asked))
        assert (await look(cache, asked)).result == ("hit" if hit else "absent")
        seconds: int = client.ttl(token)
        return seconds


async def test_a_users_token_outlives_every_decision_stamped_with_it(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        assert 55 <= await renewed_ttl(store, server, 20, hit=False) <= 60
        assert 40 <= await renewed_ttl(store, server, 45, hit=False) <= 45
        # Below half it lives on for as long as any decision that it can be the stamp of.
        left = await renewed_ttl(store, server, 31, hit=True)
        assert left >= 30


async def test_only_a_users_token_expires(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        with server.client() as client:
            ttls = [client.ttl(key) for key in cache.generation_keys(asked)]
        assert ttls[:2] == [-1, -1]
        assert 7190 <= ttls[2] <= 7200


async def test_a_users_token_without_ttl_gets_one(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        await fill(cache, asked)
        with server.client() as client:
            client.persist(cache.generation_keys(asked)[2])
            client.delete(cache.decision_key(asked))
            await look(cache, asked)
            assert client.ttl(cache.generation_keys(asked)[2]) > 0
