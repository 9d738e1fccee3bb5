"""Many questions at once: one charge, one round trip for all decisions, an event for each."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from sark.batch import MAX_QUESTIONS, BatchQuestion, BatchRequest, authorize_many
from sark.errors import InvalidRequestError, LimitExceededError, QueueFullError
from sark.policy import Decision
from sark.ratelimit import Limit
from sark.siem import QueueBounds
from tests.support.gateways import Scripted, ask, open_gateway, queued
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer
from tests.support.service import SarkService


def batch(*resources: str, user_id: str = "alice", **fields: Any) -> BatchRequest:
    questions = [BatchQuestion(action="server:read", resource=r) for r in resources]
    return BatchRequest(user_id=user_id, questions=questions, **fields)


def numbered(count: int) -> BatchRequest:
    return batch(*(f"srv-{number}" for number in range(count)))


async def by_resource(_policy: str, given: bytes) -> Decision | None:
    resource = msgspec.json.decode(given)["resource"]
    if resource == "srv-undefined":
        return None
    return Decision(allow=not resource.endswith("3"), reason=f"about {resource}")


async def test_each_question_has_its_answer_and_its_event(server: ValkeyServer) -> None:
    async with open_gateway(server.url, Scripted(by_resource)) as gateway:
        asked = batch("srv-1", "srv-3", "srv-undefined", "srv-1")
        for turn, cached in enumerate((False, "valkey")):
            answers = await authorize_many(gateway, asked)
            assert [a.reason for a in answers] == [
                "about srv-1", "about srv-3", "undefined", "about srv-1",
            ]  # fmt: skip
            assert [a.allow for a in answers] == [True, False, False, True]
            assert [a.cached for a in answers] == [cached, cached, False, cached]
            events = queued(server)[4 * turn :]
            assert [e["id"] for e in events] == [a.decision_id for a in answers]
            assert [e["resource"] for e in events] == [q.resource for q in asked.questions]


async def test_a_thousand_hits_cost_one_script_and_one_append(server: ValkeyServer) -> None:
    async with (
        count_round_trips(server) as (url, counts),
        open_gateway(url, Scripted(by_resource), limit=Limit(10_000)) as gateway,
    ):
        await authorize_many(gateway, numbered(MAX_QUESTIONS))
        await authorize_many(gateway, numbered(1))
        counts.reset()
        answers = await authorize_many(gateway, numbered(MAX_QUESTIONS))
        assert {a.cached for a in answers} == {"valkey"}
        assert counts.round_trips == 2
        assert counts.commands["evalsha"] == 2
    assert len(queued(server)) == 2 * MAX_QUESTIONS + 1


async def test_misses_are_evaluated_together_and_repeats_once(server: ValkeyServer) -> None:
    together = asyncio.Barrier(3)

    async def decide(_policy: str, _input: bytes) -> Decision:
        await together.wait()
        return Decision(allow=True)

    evaluator = Scripted(decide)
    async with open_gateway(server.url, evaluator) as gateway:
        await authorize_many(gateway, batch("a", "b", "c", "a", "b", "c"))
    assert len(evaluator.asked) == 3


async def test_one_charge_of_their_number_all_or_nothing(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=Limit(10)) as gateway:
        answers = await authorize_many(gateway, numbered(7))
        assert {a.limits[0].remaining for a in answers} == {3}
        with pytest.raises(LimitExceededError) as caught:
            await authorize_many(gateway, numbered(4))
        assert caught.value.kind == "user"
        assert (await authorize_many(gateway, numbered(3)))[0].limits[0].remaining == 0
    refusals = [event for event in queued(server) if event["type"] == "refusal"]
    assert [event["id"] for event in refusals] == [caught.value.decision_id]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (batch(), "questions"),
        (numbered(MAX_QUESTIONS + 1), "questions"),
        (numbered(11), "questions"),
        (batch("a", ""), "questions[1].resource"),
        (batch("a", user_id=""), "user_id"),
        (batch("a", ip="nowhere"), "ip"),
        (batch("a", policy="other"), "policy"),
        (batch("a", consistency="fresh"), "freshness"),
    ],
)
async def test_bad_input_is_refused_before_anything_happens(
    server: ValkeyServer, asked: BatchRequest, field: str
) -> None:
    async with (
        count_round_trips(server) as (url, counts),
        open_gateway(url, limit=Limit(10)) as gateway,
    ):
        with pytest.raises(InvalidRequestError) as caught:
            await authorize_many(gateway, asked)
        assert caught.value.field == field
        assert not counts.commands


async def test_a_question_may_name_its_policy(server: ValkeyServer) -> None:
    evaluator = Scripted()
    async with open_gateway(server.url, evaluator, policies=("authz", "tools")) as gateway:
        questions = [
            BatchQuestion(action="tool:invoke", resource="t", policy=policy)
            for policy in ("tools", None, "authz")
        ]
        asked = BatchRequest(user_id="alice", questions=questions, policy="tools")
        answers = await authorize_many(gateway, asked)
        assert [a.policy for a in answers] == ["tools", "tools", "authz"]
        await gateway.decisions.cache.generations.invalidate_policy("tools")
        answers = await authorize_many(gateway, asked)
        assert [a.cached for a in answers] == [False, False, "valkey"]


async def test_single_and_batch_share_what_is_cached(server: ValkeyServer) -> None:
    async with open_gateway(server.url) as gateway:
        await authorize_many(gateway, batch("srv-1"))
        assert (await gateway.authorize(ask(resource="srv-1"))).cached == "valkey"
        await gateway.decisions.cache.generations.invalidate_user("alice")
        (answer,) = await authorize_many(gateway, batch("srv-1"))
        assert answer.cached is False


async def test_without_room_for_all_events_there_is_no_answer(server: ValkeyServer) -> None:
    async with open_gateway(server.url, bounds=QueueBounds(events=5)) as gateway:
        await authorize_many(gateway, batch("a", "b", "c"))
        with pytest.raises(QueueFullError):
            await authorize_many(gateway, batch("a", "b", "c"))
        await gateway.queue.purge()
        assert len(await authorize_many(gateway, batch("a", "b", "c"))) == 3


async def test_split_servers_answer_together(server: ValkeyServer, private_server: Any) -> None:
    cache = private_server({})
    async with open_gateway(server.url, cache_url=cache.url, budget=1.0) as gateway:
        for cached in (False, "valkey"):
            answers = await authorize_many(gateway, batch("a", "b"))
            assert [a.cached for a in answers] == [cached, cached]
        cache.kill()
        answers = await authorize_many(gateway, batch("a", "b"))
        assert [a.cached for a in answers] == [False, False]


async def test_over_http(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        async with aiohttp.ClientSession(service.url) as http:
            body = {
                "user_id": "alice",
                "questions": [{"action": "x:read", "resource": f"r-{n}"} for n in range(1000)],
            }
            async with http.post("/v1/authorize/batch", json=body) as response:
                assert response.status == 200, await response.text()
                answers = (await response.json())["answers"]
            assert len({a["decision_id"] for a in answers}) == 1000
            async with http.post("/v1/authorize/batch", json=body) as response:
                assert response.status == 429
                assert int(response.headers["Retry-After"]) >= 1
            wrong = {"user_id": "bob", "questions": [{"action": "x", "resource": "r", "hm": 1}]}
            async with http.post("/v1/authorize/batch", json=wrong) as response:
                assert response.status == 422
                assert (await response.json())["field"] == "questions[0].hm"
            wrong["questions"] = [{"action": "x", "resource": ""}]
            async with http.post("/v1/authorize/batch", json=wrong) as response:
                assert response.status == 422
                assert (await response.json())["field"] == "questions[0].resource"
            large = io.BytesIO(msgspec.json.encode({"user_id": "x" * 2**20, "questions": []}))
            kind = {"Content-Type": "application/json"}
            async with http.post("/v1/authorize/batch", data=large, headers=kind) as response:
                assert response.status == 413
