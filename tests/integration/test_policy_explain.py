"""Explaining questions, in the library: split servers, what may have changed."""

from __future__ import annotations

import pytest

from sark.errors import StoreError
from sark.policy import Decision, Question
from sark.policy.decisions import Decisions
from sark.policy.explain import Explanation, explain, judge_value, possible_changes
from sark.store import Store
from tests.support.gateways import Scripted, open_store, policy_cache, policy_decisions
from tests.support.servers import ValkeyServer, free_port

QUESTION = Question.ask("authz", "ann", "x:read", "r")
HOUR = 3600
NOW = 1_800_000_000.0


def token(seconds_ago: float) -> bytes:
    return f"{int((NOW - seconds_ago) * 1_000_000)}-nonce".encode()


async def look(store: Store, decisions: Decisions) -> Explanation:
    return await explain(store, decisions, QUESTION)


async def test_split_servers(server: ValkeyServer) -> None:
    with ValkeyServer() as cache:
        async with open_store(server.url, cache_url=cache.url) as store:
            decisions = policy_decisions(policy_cache(store), Scripted())
            outcome = await decisions.decide(QUESTION)
            assert outcome.flight is not None
            await outcome.flight.ttl()
            found = await look(store, decisions)
            assert (found.answered_from, found.cached.state) == ("valkey", "valid")
            cache.stop()
            found = await look(store, decisions)
            assert (found.answered_from, found.cached.state) == ("evaluated", "unavailable")
            assert found.expected is not None


async def test_without_the_state_server_nothing_can_be_said() -> None:
    async with open_store(f"valkey://127.0.0.1:{free_port()}") as store:
        with pytest.raises(StoreError):
            await look(store, policy_decisions(policy_cache(store), Scripted()))


async def test_a_lost_generation_is_named_and_not_replaced(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        decisions = policy_decisions(policy_cache(store), Scripted(Decision(allow=True)))
        outcome = await decisions.decide(QUESTION)
        assert outcome.flight is not None
        await outcome.flight.ttl()
        with server.client() as client:
            client.delete("policy:version:authz")
            found = await look(store, decisions)
            assert client.exists("policy:version:authz") == 0
    assert [seen.token is None for seen in found.generations] == [False, True, False]
    assert (found.answered_from, found.expected) == ("evaluated", None)
    assert found.cached.state == "stale"
    assert "policy" in found.may_have_changed


def test_only_recent_tokens_can_have_changed() -> None:
    """Ten minutes of an hour have passed at most: what was written 20 minutes ago stood already."""
    tokens = (token(20 * 60), token(5 * 60), None)
    left_ms = 50 * 60 * 1000
    found = possible_changes(tokens, left_ms, longest=HOUR, now=NOW)
    assert found == ("policy", "user", "run_id", "revision")
    assert possible_changes(tokens, None, longest=HOUR, now=NOW)[0] == "all", "its age is unknown"


def test_a_value_without_end_and_one_that_has_just_gone() -> None:
    value = b'{"v":"1s","allow":false,"reason":"no"}'
    assert judge_value((value, -1), "s").ttl_ms is None
    assert judge_value((value, -2), "s").ttl_ms == 0
    assert judge_value((None, -2), "s").state == "absent"
    assert judge_value((value, 5), None).state == "stale"
