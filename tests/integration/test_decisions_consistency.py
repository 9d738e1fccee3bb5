"""Consistency that a request chooses, and the freshness tokens that make it."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from sark.errors import InvalidRequestError
from sark.policy.consistency import MAX_TOKENS
from sark.policy.freshness import MAX_TOKEN_BYTES, Freshness, FreshnessSigner
from tests.support.gateways import SIGNER, ask, generations, open_gateway, open_store, question
from tests.support.near import Numbered, near_gateway, near_of, warm
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer

Through = Literal["decide", "authorize"]
BOTH = pytest.mark.parametrize("through", ["decide", "authorize"])


async def answer(gateway: Any, through: Through, **wishes: Any) -> tuple[str, str]:
    """Ask one way or the other; tells where the answer came from, and its reason."""
    if through == "decide":
        outcome = await gateway.decisions.decide(question(), **wishes)
        if outcome.flight is not None:
            await outcome.flight.ttl()
        return outcome.source, outcome.reason
    given = await gateway.authorize(ask(**wishes))
    return given.cached or "evaluated", given.reason


@BOTH
async def test_full_evaluates_and_stores(server: ValkeyServer, through: Through) -> None:
    async with near_gateway(server.url, Numbered()) as gateway:
        await warm(gateway.decisions, question())
        for number in ("2", "3"):
            assert await answer(gateway, through, consistency="full") == ("evaluated", number)
        near_of(gateway.decisions).cache.empty()
        assert await answer(gateway, through, consistency="fast") == ("valkey", "3")


@BOTH
async def test_fresh_sees_a_revocation_that_the_feed_has_not_brought(
    server: ValkeyServer, through: Through
) -> None:
    async with (
        FaultProxy(server.host, server.port) as proxy,
        near_gateway(
            server.url, Numbered(), feed_url=proxy.url(server.password), near={"bound": 60.0}
        ) as gateway,
        open_store(server.url) as elsewhere,
    ):
        await warm(gateway.decisions, question())
        proxy.blackhole()
        token = await generations(elsewhere).invalidate_user("alice")
        if through == "decide":
            assert await answer(gateway, through) == ("near", "1"), "within the bound"
        assert await answer(gateway, through, freshness=token) == ("evaluated", "2")
        source, reason = await answer(gateway, through, freshness=token, consistency="fresh")
        assert source != "evaluated"
        assert reason == "2"


@BOTH
@pytest.mark.parametrize("scope", ["all", "policy", "user"])
async def test_what_covers_a_token_is_served_from_the_cache(
    server: ValkeyServer, through: Through, scope: str
) -> None:
    async with open_gateway(server.url, Numbered()) as gateway:
        made = gateway.decisions.cache.generations
        match scope:
            case "all":
                token = await made.invalidate_all()
            case "policy":
                token = await made.invalidate_policy("authz")
            case _:
                token = await made.invalidate_user("alice")
        assert await answer(gateway, through, freshness=token) == ("evaluated", "1")
        assert await answer(gateway, through, freshness=token) == ("valkey", "1")
        await made.invalidate_user("alice")
        assert await answer(gateway, through, freshness=token) == ("evaluated", "2")


@BOTH
async def test_a_token_of_others_is_irrelevant(server: ValkeyServer, through: Through) -> None:
    async with open_gateway(server.url, Numbered()) as gateway:
        await answer(gateway, through)
        made = gateway.decisions.cache.generations
        later = f"{10**17}-x"
        for token in (
            await made.invalidate_user("alice2"),
            await made.invalidate_policy("tools"),
            SIGNER.sign(Freshness("user", "bob", later)),
            SIGNER.sign(Freshness("policy", "alice", later)),
        ):
            assert await answer(gateway, through, freshness=token) == ("valkey", "1")


def unverifiable() -> dict[str, str]:
    good = SIGNER.sign(Freshness("user", "alice", "1-a"))
    other = FreshnessSigner(b"another key of the tests, 32 byte")
    return {
        "another key": other.sign(Freshness("user", "alice", "1-a")),
        "truncated": good[:-1],
        "garbled": good[:-3] + "AAA",
        "not ours": "hello",
        "not ASCII": "ünïcödé.a.b.ç",
        "a surrogate": "a.b.c.\ud800",
        "another user": good.replace(".YWxpY2U.", ".Ym9i."),
        "longest": "x" * MAX_TOKEN_BYTES,
    }


@BOTH
@pytest.mark.parametrize("name", unverifiable())
async def test_a_token_that_cannot_be_verified_is_evaluated_and_not_stored(
    server: ValkeyServer, through: Through, name: str
) -> None:
    token = unverifiable()[name]
    assert SIGNER.verify(token) is None
    async with near_gateway(server.url, Numbered()) as gateway:
        await warm(gateway.decisions, question())
        assert await answer(gateway, through, freshness=token) == ("evaluated", "2")
        assert await answer(gateway, through, freshness=token) == ("evaluated", "3")
        near_of(gateway.decisions).cache.empty()
        assert await answer(gateway, through) == ("valkey", "1")


@BOTH
@pytest.mark.parametrize("loss", ["forgotten", "set back"])
async def test_a_change_that_the_primary_has_lost_is_evaluated_and_not_stored(
    server: ValkeyServer, through: Through, loss: str
) -> None:
    """As after a failover to a replica without the last writes, whose clock is behind as well."""
    async with near_gateway(server.url, Numbered()) as gateway:
        made = gateway.decisions.cache.generations
        key = "policy:user_version:alice"
        await answer(gateway, through)
        with server.client() as client:
            before = client.get(key)
            token = await made.invalidate_user("alice")
            if loss == "set back":
                client.set(key, before, ex=60)
                assert (await answer(gateway, through))[1] == "1", "it is revived without a token"
            else:
                client.delete(key)
                ahead = SIGNER.verify(token)
                assert ahead is not None
                later = int(ahead.generation.partition("-")[0]) + 10**12
                token = SIGNER.sign(Freshness("user", "alice", f"{later}-x"))
                await answer(gateway, through)
            stored = client.get(gateway.decisions.cache.decision_key(question()))
            at = gateway.decisions.evaluations.evaluator.number  # type: ignore[attr-defined]
            for number in (at + 1, at + 2):
                assert await answer(gateway, through, freshness=token) == (
                    "evaluated",
                    str(number),
                )
            assert client.get(gateway.decisions.cache.decision_key(question())) == stored


async def test_a_lost_generation_is_made_anew_and_covers_the_token(server: ValkeyServer) -> None:
    async with open_gateway(server.url, Numbered()) as gateway:
        token = await gateway.decisions.cache.generations.invalidate_user("alice")
        with server.client() as client:
            client.delete("policy:user_version:alice")
        assert await answer(gateway, "decide", freshness=token) == ("evaluated", "1")
        assert await answer(gateway, "decide", freshness=token) == ("valkey", "1")


@BOTH
@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"consistency": "fresh"}, "freshness"),
        ({"consistency": "fast", "freshness": "x"}, "consistency"),
        ({"freshness": ""}, "freshness"),
        ({"freshness": "x" * (MAX_TOKEN_BYTES + 1)}, "freshness"),
        ({"freshness": ",".join(["x"] * (MAX_TOKENS + 1))}, "freshness"),
        ({"freshness": ",".join(["x" * 1000] * 5)}, "freshness"),
        ({"consistency": "FULL"}, "consistency"),
        ({"consistency": ""}, "consistency"),
        ({"consistency": "full", "freshness": "x" * (MAX_TOKEN_BYTES + 1)}, "freshness"),
    ],
)
async def test_what_does_not_go_together_is_refused_by_its_field(
    server: ValkeyServer, through: Through, wishes: dict[str, Any], field: str
) -> None:
    evaluator = Numbered()
    async with near_gateway(server.url, evaluator) as gateway:
        with pytest.raises(InvalidRequestError) as refused:
            await answer(gateway, through, **wishes)
        assert refused.value.field == field
        assert "x" * 100 not in str(refused.value)
        assert evaluator.number == 0


async def test_a_token_is_honoured_by_a_process_with_the_same_key(server: ValkeyServer) -> None:
    async with (
        near_gateway(server.url, Numbered()) as one,
        near_gateway(server.url, Numbered()) as two,
    ):
        token = await one.decisions.cache.generations.invalidate_policy("authz")
        assert await answer(two, "authorize", freshness=token) == ("evaluated", "1")
        assert await answer(one, "authorize", freshness=token) == ("valkey", "1")


@BOTH
async def test_several_tokens_are_all_demanded(server: ValkeyServer, through: Through) -> None:
    """Of the first the server knows, of the second it doesn't."""
    async with open_gateway(server.url, Numbered()) as gateway:
        made = gateway.decisions.cache.generations
        known = [await made.invalidate_user("alice"), await made.invalidate_policy("authz")]
        lost = SIGNER.sign(Freshness("all", "", f"{10**16}-x"))
        both = ",".join(known)
        assert await answer(gateway, through, freshness=both) == ("evaluated", "1")
        assert await answer(gateway, through, freshness=both) == ("valkey", "1")
        for tokens in (f"{both},{lost}", f"{lost},{both}", f"{both},", f"{both},hello"):
            source, _ = await answer(gateway, through, freshness=tokens)
            assert source == "evaluated"
        assert await answer(gateway, through, freshness=both) == ("valkey", "1")


async def test_full_with_a_token_evaluates(server: ValkeyServer) -> None:
    async with open_gateway(server.url, Numbered()) as gateway:
        token = await gateway.decisions.cache.generations.invalidate_all()
        for number in ("1", "2"):
            found = await answer(gateway, "decide", consistency="full", freshness=token)
            assert found == ("evaluated", number)
