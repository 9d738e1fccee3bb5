"""Explaining questions, in the library: split servers, what may have changed."""

from __future__ import annotations

import pytest

from sark.errors import StoreError
from sark.policy import Decision, Question
from sark.policy.decision import encode_entry, encode_withdrawal
from sark.policy.decisions import Decisions
from sark.policy.explain import Explanation, changed_since, explain, judge_value
from sark.store import Store
from tests.support.gateways import Scripted, open_store, policy_cache, policy_decisions
from tests.support.servers import ValkeyServer, free_port

QUESTION = Question.ask("authz", "ann", "x:read", "r")


async def look(store: Store, decisions: Decisions) -> Explanation:
    return await explain(store, decisions, QUESTION)


@pytest.mark.heavy
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


@pytest.mark.heavy
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
    assert (found.changed, found.may_have_changed) == (("policy",), ())


def test_what_was_written_later_than_the_evaluation_began_has_changed() -> None:
    began = 1_800_000_000_000_000
    tokens = (b"%d-x" % began, b"%d-x" % (began + 1), None)
    assert changed_since(tokens, began) == ("policy", "user")
    assert changed_since(tokens, began + 1) == ("user",)
    assert changed_since((b"junk", b"1-x", b"2-x"), began) == ()


def test_a_value_without_end_and_one_that_has_just_gone() -> None:
    value = encode_entry(Decision(allow=False, reason="no"), "s", began=1_800_000_000_000_000)
    judged, began = judge_value((value, -1), "s")
    assert (judged.state, judged.ttl_ms) == ("valid", None)
    assert began == 1_800_000_000_000_000
    assert judged.evaluated == "2027-01-15T08:00:00+00:00"
    assert judge_value((value, -2), "s")[0].ttl_ms == 0
    assert judge_value((None, -2), "s")[0].state == "absent"
    assert judge_value((value, 5), None)[0].state == "stale"
    assert judge_value((encode_withdrawal(began), 5), None)[0].state == "withdrawn"
    old = b'{"v":"1s","allow":false,"reason":"no"}'
    assert judge_value((old, 5), None)[0].state == "other_version"
