"""What each algorithm promises, on a real server: exactness, bursts, changes, memory, faults."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import valkey

from sark.errors import InvalidRequestError, StoreUnavailableError
from sark.events import Hub, LimitFallback, LimitRefused, LimitShadowed
from sark.keyspace import classify
from sark.patterns import Patterns
from sark.ratelimit import Algorithm, Identity, Kind, Limit, RateLimiter, Rules, limits
from sark.ratelimit.algorithms import State, charge
from sark.ratelimit.local import LocalLimits
from sark.ratelimit.report import nearest
from sark.ratelimit.rules import Applied, Listed, Rule, Selection
from sark.store import ScriptCall, Store
from tests.support.gateways import (
    ChargeWork,
    Meeting,
    later,
    limiter_of,
    open_store,
    processes,
    together,
)
from tests.support.polling import until
from tests.support.servers import ValkeyServer

USER: Identity = ("user", "alice")
IP: Identity = ("ip", "10.0.0.1")
KEY: Identity = ("apikey", "k-1")
ALL = (USER, IP, KEY)
SECOND = 1_000_000
WINDOW = 86_400
BYTES_PER_LIMIT = 105
BYTES_IN_ALL = 130
BUDGET = 0.5
ALGORITHMS: tuple[Algorithm, ...] = ("fixed", "sliding", "gcra")


@pytest.fixture(scope="module")
def three() -> Iterator[ProcessPoolExecutor]:
    with processes(3) as pool:
        yield pool


@pytest.mark.parametrize("most", [1, 10, 100, 1000])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_three_processes_together_admit_exactly_what_is_documented(
    server: ValkeyServer, three: ProcessPoolExecutor, algorithm: Algorithm, most: int
) -> None:
    """In a window that is long enough for nothing to come back while they ask."""
    meeting = Meeting(server.url, f"{algorithm}-{most}", 3)
    limit = Limit(most, 20 * WINDOW, algorithm)
    work = ChargeWork(meeting, limit, ALL, tasks=max(100, most // 2))
    assert sum(await together(three, 3, work)) == most
    async with open_store(server.url) as store:
        charged = await limiter_of(store, limit).peek(ALL)
        assert [state.remaining for state in charged.states] == [0, 0, 0]
        assert not charged.admitted


async def test_gcra_gives_back_one_request_at_a_time(server: ValkeyServer) -> None:
    """Many tasks at once over real time: the burst, and one more for each interval that passed."""
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(20, 1, "gcra", 5))
        started, admitted = time.monotonic(), 0
        while time.monotonic() < started + 0.6:
            charges = await asyncio.gather(*(limiter.check([USER]) for _ in range(5)))
            admitted += sum(each.admitted for each in charges)
        passed = time.monotonic() - started
    assert 5 + 20 * 0.6 - 1 <= admitted <= 5 + 20 * passed


def admitted_at(limit: Limit, times: list[int]) -> list[int]:
    state: State | None = None
    admitted = []
    for now in times:
        after = charge(limit, state, now)
        if after is not None:
            state = after
            admitted.append(now)
    return admitted


def most_within(times: list[int], span: int) -> int:
    return max(sum(start <= now < start + span for now in times) for start in times)


@pytest.mark.parametrize(
    ("limit", "in_window", "at_once"),
    [
        (Limit(100, 10), 200, 200),
        (Limit(100, 10, "sliding"), 199, 101),
        (Limit(100, 10, "gcra"), 200, 101),
        (Limit(100, 10, "gcra", 20), 120, 21),
    ],
    ids=str,
)
def test_what_a_span_admits_at_most(limit: Limit, in_window: int, at_once: int) -> None:
    """A client that waits for the worst moment: one request, then all it can at the end of it."""
    span = limit.window_seconds * SECOND
    start = 4_000_000_000 * SECOND
    hammering = [start + span - 50_000 + 500 * n for n in range(30_000)]
    times = admitted_at(limit, [start, *hammering])
    assert most_within(times, span) <= in_window
    assert most_within(times, span) >= in_window - 2
    assert most_within(times, 100_000) <= at_once


LETTERS = {"fixed": b"", "sliding": b"s", "gcra": b"g"}


@pytest.mark.parametrize("after", ALGORITHMS)
@pytest.mark.parametrize("before", ALGORITHMS)
async def test_a_rule_that_changes_its_algorithm_forgets_nobody(
    server: ValkeyServer, before: Algorithm, after: Algorithm
) -> None:
    async with open_store(server.url) as store:
        old, new = (limiter_of(store, Limit(10, WINDOW, a)) for a in (before, after))
        for _ in range(4):
            assert (await old.check(ALL)).admitted
        assert [state.remaining for state in (await new.peek(ALL)).states] == [6, 6, 6]
        admitted = [(await new.check(ALL)).admitted for _ in range(10)]
        assert admitted == [True] * 6 + [False] * 4
        assert not (await old.check(ALL)).admitted
        with server.client() as client:
            for key in client.scan_iter("ratelimit:*"):
                value: Any = client.get(key)
                # A refused look by the old rule may have put a count back in place.
                assert value[:1] in {LETTERS[after], LETTERS[before]} or value.isdigit()
                assert 0 < client.ttl(key) <= 2 * WINDOW


async def test_a_full_identity_stays_full_when_the_algorithm_changes_in_the_common_script(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        for algorithm in ("sliding", "gcra"):
            user: Identity = ("user", algorithm)
            old = limiter_of(store, Limit(3, 60, algorithm))
            for _ in range(3):
                assert (await old.check([user])).admitted
            new = limiter_of(store, Limit(3, 60))
            assert new.plan([user]).selection.plain
            refusal = await new.check([user])
            assert not refusal.admitted
            assert 0 < refusal.retry_after <= 60
            with server.client() as client:
                assert client.get(f"ratelimit:user:{algorithm}:60") == b"3"


async def test_the_other_rate_of_a_bucket_applies_at_once(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        large, small = (limiter_of(store, Limit(n, WINDOW, "gcra")) for n in (1000, 10))
        assert (await large.consume([USER], 400)).states[0].remaining == 600
        assert (await small.peek([USER])).states[0].remaining == 6
        assert (await small.consume([USER], 6)).admitted
        assert not (await small.check([USER])).admitted


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_nothing_outlives_its_use(server: ValkeyServer, algorithm: Algorithm) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(4, 1, algorithm))
        assert (await limiter.check(ALL)).admitted
        # In whole milliseconds, rounded up.
        longest = {"fixed": 1000, "sliding": 2001, "gcra": 251}[algorithm]
        with server.client() as client:
            keys = list(client.scan_iter("ratelimit:*"))
            assert len(keys) == 3
            assert all(0 < client.pttl(key) <= longest for key in keys)
            await until(
                lambda: not client.exists(*keys), within=longest / 1000 + 2, what="all is gone"
            )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_refused_request_writes_nothing(server: ValkeyServer, algorithm: Algorithm) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(2, WINDOW, algorithm))
        await limiter.consume([USER], 2)
        with server.client() as client:
            value, end = client.dump(f"ratelimit:user:alice:{WINDOW}"), expiry(client)
            for _ in range(20):
                assert not (await limiter.check(ALL)).admitted
            assert client.dump(f"ratelimit:user:alice:{WINDOW}") == value
            assert expiry(client) == end
            assert client.dbsize() == 1


def expiry(client: valkey.Valkey) -> Any:
    return client.pexpiretime(f"ratelimit:user:alice:{WINDOW}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_limit_takes_no_more_than_105_bytes(
    server: ValkeyServer, algorithm: Algorithm
) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(20_000, WINDOW, algorithm))
        identities: tuple[Identity, ...] = (("user", "user-0000001"), ("apikey", "apikey-00001"))
        with server.client() as client:
            sizes = []
            for cost in (1, 9_999):
                await limiter.consume(identities, cost)
                keys = limiter.plan(identities).keys
                sizes.append([client.memory_usage(key) for key in keys])
    assert all(0 < size <= BYTES_PER_LIMIT for each in sizes for size in each), sizes
    assert max(sizes[1]) - max(sizes[0]) <= 8, sizes


async def fill(server: ValkeyServer, store: Store, limit: Limit, count: int) -> float:
    """Charge so many identities; returns the bytes that each took in all."""
    limiter = limiter_of(store, limit)
    script = limits._CHARGE_PLAIN if limit.algorithm == "fixed" else limits._CHARGE
    with server.client() as client:
        await limiter.check([("user", "loads-the-script")], deadline=later())
        before = memory(client)
        for first in range(0, count, 500):
            plans = (limiter.plan([("user", f"user{first + n:08d}")]) for n in range(500))
            calls = [ScriptCall(script, plan.keys, plan.arguments) for plan in plans]
            await store.state.pipeline(calls, deadline=later())
        assert client.dbsize() == count + 1
        return (memory(client) - before) / count


def memory(client: valkey.Valkey) -> int:
    found: Any = client.info("memory")
    return int(found["used_memory_dataset"])


async def test_memory_of_many_identities_is_as_documented(
    private_server: Callable[..., ValkeyServer],
) -> None:
    """With what the server keeps for the key and its expiry in its tables."""
    server = private_server()
    async with open_store(server.url) as store:
        assert await fill(server, store, Limit(1000, 3600), 20_000) <= BYTES_IN_ALL


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_million_identities(
    private_server: Callable[..., ValkeyServer], algorithm: Algorithm
) -> None:
    server = private_server()
    async with open_store(server.url) as store:
        # Long enough for no bucket to be empty before the last one is charged.
        limit = Limit(100, 86_400, algorithm)
        assert await fill(server, store, limit, 1_000_000) <= BYTES_IN_ALL


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_server_that_forgot_the_script_is_given_it_again(
    server: ValkeyServer, algorithm: Algorithm
) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(3, WINDOW, algorithm))
        await limiter.check(ALL)
        with server.client() as client:
            client.script_flush()
        assert [state.remaining for state in (await limiter.check(ALL)).states] == [1, 1, 1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_counter_that_was_evicted_begins_again(
    server: ValkeyServer, algorithm: Algorithm
) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1, WINDOW, algorithm))
        await limiter.check(ALL)
        assert not (await limiter.check(ALL)).admitted
        with server.client() as client:
            client.delete(*limiter.plan(ALL).keys)
        assert (await limiter.check(ALL)).admitted
        assert not (await limiter.check(ALL)).admitted


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_full_server_evicts_counters_and_goes_on(
    private_server: Callable[..., ValkeyServer], algorithm: Algorithm
) -> None:
    """Whose counter was evicted begins anew; nobody gets an error."""
    server = private_server({"maxmemory-policy": "volatile-lfu"})
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1, WINDOW, algorithm))
        script = limits._CHARGE_PLAIN if algorithm == "fixed" else limits._CHARGE
        assert (await limiter.check([USER])).admitted
        with server.client() as client:
            client.config_set("maxmemory", used_memory(client) + 200_000)
            for first in range(0, 10_000, 500):
                plans = [limiter.plan([("user", f"user{first + n:08d}")]) for n in range(500)]
                calls = [ScriptCall(script, plan.keys, plan.arguments) for plan in plans]
                replies: list[Any] = await store.state.pipeline(calls, deadline=later())
                assert {reply[0] for reply in replies} == {1}
            info: Any = client.info("stats")
            assert info["evicted_keys"] > 1000
            names = (f"user{n:08d}" for n in range(10_000))
            lost = next(n for n in names if not client.exists(*limiter.plan([("user", n)]).keys))
        assert (await limiter.check([("user", lost)])).admitted
        assert not (await limiter.check([("user", lost)])).admitted


def used_memory(client: valkey.Valkey) -> int:
    found: Any = client.info("memory")
    return int(found["used_memory"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_processes_whose_clocks_differ_agree(
    server: ValkeyServer, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, admitted = Limit(6, WINDOW, algorithm), 0
    async with open_store(server.url) as one, open_store(server.url) as other:
        limiters = limiter_of(one, limit), limiter_of(other, limit)
        with monkeypatch.context() as patch:
            real, real_ns = time.time, time.time_ns
            for number in range(12):
                off = (number % 3 - 1) * 2 * WINDOW
                patch.setattr(time, "time", lambda off=off: real() + off)
                patch.setattr(time, "time_ns", lambda off=off: real_ns() + off * 10**9)
                charge = await limiters[number % 2].check([USER])
                admitted += charge.admitted
                assert charge.states[0].reset <= WINDOW
    assert admitted == 6


KINDS: tuple[Kind, ...] = ("user", "apikey")


@pytest.mark.parametrize("name", ["a:60", "{a}", "a b", "a:60:pro", "é", "*", "x" * 300])
async def test_no_id_touches_the_state_of_another(server: ValkeyServer, name: str) -> None:
    rules = Rules(Limit(5), [Rule("pro", KINDS, (Limit(5, 60), Limit(9, 61, "gcra")))])
    async with open_store(server.url) as store:
        limiter = limiter_of(store, rules)
        for kind in KINDS:
            assert (await limiter.check([(kind, name)])).states[0].remaining == 4
            assert (await limiter.check([(kind, "a")])).states[0].remaining == 4
            await limiter.reset((kind, "a"))
    with server.client() as client:
        rows = {row.name for key in client.scan_iter() if (row := classify(key))}
        assert rows == {"ratelimit_rule"}
        assert client.dbsize() == 4


async def test_several_limits_and_costs_are_charged_in_one_round_trip(
    server: ValkeyServer,
) -> None:
    limits = (Limit(20, 1, "gcra", 50), Limit(100, WINDOW))
    rules = Rules(
        Limit(1000),
        [Rule("users", ("user",), limits)],
        costs=[(Patterns(["heavy:*"]), 10)],
    )
    async with open_store(server.url) as store:
        limiter = limiter_of(store, rules)
        for _ in range(4):
            assert (await limiter.check(ALL, action="heavy:x")).admitted
        charge = await limiter.check(ALL, action="light")
        assert [state.policy for state in charge.states] == [
            *("users-1", f"users-{WINDOW}", "ip", "apikey")
        ]
        assert charge.states[1].remaining == 59
        assert charge.states[2].remaining == 959
        assert (await limiter.consume(ALL, 50)).refused == USER


async def test_a_limit_in_shadow_mode_counts_and_reports_but_never_refuses(
    server: ValkeyServer,
) -> None:
    hub = Hub()
    shadowed: list[LimitShadowed] = []
    refused: list[LimitRefused] = []
    hub.on(LimitShadowed, shadowed.append)
    hub.on(LimitRefused, refused.append)
    rules = Rules(Limit(5), [Rule("soon", ("user",), (Limit(2),), shadow=True, goes_on=True)])
    async with open_store(server.url, hub=hub) as store:
        limiter = limiter_of(store, rules)
        charges = [await limiter.check([USER]) for _ in range(7)]
    assert [charge.admitted for charge in charges] == [True] * 5 + [False] * 2
    assert [charge.shadow for charge in charges] == [(), ()] + [("soon",)] * 5
    assert [charge.states[0].remaining for charge in charges] == [1, 0, 0, 0, 0, 0, 0]
    assert [charge.policy for charge in charges[5:]] == ["user", "user"]
    assert shadowed == [LimitShadowed("user", "soon")] * 5
    assert refused == [LimitRefused("user", "user")] * 2


async def test_lists_admit_and_refuse_without_counting(server: ValkeyServer) -> None:
    allow, deny = Listed({"user": frozenset({"alice"})}), Listed({"apikey": frozenset({"k-1"})})
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Rules(Limit(1), allow=allow, deny=deny))
        for _ in range(3):
            charge = await limiter.check([USER])
            assert (charge.admitted, charge.states) == (True, ())
        charge = await limiter.check(ALL)
        assert (charge.admitted, charge.refused, charge.source) == (False, KEY, "rules")
        assert (charge.policy, charge.retry_after) == ("deny", 60)
        assert [s.kind for s in (await limiter.check([USER, IP])).states] == ["ip"]
        with server.client() as client:
            assert list(client.scan_iter()) == [b"ratelimit:ip:10.0.0.1:60"]


async def test_an_ipv6_address_counts_for_its_network(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(2))
        assert (await limiter.check([("ip", "2001:db8::1")])).admitted
        assert (await limiter.check([("ip", "2001:db8::ffff")])).admitted
        charge = await limiter.check([("ip", "2001:db8:0:0:1::")])
        assert charge.refused == ("ip", "2001:db8::/64")
        assert (await limiter.check([("ip", "2001:db8:0:1::")])).admitted
        with pytest.raises(InvalidRequestError):
            await limiter.check([("ip", "2001:db8::1%eth0")])


async def test_a_cost_that_never_fits_is_an_error(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        for limit, most in ((Limit(5), 5), (Limit(5, 60, "gcra", 20), 20)):
            limiter = limiter_of(store, limit)
            assert (await limiter.consume([USER], most)).admitted
            with pytest.raises(
                InvalidRequestError,
                match=rf"expected at most {most}, which is the rate limit user \({limit}\)",
            ):
                await limiter.consume([USER], most + 1)
            with pytest.raises(InvalidRequestError):
                await limiter.consume([USER], -1)
            await limiter.reset(USER)


async def test_reset_and_top_follow_what_is_used(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(10))
        for name, cost in (("few", 4), ("half", 6), ("full", 10)):
            await limiter.consume([("user", name)], cost)
        near = await nearest(limiter, most=10)
        assert [(each.id, each.used) for each in near] == [("full", 1.0), ("half", 0.6)]
        assert [each.id for each in await nearest(limiter, most=1)] == ["full"]
        assert await limiter.reset(("user", "full")) == 1
        assert [each.id for each in await nearest(limiter, most=10)] == ["half"]
        with server.client() as client:
            assert 0 < client.ttl("ratelimit:top") <= 61
            client.delete("ratelimit:user:half:60")
        assert await nearest(limiter, most=10) == []


async def test_the_list_of_who_is_near_stays_small_and_keeps_the_nearest(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1000))
        for first in range(0, 240, 60):
            for number in range(first, first + 60):
                await limiter.consume([("user", f"u{number}")], 600 + number)
            await limiter.near.flush()
        near = await nearest(limiter, most=1000)
        assert [each.id for each in near] == [f"u{n}" for n in range(239, 139, -1)]
        with server.client() as client:
            assert client.zcard("ratelimit:top") == 100


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_refund_gives_back_and_never_more(
    server: ValkeyServer, algorithm: Algorithm
) -> None:
    """As in a cluster: two groups are charged apart, and one is refunded when the other refuses."""
    hour = 3600
    rules = Rules(None, [Rule("r", ("user", "ip"), (Limit(10, hour, algorithm),), shadow=False)])
    async with open_store(server.url) as store:
        limiter = limiter_of(store, rules)
        plan = limiter.plan([USER])
        reply = await charged(store, limiter, [USER], 4)
        other = await charged(store, limiter, [USER], 3)
        assert await limiter.refund(plan_of(limiter, 4), reply) == 1
        # Of a bucket as much less as may have been drained meanwhile: under a request.
        remaining = (await limiter.peek([USER])).states[0].remaining
        assert remaining in ({7} if algorithm != "gcra" else {6, 7})
        assert await limiter.refund(plan_of(limiter, 3), other) == 1
        assert (await limiter.peek([USER])).states[0].remaining in (
            {10} if algorithm != "gcra" else {9, 10}
        )
        await limiter.reset(USER)
        assert await limiter.refund(plan, reply) == 0
        await asyncio.sleep(0.005)
        await charged(store, limiter, [USER], 5)
        if algorithm != "gcra":
            # A window that began later has not been charged by the earlier request.
            assert await limiter.refund(plan_of(limiter, 4), reply) == 0
            assert (await limiter.peek([USER])).states[0].remaining == 5


def plan_of(limiter: RateLimiter, cost: int) -> Any:
    return limiter.plan([USER], cost=cost)


async def charged(
    store: Any, limiter: RateLimiter, identities: list[Identity], cost: int
) -> list[int]:
    """Charge by the script that tells the time, as a cluster's groups are."""
    plan = limiter.plan(identities, cost=cost)
    script, keys, _ = limiter.look(plan)
    arguments: list[Any] = [plan.selection.letters]
    for each in plan.selection.applied:
        arguments += each.arguments(cost)
    reply: list[int] = (await store.state.run(script, keys, arguments)).value
    return reply


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_without_valkey_each_process_counts_its_part(
    private_server: Callable[..., ValkeyServer], algorithm: Algorithm
) -> None:
    hub = Hub()
    fallbacks: list[LimitFallback] = []
    hub.on(LimitFallback, fallbacks.append)
    server = private_server()
    async with open_store(server.url, hub=hub) as store:
        limiter = limiter_of(store, Limit(10, WINDOW, algorithm), processes=3, budget=BUDGET)
        assert (await limiter.check(ALL, deadline=later())).source == "valkey"
        server.kill()
        charges = [await limiter.check(ALL) for _ in range(5)]
        assert [charge.admitted for charge in charges] == [True] * 3 + [False] * 2
        assert {charge.source for charge in charges} == {"local"}
        assert (charges[0].states[0].limit, charges[0].states[0].remaining) == (3, 2)
        assert charges[4].refused == USER
        assert charges[4].retry_after > 0
        # What costs more than a process's part takes all of it, rather than never coming through.
        assert (await limiter.consume([("user", "bob")], 9)).admitted
        assert not (await limiter.check([("user", "bob")])).admitted
        assert fallbacks == [LimitFallback("local")] * 7

        opened = limiter_of(store, Limit(1), fallback="open", budget=BUDGET)
        for _ in range(3):
            charge = await opened.check(ALL)
            assert (charge.admitted, charge.states, charge.source) == (True, (), "open")
        closed = limiter_of(store, Limit(1), fallback="closed", budget=BUDGET)
        with pytest.raises(StoreUnavailableError):
            await closed.check(ALL)

        server.start()

        async def shared_again() -> bool:
            return (await limiter.check([("user", "eve")])).source == "valkey"

        await until(shared_again, within=10, what="the shared counters count again")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_server_that_comes_and_goes_gives_no_fresh_limit(
    server: ValkeyServer, algorithm: Algorithm
) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(5, 3600, algorithm), processes=2)
        charges = []
        for number in range(60):
            # Every second time there is no time left to ask the server.
            deadline = later() if number % 2 else 0.0
            charges.append(await limiter.check([USER], deadline=deadline))
    admitted = Counter(each.source for each in charges if each.admitted)
    assert {each.source for each in charges} == {"valkey", "local"}
    assert admitted == {"valkey": 5, "local": 2}


def test_the_memory_of_the_local_limiter_is_bounded() -> None:
    now = 0
    local = LocalLimits(1, most=100, clock=lambda: now)
    limiter_plans = [plan_for(f"u{n}") for n in range(300)]
    for plan in limiter_plans:
        _, reply = local.charge(plan)
        assert reply[0] == 1
        assert len(local) <= 100
    # The newest are known, the oldest made room.
    assert local.charge(limiter_plans[299])[1][0] == 0
    assert local.charge(limiter_plans[0])[1][0] == 1
    now = 61 * SECOND
    for plan in limiter_plans[:60]:
        local.charge(plan)
    assert len(local) <= 100


def plan_for(name: str) -> Any:
    from sark.ratelimit.plan import ChargePlan

    selection = Selection([(0, Applied("user", Limit(1), "user"))], [1])
    return ChargePlan([name], [f"ratelimit:user:{name}:60"], selection)
