"""``authorize()`` on a real server: what it answers, what it records, what it costs."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sark.errors import (
    EvaluationError,
    InvalidRequestError,
    LimitExceededError,
    QueueFullError,
    UnknownPolicyError,
)
from sark.events import Decided, EvaluationFailed, Hub, LimitRefused, Looked, RoundTrip
from sark.gateway import Answer, Gateway
from sark.policy import Decision
from sark.policy.evaluators import EmbeddedRego
from sark.ratelimit import Limit, LimitState
from sark.siem import QueueBounds
from tests.support.gateways import (
    Scripted,
    ask,
    assert_account_is_exact,
    open_gateway,
    question,
    queued,
)
from tests.support.probe import CommandCount, count_round_trips
from tests.support.servers import ValkeyServer

LIMIT = Limit(100, window_seconds=600)


@asynccontextmanager
async def counted(
    server: ValkeyServer, **options: Any
) -> AsyncIterator[tuple[Gateway, CommandCount]]:
    """Open a gateway, warmed up by two answers that are dropped again."""
    async with count_round_trips(server) as (url, counts), open_gateway(url, **options) as gateway:
        for number in range(2):
            await gateway.authorize(ask(f"warm-up-{number}"))
        await gateway.queue.purge()
        counts.reset()
        yield gateway, counts


async def test_an_answer_tells_all(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=LIMIT) as gateway:
        request = ask(ip="::ffff:10.0.0.1", api_key_id="k-1", context={"a": 1})
        answer = await gateway.authorize(request)
        again = await gateway.authorize(request)
    assert (answer.allow, answer.reason, answer.policy) == (True, "scripted", "authz")
    assert (answer.cached, answer.ttl) == (False, 3600)
    assert UUID(answer.decision_id).version == 7
    assert answer.limits == (
        LimitState("user", 100, 99, 600, 600, "user"),
        LimitState("ip", 100, 99, 600, 600, "ip"),
        LimitState("apikey", 100, 99, 600, 600, "apikey"),
    )
    assert (again.allow, again.reason, again.cached) == (True, "scripted", "valkey")
    assert again.ttl in (3599, 3600)
    assert [state.remaining for state in again.limits] == [98, 98, 98]
    assert again.decision_id != answer.decision_id


async def test_only_named_identities_are_limited(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=LIMIT) as gateway:
        answers = [
            await gateway.authorize(request)
            for request in (ask(), ask(ip="::1"), ask(api_key_id="k"))
        ]
    kinds = [[state.kind for state in answer.limits] for answer in answers]
    assert kinds == [["user"], ["user", "ip"], ["user", "apikey"]]


async def test_an_answer_is_recorded_as_it_was_given(server: ValkeyServer) -> None:
    decision = Decision(allow=False, reason='no "é"\n')
    async with open_gateway(server.url, Scripted(decision)) as gateway:
        request = ask(ip="::ffff:10.0.0.1", api_key_id="k-1", context={"a": [None]})
        answers = [await gateway.authorize(request) for _ in range(2)]
    for event, answer in zip(queued(server), answers, strict=True):
        del event["time"]
        assert event == {
            "id": answer.decision_id,
            "type": "decision",
            "policy": "authz",
            "user_id": "alice",
            "action": "server:read",
            "resource": "srv-1",
            "context": {"a": [None]},
            "revision": "r1",
            "allow": False,
            "reason": 'no "é"\n',
            "ip": "::ffff:10.0.0.1",
            "api_key_id": "k-1",
            "v": 1,
        } | ({"cached": "valkey"} if answer.cached else {})
    assert [answer.cached for answer in answers] == [False, "valkey"]


async def test_the_evaluator_is_asked_exactly_what_the_key_is_made_of(
    server: ValkeyServer,
) -> None:
    evaluator = Scripted()
    async with open_gateway(server.url, evaluator, policies=("authz", "tools")) as gateway:
        for policy in ("authz", "tools"):
            request = ask("ü:{1}", policy=policy, context={"b": {"d": 1.0, "c": 1}, "a": "\u212b"})
            await gateway.authorize(request)
            await gateway.authorize(request)
    digests = [
        sha256(policy.encode() + b"\n" + text).hexdigest() for policy, text in evaluator.asked
    ]
    assert [policy for policy, _ in evaluator.asked] == ["authz", "tools"]
    assert evaluator.asked[0][1] == evaluator.asked[1][1]
    with server.client() as client:
        keys = {key.decode() for key in client.scan_iter("policy:decision:*")}
    assert keys == {f"policy:decision:{digest}" for digest in digests}


async def test_neither_ip_nor_key_is_part_of_the_question(server: ValkeyServer) -> None:
    evaluator = Scripted()
    async with open_gateway(server.url, evaluator) as gateway:
        await gateway.authorize(ask(ip="10.0.0.1", api_key_id="a"))
        assert (await gateway.authorize(ask(ip="10.0.0.2", api_key_id="b"))).cached
    assert evaluator.asked == [("authz", question().input)]


async def test_the_first_policy_is_the_default(server: ValkeyServer) -> None:
    async with open_gateway(server.url, policies=("tools", "authz")) as gateway:
        assert (await gateway.authorize(ask())).policy == "tools"
        assert (await gateway.authorize(ask(policy="authz"))).policy == "authz"


async def test_a_hit_costs_two_round_trips(server: ValkeyServer) -> None:
    async with counted(server, limit=LIMIT) as (gateway, counts):
        request = ask(ip="10.0.0.1", api_key_id="k-1")
        await gateway.authorize(request)
        counts.reset()
        assert (await gateway.authorize(request)).cached
        assert counts.round_trips == 2
        assert counts.connections == 0
        assert counts.commands == {
            "evalsha": 2,
            # charge three counters
            "mget": 2, "pexpiretime": 3, "incrby": 3,
            # the decision's
            "pttl": 1,
            # of the windows, and when an evaluation would begin
            "time": 1,
            # append to the queue and book it
            "llen": 1, "hmget": 1, "rpush": 1, "hset": 1,
        }  # fmt: skip


async def test_a_miss_costs_one_more_command_that_waits_for_nothing(server: ValkeyServer) -> None:
    async with counted(server) as (gateway, counts):
        await gateway.authorize(ask("bob"))
        counts.reset()
        assert not (await gateway.authorize(ask("bob", "server:list"))).cached
        assert counts.round_trips <= 3
        commands = counts.commands
        assert commands["evalsha"] == 3
        assert commands["set"] == 1  # the decision; every token was there
        assert not {"eval", "script|load", "ping", "del", "multi"} & commands.keys()


async def test_a_refusal_costs_two_round_trips(server: ValkeyServer) -> None:
    async with counted(server, limit=Limit(1, window_seconds=600)) as (gateway, counts):
        await gateway.authorize(ask())
        for repeat in range(3):
            counts.reset()
            with pytest.raises(LimitExceededError):
                await gateway.authorize(ask())
            if repeat:  # before, the script had to be loaded
                assert counts.round_trips == 2
                assert counts.commands["evalsha"] == 2
                assert not {"rpush", "set", "incrby", "pexpire"} & counts.commands.keys()


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"policy": "nope"}, "policy"),
    ({"policy": "x" * 10_000}, "policy"),
    ({"policy": "authz "}, "policy"),
    ({"user_id": ""}, "user_id"),
    ({"user_id": "x" * 257}, "user_id"),
    ({"user_id": "\ud800"}, "user_id"),
    ({"action": ""}, "action"),
    ({"resource": 5}, "resource"),
    ({"context": {"a": float("nan")}}, "context.a"),
    ({"context": {"a": "x" * 20_000}}, "context"),
    ({"ip": "10.0.0"}, "ip"),
    ({"ip": ""}, "ip"),
    ({"api_key_id": ""}, "api_key_id"),
    ({"api_key_id": "x" * 257}, "api_key_id"),
    ({"api_key_id": "\ud800"}, "api_key_id"),
]


@pytest.mark.parametrize("limit", [LIMIT, None], ids=["limited", "unlimited"])
async def test_unusable_input_is_refused_before_anything_is_sent(
    server: ValkeyServer, limit: Limit | None
) -> None:
    evaluator = Scripted()
    async with counted(server, evaluator=evaluator, limit=limit) as (gateway, counts):
        evaluator.asked.clear()
        for fields, field in UNUSABLE:
            with pytest.raises(InvalidRequestError) as caught:
                await gateway.authorize(ask(**{"ip": "::1", "api_key_id": "k", **fields}))
            assert caught.value.field == field
            assert isinstance(caught.value, UnknownPolicyError) is (field == "policy")
            assert len(str(caught.value)) < 300
        assert counts.round_trips == 0
        assert counts.commands == {}
    assert evaluator.asked == []
    assert queued(server) == []


@pytest.mark.parametrize(
    ("rules", "reason", "source"),
    [
        ('decision := {"allow": true} if input.user_id == "root"', "undefined", "undefined"),
        ("decision := null", "evaluation_failed", "failed"),
        ("decision := true", "evaluation_failed", "failed"),
        ('decision := {"allow": "yes"}', "evaluation_failed", "failed"),
        ('decision := {"allow": startswith(input.context.n, "x")}', "evaluation_failed", "failed"),
    ],
)
async def test_no_decision_is_a_denial_that_is_not_kept(
    server: ValkeyServer, tmp_path: Path, rules: str, reason: str, source: str
) -> None:
    (tmp_path / "a.rego").write_text(f"package sark.authz\nimport rego.v1\n{rules}\n")
    hub, decided, failed = Hub(), list[Decided](), list[EvaluationFailed]()
    hub.on(Decided, decided.append)
    hub.on(EvaluationFailed, failed.append)
    rego = EmbeddedRego(tmp_path, ("authz",))
    async with open_gateway(server.url, rego, hub=hub) as gateway:
        for _ in range(2):
            answer = await gateway.authorize(ask(context={"n": 1}))
            assert (answer.allow, answer.reason) == (False, reason)
            assert (answer.cached, answer.ttl) == (False, 0)
    with server.client() as client:
        assert list(client.scan_iter("policy:decision:*")) == []
    assert [(event["allow"], event["reason"]) for event in queued(server)] == [(False, reason)] * 2
    assert [each.source for each in decided] == [source] * 2
    assert len(failed) == (2 if source == "failed" else 0)
    assert all("data.sark.authz.decision" in each.reason for each in failed)


async def test_real_rego_decides_and_is_cached(server: ValkeyServer, tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_text(
        "package sark.authz\nimport rego.v1\n"
        'decision := {"allow": input.user_id in data.admins, "reason": "r", "ttl": 7.9} '
        'if input.action == "server:read"\n'
        'decision := {"allow": true, "cacheable": false} if input.action == "server:write"\n'
        'decision := {"allow": true, "ttl": 0.5} if input.action == "server:list"\n'
    )
    (tmp_path / "data.json").write_text('{"admins": ["root"]}')
    rego = EmbeddedRego(tmp_path, ("authz",))
    async with open_gateway(server.url, rego) as gateway:
        for user, allow in (("root", True), ("alice", False)):
            answers = [await gateway.authorize(ask(user)) for _ in range(2)]
            assert [answer.allow for answer in answers] == [allow] * 2
            assert [answer.cached for answer in answers] == [False, "valkey"]
            assert [answer.ttl for answer in answers] == [7, 7]
        for action in ("server:write", "server:list"):
            answers = [await gateway.authorize(ask("root", action)) for _ in range(2)]
            assert [(answer.cached, answer.ttl) for answer in answers] == [(False, 0)] * 2
    # What was changed on disk is another revision: nothing of the old one is served.
    (tmp_path / "data.json").write_text('{"admins": ["alice"]}')
    async with open_gateway(server.url, EmbeddedRego(tmp_path, ("authz",))) as gateway:
        answer = await gateway.authorize(ask("alice"))
        assert (answer.allow, answer.cached) == (True, False)


async def test_an_evaluator_that_takes_too_long_denies(server: ValkeyServer) -> None:
    never = asyncio.Event()

    async def hang(_policy: str, _input: bytes) -> Decision:
        await never.wait()
        raise AssertionError

    hub, failed = Hub(), list[EvaluationFailed]()
    hub.on(EvaluationFailed, failed.append)
    async with open_gateway(server.url, Scripted(hang), evaluator_timeout=0.05, hub=hub) as gateway:
        answer = await gateway.authorize(ask())
    assert (answer.allow, answer.reason, answer.ttl) == (False, "evaluation_failed", 0)
    assert [event["id"] for event in queued(server)] == [answer.decision_id]
    assert "0.05" in failed[0].reason


async def test_evaluating_is_not_part_of_the_budget(server: ValkeyServer) -> None:
    async def slow(_policy: str, _input: bytes) -> Decision:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_later(0.6, done.set_result, None)
        await done
        return Decision(allow=True)

    async with open_gateway(server.url, Scripted(slow), budget=0.5) as gateway:
        answer = await gateway.authorize(ask())
    assert (answer.allow, answer.ttl) == (True, 3600)


async def test_an_evaluator_that_breaks_gives_no_answer(server: ValkeyServer) -> None:
    async def fail(_policy: str, _input: bytes) -> Decision:
        raise EvaluationError("no")

    async def crash(_policy: str, _input: bytes) -> Decision:
        raise ZeroDivisionError

    async with open_gateway(server.url, Scripted(fail)) as gateway:
        assert not (await gateway.authorize(ask())).allow
    async with open_gateway(server.url, Scripted(crash)) as gateway:
        with pytest.raises(ZeroDivisionError):
            await gateway.authorize(ask())
    assert len(queued(server)) == 1


async def test_a_refused_request_is_neither_decided_nor_looked_up(server: ValkeyServer) -> None:
    evaluator, hub = Scripted(), Hub()
    refused, looked = list[LimitRefused](), list[Looked]()
    hub.on(LimitRefused, refused.append)
    hub.on(Looked, looked.append)
    limit = Limit(2, window_seconds=600)
    async with open_gateway(server.url, evaluator, limit=limit, hub=hub) as gateway:
        for _ in range(2):
            await gateway.authorize(ask(ip="10.0.0.1"))
        asked = len(looked)
        with pytest.raises(LimitExceededError) as caught:
            await gateway.authorize(ask("bob", ip="10.0.0.1", policy="authz"))
    error = caught.value
    assert (error.kind, error.retry_after) == ("ip", 600)
    assert error.limits == (
        LimitState("user", 2, 2, 600, 600, "user"),
        LimitState("ip", 2, 0, 600, 600, "ip"),
    )
    assert (len(evaluator.asked), len(looked), [each.kind for each in refused]) == (
        1,
        asked,
        ["ip"],
    )
    event = queued(server)[-1]
    assert event["id"] == error.decision_id
    assert (event["type"], event["allow"], event["reason"]) == ("refusal", False, "rate_limit:ip")
    assert (event["user_id"], event["ip"]) == ("bob", "10.0.0.1")


async def test_refused_callers_without_credential_are_recorded(server: ValkeyServer) -> None:
    async with open_gateway(server.url) as gateway:
        ids = {await gateway.refuse_unauthenticated("10.0.0.1", "/v1/x") for _ in range(5)}
        other = await gateway.refuse_unauthenticated("10.0.0.2", "/v1/x")
    assert [event["id"] for event in queued(server)] == [*ids, other]
    assert {event["reason"] for event in queued(server)} == {"unauthenticated"}


async def test_every_answer_is_in_the_queue(server: ValkeyServer) -> None:
    order = random.Random(7)

    async def decide(_policy: str, input_json: bytes) -> Decision | None:
        await asyncio.sleep(0)
        if b"u-3" in input_json:
            return None
        if b"u-4" in input_json:
            raise EvaluationError("no")
        return Decision(allow=b"u-1" in input_json)

    limit = Limit(60, window_seconds=600)
    answers: list[Answer] = []
    refusals: list[LimitExceededError] = []
    async with (
        open_gateway(server.url, Scripted(decide), limit=limit) as one,
        open_gateway(server.url, Scripted(decide), limit=limit) as other,
    ):

        async def authorize() -> None:
            request = ask(
                f"u-{order.randrange(6)}",
                order.choice(["server:read", "server:write", "user:grant"]),
                resource=f"r-{order.randrange(5)}",
                ip=order.choice([None, "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]),
            )
            try:
                answers.append(await order.choice([one, other]).authorize(request))
            except LimitExceededError as error:
                refusals.append(error)

        await asyncio.gather(*(authorize() for _ in range(600)))
        assert answers
        assert refusals
    events = queued(server)
    by_type = {
        kind: {event["id"] for event in events if event["type"] == kind}
        for kind in ("decision", "refusal")
    }
    assert by_type["decision"] == {answer.decision_id for answer in answers}
    assert by_type["refusal"] == {error.decision_id for error in refusals}
    assert len(events) == len(answers) + len(by_type["refusal"])
    recorded = {event["id"]: event for event in events}
    for answer in answers:
        event = recorded[answer.decision_id]
        assert (event["allow"], event["reason"]) == (answer.allow, answer.reason)
        assert event.get("cached", False) == answer.cached
    charged = Counter(event["user_id"] for event in events if event["type"] == "decision")
    assert max(charged.values()) <= 60
    assert_account_is_exact(server)


async def test_a_full_queue_means_no_answer(server: ValkeyServer) -> None:
    async with open_gateway(
        server.url, limit=Limit(5, window_seconds=600), bounds=QueueBounds(events=3)
    ) as gateway:
        for _ in range(3):
            await gateway.authorize(ask())
        for request in (ask(), ask(action="server:list")):  # a hit, and a miss
            with pytest.raises(QueueFullError) as caught:
                await gateway.authorize(request)
            assert caught.value.retry_after >= 1
        with pytest.raises(QueueFullError):  # the limit is reached, and that cannot be told either
            await gateway.authorize(ask())
        assert await gateway.queue.purge() == 3
        assert (await gateway.authorize(ask("bob"))).allow
    assert_account_is_exact(server)


async def test_a_cancelled_call_leaves_nothing_behind(server: ValkeyServer) -> None:
    gate = asyncio.Event()
    begun = asyncio.Event()

    async def hold(_policy: str, _input: bytes) -> Decision:
        begun.set()
        await gate.wait()
        return Decision(allow=True)

    async with open_gateway(server.url, Scripted(hold)) as gateway:
        calls = [asyncio.create_task(gateway.authorize(ask(f"u-{n}"))) for n in range(20)]
        await begun.wait()
        for call in calls[:10]:
            call.cancel()
        gate.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[:10])
        answers = [outcome for outcome in outcomes[10:] if isinstance(outcome, Answer)]
        assert len(answers) == 10
        assert {event["id"] for event in queued(server)} == {a.decision_id for a in answers}
        assert (await gateway.authorize(ask("u-15"))).cached
        assert gateway.store.state.pool_stats().in_use == 0


async def test_split_servers_share_a_request(
    server: ValkeyServer, private_server: Callable[..., ValkeyServer]
) -> None:
    own = private_server()
    hub, trips = Hub(), list[RoundTrip]()
    hub.on(RoundTrip, trips.append)
    async with open_gateway(server.url, cache_url=own.url, limit=LIMIT, hub=hub) as gateway:
        first = await gateway.authorize(ask())
        trips.clear()
        second = await gateway.authorize(ask())
        assert (first.cached, second.cached) == (False, "valkey")
        assert sorted((trip.role, trip.commands) for trip in trips) == [
            ("cache", 4),
            ("state", 1),
            ("state", 1),
        ]
        await gateway.decisions.cache.generations.invalidate_user("alice")
        assert not (await gateway.authorize(ask())).cached
        with own.client() as client:
            names = {key.decode() for key in client.scan_iter()}
        assert names == {gateway.decisions.cache.decision_key(question())}
    with server.client() as client:
        assert list(client.scan_iter("policy:decision:*")) == []
