"""What near caches hear: their own doings, those of others, and when a change is enforced."""

from __future__ import annotations

import asyncio

import pytest

from sark.events import Enforced, Hub
from tests.support.gateways import ask, generations, open_gateway, open_store, question
from tests.support.near import Numbered, near_gateway, near_of, warm
from tests.support.polling import until
from tests.support.servers import ValkeyServer


@pytest.mark.parametrize("through", ["decide", "authorize"])
async def test_a_users_first_decision_is_near_at_the_second_time(
    server: ValkeyServer, through: str
) -> None:
    """The look-up creates the user's token, and its own news come back later."""
    async with near_gateway(server.url, Numbered()) as gateway:
        await warm(gateway.decisions, question("somebody"))
        near = 0
        for number in range(50):
            user = f"user-{number}"
            if through == "decide":
                outcome = await gateway.decisions.decide(question(user))
                await gateway.decisions.evaluations.close()
                again = await gateway.decisions.decide(question(user))
                assert (outcome.source, again.reason) == ("evaluated", outcome.reason)
                near += again.source == "near"
            else:
                assert not (await gateway.authorize(ask(user))).cached
                near += (await gateway.authorize(ask(user))).cached == "near"
        # The news come with an answer of the server that is waited for anyway, or a little later.
        assert near >= 25


async def test_a_revocation_during_the_first_evaluation_is_no_doing_of_its_own(
    server: ValkeyServer,
) -> None:
    evaluator = Numbered()
    begun, gate = asyncio.Event(), asyncio.Event()
    decide = evaluator.decide

    async def hold(policy: str, input_json: bytes) -> object:
        found = await decide(policy, input_json)  # type: ignore[operator]
        begun.set()
        await gate.wait()
        return found

    evaluator.decide = hold  # type: ignore[assignment]
    async with near_gateway(server.url, evaluator) as gateway, open_store(server.url) as elsewhere:
        near = near_of(gateway.decisions)
        for number in range(20):
            asked = question(f"user-{number}")
            begun.clear()
            gate.clear()
            asking = asyncio.create_task(gateway.decisions.decide(asked))
            await begun.wait()
            await generations(elsewhere).invalidate_user(asked.user_id)
            at = near.now()
            await until(
                lambda at=at: near._feed.coherent_at > at, within=10, what="it has been heard"
            )
            gate.set()
            await asking
            await gateway.decisions.evaluations.close()
            _, valid = near.cache.peek(asked.key, near.now())
            assert not valid, "it was evaluated before the revocation"


async def test_many_new_users_leave_hot_decisions_near(server: ValkeyServer) -> None:
    async with near_gateway(server.url, Numbered(), near={"bound": 5.0}) as gateway:
        near = near_of(gateway.decisions)
        await warm(gateway.decisions, question())
        emptied = near.cache.stats().emptied
        with server.client() as client, client.pipeline(transaction=False) as pipe:
            for number in range(70_000):
                pipe.set(f"policy:user_version:{number}", "1-x", ex=30)
                if number % 5000 == 0:
                    pipe.execute()
            pipe.execute()
        at = near.now()
        await until(lambda: near._feed.coherent_at > at, within=20, what="all have been heard")
        assert near.cache.stats().emptied == emptied
        assert (await gateway.decisions.decide(question())).source == "near"
        assert len(near.cache._epochs) == 2, "of what is held"


@pytest.mark.parametrize("scope", ["all", "policy", "user"])
async def test_a_revocation_is_measured_when_it_is_enforced(
    server: ValkeyServer, scope: str
) -> None:
    """The message of a revocation comes before the feed's word of the changed key."""
    hub = Hub()
    async with near_gateway(server.url, Numbered(), hub=hub) as gateway:
        decisions, asked = gateway.decisions, question()
        near = near_of(decisions)
        await until(lambda: near._clock.known, within=10, what="the clock is known")
        held_at_the_time = []

        def enforced(event: Enforced) -> None:
            assert event.scope == scope
            held_at_the_time.append(near.cache.peek(asked.key, near.now())[1])

        hub.on(Enforced, enforced)
        async with open_gateway(server.url) as elsewhere:
            made = elsewhere.decisions.cache.generations
            for number in range(1, 31):
                await warm(decisions, asked)
                match scope:
                    case "all":
                        await made.invalidate_all()
                    case "policy":
                        await made.invalidate_policy("authz")
                    case _:
                        await made.invalidate_user("alice")
                await until(
                    lambda number=number: len(held_at_the_time) == number,
                    within=5,
                    what="it is measured",
                )
        assert not any(held_at_the_time)
