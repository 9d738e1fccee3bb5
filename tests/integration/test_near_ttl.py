"""A copy in a process never outlives the server's entry, whoever writes while it is read."""

from __future__ import annotations

import asyncio

import pytest

from sark.policy.decision import Decision, encode_entry
from tests.support.gateways import later, open_store, policy_cache, question
from tests.support.servers import ValkeyServer

LONG_SECONDS, SHORT_SECONDS = 3600, 2


@pytest.mark.parametrize("split", [False, True], ids=["shared", "split"])
async def test_a_decision_is_read_with_its_own_ttl(server: ValkeyServer, *, split: bool) -> None:
    """A writer alternates long-lived and short-lived decisions under one key."""
    asked = [question(resource=f"r-{number}") for number in range(200)]
    async with open_store(server.url) as store, open_store(server.url) as other:
        cache = policy_cache(store)
        stamp = (await cache.get(asked[0], "r1", deadline=later())).stamp
        key = cache.decision_key(asked[0])
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                for reason, seconds in (("long", LONG_SECONDS), ("short", SHORT_SECONDS)):
                    value = encode_entry(Decision(allow=True, reason=reason), stamp)
                    await other.state.execute("SET", key, value, "EX", seconds)

        writer = asyncio.create_task(write())
        seen = set()
        for _ in range(300):
            if split:
                read = await cache.read_many([asked[0]] * 100, deadline=later())
                assert read is not None
                found = list(zip(*read, strict=True))
            else:
                hit = (await cache.get(asked[0], "r1", deadline=later())).decision
                found = [(hit.reason.encode(), hit.ttl_ms)] if hit else []
            for value, ttl_ms in found:
                if value is None:
                    continue
                short = b"short" in value
                seen.add(short)
                assert (ttl_ms <= SHORT_SECONDS * 1000) is short, "the TTL of another decision"
        done.set()
        await writer
    assert seen == {True, False}
