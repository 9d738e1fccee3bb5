"""A decision is read with its own TTL, whoever writes at the same time.

A local copy lives for the TTL that it was read with. Paired with the TTL of a decision stored a
moment before or after, it would outlive what the server holds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sark.policy.decision import Decision, encode_entry
from tests.support.gateways import later, open_store, policy_cache, question
from tests.support.servers import ValkeyServer

SECONDS = {"long": 3600, "short": 2}


@contextmanager
def alternating(server: ValkeyServer, key: str, stamp: str) -> Iterator[None]:
    """Store long-lived and short-lived decisions under one key, as fast as a thread can."""
    done = threading.Event()

    def write() -> None:
        with server.client() as client:
            while not done.is_set():
                for reason, seconds in SECONDS.items():
                    value = encode_entry(Decision(allow=True, reason=reason), stamp)
                    client.set(key, value, ex=seconds)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


async def test_many_are_read_with_their_own_ttl(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        stamp = (await cache.get(asked, "r1", deadline=later())).stamp
        seen = set()
        with alternating(server, cache.decision_key(asked), stamp):
            for _ in range(100):
                # So many that the server takes them in with several reads, others in between.
                read = await cache.read_many([asked] * 1000, deadline=later())
                assert read is not None
                for value, ttl_ms in zip(*read, strict=True):
                    if value is not None:
                        short = b"short" in value
                        assert (ttl_ms <= SECONDS["short"] * 1000) is short
                        seen.add(short)
    assert seen == {True, False}


async def test_one_is_read_with_its_own_ttl(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        cache, asked = policy_cache(store), question()
        stamp = (await cache.get(asked, "r1", deadline=later())).stamp
        seen = set()
        with alternating(server, cache.decision_key(asked), stamp):
            for _ in range(1000):
                found = (await cache.get(asked, "r1", deadline=later())).decision
                if found is not None:
                    assert (found.ttl_ms <= SECONDS["short"] * 1000) is (found.reason == "short")
                    seen.add(found.reason)
    assert seen == SECONDS.keys()
