"""Rules of limits within ``authorize()`` and batches: one charge, tiers, costs, the deny-list."""

from __future__ import annotations

import pytest

from sark.batch import BatchQuestion, BatchRequest, authorize_many
from sark.errors import InvalidRequestError, LimitDeniedError, LimitExceededError
from sark.patterns import Patterns
from sark.ratelimit import Limit, Rules
from sark.ratelimit.rules import Listed, Rule
from tests.support.gateways import ask, assert_account_is_exact, open_gateway, queued
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer

HOUR = 3600
RULES = Rules(
    Limit(1000),
    [
        Rule(
            "reports",
            ("user",),
            (Limit(30, HOUR, "sliding"),),
            actions=Patterns(["report:*"]),
            goes_on=True,
        ),
        Rule("pro", ("user",), (Limit(500, HOUR),), tiers=frozenset({"pro"})),
        Rule("free", ("user",), (Limit(20, HOUR, "gcra"), Limit(100, 24 * HOUR))),
        Rule("soon", ("ip",), (Limit(2, HOUR),), shadow=True, goes_on=True),
    ],
    costs=[(Patterns(["report:*"]), 5)],
    deny=Listed({"user": frozenset({"mallory"})}),
)


async def test_rules_are_charged_in_the_one_round_trip(server: ValkeyServer) -> None:
    async with (
        count_round_trips(server) as (url, counts),
        open_gateway(url, limit=RULES) as gateway,
    ):
        await gateway.authorize(ask(ip="10.0.0.1"))
        counts.reset()
        answer = await gateway.authorize(ask(ip="10.0.0.1", action="report:x"))
        assert counts.round_trips <= 3  # a miss is stored while its event is appended
        assert [(each.policy, each.remaining) for each in answer.limits] == [
            ("reports", 25),
            (f"free-{HOUR}", 14),
            (f"free-{24 * HOUR}", 94),
            ("soon", 1),  # in shadow mode, and five are more than it has left
            ("ip", 994),
        ]
        counts.reset()
        await gateway.authorize(ask(ip="10.0.0.1", action="report:x"))
        assert counts.round_trips == 2


async def test_the_tier_is_an_argument_and_never_what_the_caller_says(
    server: ValkeyServer,
) -> None:
    async with open_gateway(server.url, limit=RULES) as gateway:
        answer = await gateway.authorize(ask(context={"tier": "pro"}))
        assert [each.policy for each in answer.limits] == [f"free-{HOUR}", f"free-{24 * HOUR}"]
        answer = await gateway.authorize(ask(), tier="pro")
        assert [each.policy for each in answer.limits] == ["pro"]


async def test_a_refusal_names_the_limit_and_is_recorded(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=RULES) as gateway:
        for _ in range(4):
            await gateway.authorize(ask(action="report:x"))
        with pytest.raises(LimitExceededError, match=r"of this user \(free-3600\)") as caught:
            await gateway.authorize(ask(action="report:x"))
        error = caught.value
        assert (error.kind, error.policy) == ("user", f"free-{HOUR}")
        # One request comes back in 180 s, five in 900.
        assert 0 < error.retry_after <= 5 * HOUR // 20
        assert {each.policy: each.remaining for each in error.limits} == {  # type: ignore[attr-defined]
            "reports": 10,
            f"free-{HOUR}": 0,
            f"free-{24 * HOUR}": 80,
        }
        event = queued(server)[-1]
        assert (event["type"], event["reason"]) == ("refusal", "rate_limit:user")
        assert event["id"] == error.decision_id
        assert_account_is_exact(server)


async def test_who_is_denied_is_refused_and_recorded_before_anything_else(
    server: ValkeyServer,
) -> None:
    async with open_gateway(server.url, limit=RULES) as gateway:
        for _ in range(3):
            with pytest.raises(
                LimitDeniedError, match=r"^this user is on the deny-list$"
            ) as caught:
                await gateway.authorize(ask("mallory"))
        denied = caught.value
        assert (denied.kind, denied.policy) == ("user", "deny")
        assert (denied.retry_after, denied.limits) == (0, ())
        batch = BatchRequest(user_id="mallory", questions=[BatchQuestion(action="a", resource="r")])
        with pytest.raises(LimitDeniedError):
            await authorize_many(gateway, batch)
        (event,) = queued(server)
        assert denied.decision_id == event["id"]
        assert (event["user_id"], event["allow"]) == ("mallory", False)
        with server.client() as client:
            assert not list(client.scan_iter("ratelimit:*"))


async def test_a_batch_is_charged_what_its_actions_cost(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=RULES) as gateway:
        questions = [
            BatchQuestion(action=action, resource="r")
            for action in ("report:a", "x:read", "report:b", "x:read", "x:write")
        ]
        answers = await authorize_many(gateway, BatchRequest(user_id="bob", questions=questions))
        assert {each.policy: each.remaining for each in answers[0].limits} == {
            "reports": 20,
            f"free-{HOUR}": 7,
            f"free-{24 * HOUR}": 87,
        }
        with pytest.raises(LimitExceededError):
            await authorize_many(gateway, BatchRequest(user_id="bob", questions=questions))
        many = [BatchQuestion(action="report:a", resource="r")] * 5
        with pytest.raises(InvalidRequestError, match="got 5 that cost 25, expected at most 20"):
            await authorize_many(gateway, BatchRequest(user_id="bob", questions=many))


async def test_rules_that_are_replaced_apply_to_the_next_request(server: ValkeyServer) -> None:
    async with open_gateway(server.url, limit=Limit(5)) as gateway:
        await gateway.authorize(ask())
        gateway.limiter.rules = Rules(Limit(2))
        assert (await gateway.authorize(ask())).limits[0].remaining == 0
        with pytest.raises(LimitExceededError):
            await gateway.authorize(ask())
