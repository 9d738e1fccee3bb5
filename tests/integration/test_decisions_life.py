"""How long decisions live: never longer than they may, spread, and left alone till near the end."""

from __future__ import annotations

import asyncio

import pytest

from sark.errors import InvalidRequestError
from sark.events import CacheWriteFailed, Hub, RoundTrip
from sark.policy import Decision
from sark.policy.decision import MAX_ENTRY_BYTES
from tests.support.gateways import Scripted, later, open_gateway, open_store, policy_cache, question
from tests.support.near import near_gateway, near_of, warm
from tests.support.polling import until
from tests.support.servers import ValkeyServer

COUNT = 300
HOUR = 3600


@pytest.mark.parametrize(("chosen", "most"), [(None, HOUR), (1000, 1000), (10 * HOUR, HOUR)])
async def test_jitter_shortens_spreads_and_never_lengthens(
    server: ValkeyServer, chosen: int | None, most: int
) -> None:
    async with open_store(server.url) as store:
        cache = policy_cache(store, jitter=0.5)
        asked = [question(resource=f"r{number}") for number in range(COUNT)]
        found = await cache.get(asked[0], "r1", deadline=later())
        told = [
            await cache.put(each, Decision(allow=True, ttl=chosen), found.stamp, deadline=later())
            for each in asked
        ]
        with server.client() as client:
            kept = [client.ttl(cache.decision_key(each)) for each in asked]
    for lives in (told, kept):
        assert max(lives) <= most
        assert min(lives) >= most / 2 - 5
        # Evenly drawn: so many leave no tenth of the range empty at either end.
        assert max(lives) > most * 0.95
        assert min(lives) < most * 0.55
        assert abs(sum(lives) / COUNT - most * 0.75) < most * 0.05


async def test_a_life_that_the_policy_chose_is_known_to_whoever_reads_it(
    server: ValkeyServer,
) -> None:
    """Five minutes are less than a tenth of the tier's hour, and no sign of an end."""
    asked = [question(f"u{number % 50}", resource=f"r{number}") for number in range(1000)]
    evaluator = Scripted(Decision(allow=True, ttl=300))
    async with (
        open_gateway(server.url, evaluator) as one,
        open_gateway(server.url, evaluator) as two,
    ):
        for start in range(0, len(asked), 500):
            await asyncio.gather(*(one.decisions.decide(q) for q in asked[start : start + 500]))
        await one.decisions.evaluations.close()
        for each in asked:
            assert (await one.decisions.decide(each)).source == "valkey"
        for each in asked[:200] * 3:
            assert (await two.decisions.decide(each)).source == "valkey"
        await one.decisions.evaluations.close()
        await two.decisions.evaluations.close()
    assert len(evaluator.asked) == len(asked)


async def test_near_copies_know_it_too(server: ValkeyServer) -> None:
    evaluator = Scripted(Decision(allow=True, ttl=300))
    async with (
        open_gateway(server.url, evaluator) as filler,
        near_gateway(server.url, evaluator) as gateway,
    ):
        await filler.decisions.decide(question())
        await filler.decisions.evaluations.close()
        await warm(gateway.decisions, question())
        entry, _ = near_of(gateway.decisions).cache.peek(question().key, 0.0)
        assert entry is not None
        assert entry.ends - entry.expires == pytest.approx(30)
    assert len(evaluator.asked) == 1


async def test_a_reason_that_is_too_long_to_read_back_is_answered_and_not_stored(
    server: ValkeyServer,
) -> None:
    hub, failures = Hub(), list[CacheWriteFailed]()
    hub.on(CacheWriteFailed, failures.append)
    evaluator = Scripted(Decision(allow=True, reason="x" * MAX_ENTRY_BYTES))
    async with open_gateway(server.url, evaluator, hub=hub) as gateway:
        for _ in range(2):
            found = await gateway.decisions.cache.get(question(), "r1", deadline=later())
            assert found.result == "absent", "it is not there, instead of corrupt"
            outcome = await gateway.decisions.decide(question())
            assert (outcome.source, len(outcome.reason)) == ("evaluated", MAX_ENTRY_BYTES)
            await gateway.decisions.evaluations.close()
        with server.client() as client:
            assert client.keys("policy:decision:*") == []
    assert len(failures) == 2
    assert "expected at most 1048576" in failures[0].reason


async def test_equal_demands_share_one_evaluation(server: ValkeyServer) -> None:
    """What a token that can't be verified demands is evaluated, and not once for each."""
    gate = asyncio.Event()

    async def decide(_policy: str, _input: bytes) -> Decision:
        await gate.wait()
        return Decision(allow=True)

    evaluator = Scripted(decide)
    hub, trips = Hub(), list[RoundTrip]()
    hub.on(RoundTrip, trips.append)
    async with open_gateway(server.url, evaluator, hub=hub) as gateway:
        asking = [
            asyncio.create_task(gateway.decisions.decide(question(), freshness=token))
            for token in ["junk"] * 100 + ["other"] * 100
        ]
        # Each has read, found nothing, and taken the tokens.
        await until(lambda: len(trips) >= 400, within=20, what="everybody's look-up has ended")
        gate.set()
        assert {outcome.source for outcome in await asyncio.gather(*asking)} == {"evaluated"}
        with pytest.raises(InvalidRequestError, match="expected what an invalidation returned"):
            await gateway.decisions.decide(question(), freshness="")
        with pytest.raises(InvalidRequestError, match="expected one of: fast, fresh, full"):
            await gateway.decisions.decide(question(), consistency="FULL")  # type: ignore[arg-type]
        with server.client() as client:
            assert client.keys("policy:decision:*") == []
    assert len(evaluator.asked) == 2
