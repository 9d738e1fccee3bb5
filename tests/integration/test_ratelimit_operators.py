"""What operators see and undo: limits of the rules, limits in code, and of other programs."""

from __future__ import annotations

import pytest

from sark.errors import InvalidRequestError
from sark.keyspace import encode_rule
from sark.ratelimit import Identity, Limit, Rules, nearest
from sark.ratelimit.named import NamedLimits
from sark.ratelimit.rules import Rule
from tests.support.gateways import limiter_of, open_store
from tests.support.servers import ValkeyServer

USER: Identity = ("user", "user-0000001")
LONG = "shop-get-reports-monthly-year-month-details-20-m-0123456789ab"


async def test_limits_in_code_are_listed_shown_and_reset_by_name(server: ValkeyServer) -> None:
    named = NamedLimits(["20/minute", "2/second burst 50"], name=LONG)
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1000))
        for _ in range(15):
            await named.check(limiter, [USER])
        await named.check(limiter, [("user", "somebody-else")])
        (near,) = await nearest(limiter)
        assert (near.id, near.used, near.state.policy) == (USER[1], 0.75, f"{LONG}-60")
        assert (near.state.limit, near.state.window) == (20, 60)
        shown = (await limiter.show(USER)).states
        assert [(state.policy, state.remaining) for state in shown] == [
            *(("user", 1000), (f"{LONG}-60", 5), (f"{LONG}-1", shown[2].remaining))
        ]
        assert await limiter.reset(USER) == 2
        assert await nearest(limiter) == []
        assert (await named.check(limiter, [USER])).states[0].remaining == 19


async def test_limits_of_other_programs_are_known_when_they_are_near(server: ValkeyServer) -> None:
    async with open_store(server.url) as theirs, open_store(server.url) as ours:
        app, operator = limiter_of(theirs, None), limiter_of(ours, Limit(1000))
        named = NamedLimits([Limit(1, 10, "gcra", 100)], name=LONG)
        for _ in range(90):
            await named.check(app, [USER])
        await app.near.flush()
        (near,) = await nearest(operator)
        assert (near.state.policy, near.state.burst) == (LONG, 100)
        assert 0.85 < near.used <= 0.9
        assert [state.policy for state in (await operator.show(USER)).states] == ["user", LONG]
        assert await operator.reset(USER) == 1
        assert await nearest(operator) == []


async def test_a_bucket_with_a_burst_is_near_by_its_burst(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(20, 60, "gcra", 50))
        await limiter.consume([USER], 28)
        assert [near.used >= 0.5 for near in await nearest(limiter)] == [True]


async def test_a_limit_in_code_takes_no_more_than_105_bytes(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, None)
        await NamedLimits(["20/minute"], name=LONG).check(limiter, [USER])
        with server.client() as client:
            (key,) = client.scan_iter()
            assert key == f"ratelimit:user:{USER[1]}:60:{encode_rule(LONG)}".encode()
            size = client.memory_usage(key)
            assert size is not None
            assert size <= 105


async def test_what_is_listed_of_a_long_id_can_be_shown_and_reset(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(5))
        await limiter.consume([("user", "x" * 300)], 4)
        (near,) = await nearest(limiter)
        assert near.id.startswith("#")
        assert (await limiter.show((near.kind, near.id))).states[0].remaining == 1
        assert await limiter.reset((near.kind, near.id)) == 1
        assert (await limiter.check([("user", "x" * 300)])).states[0].remaining == 4


async def test_who_is_named_twice_is_charged_once(server: ValkeyServer) -> None:
    rules = Rules(None, [Rule("r", ("user", "ip"), (Limit(5), Limit(5, 61, "gcra")))])
    twice: list[Identity] = [USER, USER]
    network: list[Identity] = [("ip", "2001:db8::1"), ("ip", "2001:db8::2")]
    async with open_store(server.url) as store:
        for limits in (Limit(5), Limit(5, 60, "gcra"), rules):
            limiter = limiter_of(store, limits)
            for identities in (twice, network):
                charges = [await limiter.check(identities) for _ in range(2)]
                assert {state.remaining for state in charges[1].states} == {3}
                many = limiter.plan_many(identities, ["a", "b"])
                assert len(many.keys) == len({*many.keys}) == len(charges[0].states)
                await limiter.reset(identities[0])


@pytest.mark.parametrize("cost", [0.5, 1.0, True, "1", -1])
async def test_a_cost_is_a_whole_number(server: ValkeyServer, cost: object) -> None:
    async with open_store(server.url) as store:
        with pytest.raises(InvalidRequestError, match="cost"):
            await limiter_of(store, Limit(5)).check([USER], cost=cost)  # type: ignore[arg-type]


async def test_a_kind_that_is_none_is_an_error(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        with pytest.raises(InvalidRequestError, match="acme"):
            await limiter_of(store, Limit(5)).check([("acme", "alice")])  # type: ignore[list-item]
