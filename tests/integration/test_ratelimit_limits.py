"""Rate limits on a real server: exact across processes, all or nothing, windows that end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sark.errors import InvalidRequestError, StoreCommandError
from sark.keyspace import classify
from sark.ratelimit import Identity, Limit, LimitState, canonical_ip
from sark.runtime import open_runtime
from sark.settings import Settings
from sark.settings._urls import ServerUrl
from tests.support.gateways import (
    ChargeWork,
    Meeting,
    ask,
    later,
    limiter_of,
    open_gateway,
    open_store,
    processes,
    together,
)
from tests.support.polling import until
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer

USER: Identity = ("user", "alice")
IP: Identity = ("ip", "10.0.0.1")
KEY: Identity = ("apikey", "k-1")
ALL = (USER, IP, KEY)


@pytest.fixture(scope="module")
def three() -> Iterator[ProcessPoolExecutor]:
    with processes(3) as pool:
        yield pool


@pytest.mark.parametrize("most", [1, 10, 100])
async def test_three_processes_together_admit_exactly_the_limit(
    server: ValkeyServer, three: ProcessPoolExecutor, most: int
) -> None:
    meeting = Meeting(server.url, f"limit-{most}", 3)
    work = ChargeWork(meeting, Limit(most, window_seconds=600), ALL, tasks=150)
    admitted = await together(three, 3, work)
    assert sum(admitted) == most
    with server.client() as client:
        for kind, identity in ALL:
            assert int(get(client, f"ratelimit:{kind}:{identity}:600")) == most


def get(client: valkey.Valkey, key: str) -> Any:
    return client.get(key)


@pytest.mark.parametrize("full", ALL, ids=lambda identity: identity[0])
async def test_a_request_that_one_identity_refuses_charges_none(
    server: ValkeyServer, full: Identity
) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(3))
        for _ in range(3):
            assert (await limiter.check([full])).admitted
        for _ in range(5):
            charge = await limiter.check(ALL)
            assert not charge.admitted
            assert charge.refused == full
            expected = {identity: 0 if identity == full else 3 for identity in ALL}
            assert [state.remaining for state in charge.states] == list(expected.values())
        others = [identity for identity in ALL if identity != full]
        with server.client() as client:
            assert get(client, limiter.plan([full]).keys[0]) == b"3"
            assert client.exists(*limiter.plan(others).keys) == 0
        assert [state.remaining for state in (await limiter.check(others)).states] == [2, 2]


names = st.sampled_from(["a", "b", "c"])
numbers = count()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 4),
    st.lists(st.tuples(names, st.none() | names, st.none() | names), min_size=1, max_size=25),
)
def test_any_sequence_of_requests_agrees_with_the_model(
    server: ValkeyServer, most: int, requests: list[tuple[str, str | None, str | None]]
) -> None:
    number = next(numbers)
    space = f"{number}-"

    async def run() -> None:
        used: Counter[Identity] = Counter()
        async with open_store(server.url) as store:
            limiter = limiter_of(store, Limit(most, window_seconds=600))
            for user, ip, key in requests:
                identities: list[Identity] = [("user", space + user)]
                identities += [("ip", f"10.{number >> 8}.{number & 255}.{ord(ip)}")] if ip else []
                identities += [("apikey", space + key)] if key else []
                full = [identity for identity in identities if used[identity] == most]
                charge = await limiter.check(identities, deadline=later())
                assert charge.admitted is (not full)
                assert charge.refused == (full[0] if full else None)
                used.update([] if full else identities)
                assert charge.states == tuple(
                    LimitState(kind, most, most - used[kind, name], state.reset, 600, kind)
                    for (kind, name), state in zip(identities, charge.states, strict=True)
                )

    asyncio.run(run())


async def test_a_window_is_set_once_and_never_extended(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(5))
        await limiter.check([USER])
        with server.client() as client:
            ends = set[int]()
            for _ in range(20):
                await limiter.check([USER])
                ends.add(expiry(client, "ratelimit:user:alice:60"))
        assert len(ends) == 1


def expiry(client: valkey.Valkey, key: str) -> int:
    moment: int = client.pexpiretime(key)
    return moment


async def test_a_window_lasts_as_long_as_it_says(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        await limiter_of(store, Limit(5, window_seconds=7)).check(ALL)
        with server.client() as client:
            for kind, identity in ALL:
                left = client.pttl(f"ratelimit:{kind}:{identity}:7")
                assert 6000 < left <= 7000


@pytest.mark.parametrize("used", [1, 5])
async def test_a_counter_that_lost_its_ttl_gets_one(server: ValkeyServer, used: int) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(5))
        for _ in range(used):
            await limiter.check([USER])
        with server.client() as client:
            client.persist("ratelimit:user:alice:60")
            charge = await limiter.check([USER])
            assert charge.admitted is (used == 1)
            assert charge.states[0].reset == 60
            assert 59_000 < client.pttl("ratelimit:user:alice:60") <= 60_000
            end = expiry(client, "ratelimit:user:alice:60")
            await limiter.check([USER])
            assert expiry(client, "ratelimit:user:alice:60") == end


async def test_a_window_ends_though_the_client_never_stops(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(2, window_seconds=1))
        assert (await limiter.check([USER])).admitted
        assert (await limiter.check([USER])).admitted
        refusals = 0

        async def admitted_again() -> bool:
            nonlocal refusals
            charge = await limiter.check([USER])
            refusals += not charge.admitted
            return charge.admitted

        await until(admitted_again, within=5, what="the window ended")
        assert refusals


async def test_a_steady_client_at_40_percent_is_never_refused(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(10, window_seconds=1))
        with server.client() as client:
            start = milliseconds(client)
            for number in range(12):
                await until(
                    lambda due=start + 250 * number: milliseconds(client) >= due,
                    within=5,
                    what="a quarter of a second passed",
                )
                assert (await limiter.check([USER])).admitted, f"request {number}"


def milliseconds(client: valkey.Valkey) -> int:
    now: Any = client.time()
    return int(now[0]) * 1000 + int(now[1]) // 1000


async def test_a_refusal_tells_when_to_come_back(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1))
        assert (await limiter.check([USER])).retry_after == 0
        assert (await limiter.check([KEY])).admitted
        with server.client() as client:
            client.pexpire("ratelimit:user:alice:60", 1500)
            client.pexpire("ratelimit:apikey:k-1:60", 30_500)
        await limiter.check([IP])
        charge = await limiter.check([USER, KEY])
        assert charge.refused == USER
        assert 1 < charge.refused_for <= 1.5
        assert [state.reset for state in charge.states] == [2, 31]
        assert charge.retry_after == 31
        # A window that does not refuse is no reason to wait.
        charge = await limiter.check([USER, ("ip", "10.0.0.2")])
        assert charge.retry_after in (1, 2)


async def test_a_refusal_never_says_come_back_at_once(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1))
        charge = limiter.read(limiter.plan([USER]), [0, 0, 1, 0])
    assert charge.states[0].reset == 0
    assert charge.retry_after == 1


async def test_a_lower_limit_applies_to_what_was_counted_before(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        for _ in range(9):
            await limiter_of(store, Limit(10)).check([USER])
        charge = await limiter_of(store, Limit(3)).check([USER])
        assert not charge.admitted
        assert charge.states[0].remaining == 0
        assert (await limiter_of(store, Limit(10)).check([USER])).states[0].remaining == 0


@pytest.mark.parametrize("kind", ["user", "apikey"])
async def test_ids_that_look_alike_have_counters_of_their_own(
    server: ValkeyServer, kind: Any
) -> None:
    ids = [
        "a",
        "a:60",
        "{a}",
        "a ",
        "*",
        "a\n",
        "é",
        "e\u0301",
        "%3A",
        ":",
        "A",
        "a" * 256,
        "é" * 128,
    ]
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1))
        for name in ids:
            assert (await limiter.check([(kind, name)])).admitted, name
        for name in ids:
            assert not (await limiter.check([(kind, name)])).admitted, name
    with server.client() as client:
        rows = [classify(key) for key in client.scan_iter()]
    assert [row.name for row in rows if row] == ["ratelimit"] * len(ids)


async def test_one_id_as_user_and_as_key_are_two(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1))
        for kind in ("user", "ip", "apikey"):
            identity: Any = (kind, "10.0.0.1")
            assert (await limiter.check([identity])).admitted


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
        ("0:0:0:0:0:ffff:10.0.0.1", "10.0.0.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:db8::0:1", "2001:db8::1"),
        ("::", "::"),
        ("::10.0.0.1", "::a00:1"),
    ],
)
def test_an_address_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_ip(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "localhost", "10.0.0.1 ", "10.0.0.01", "10.0.0", "10.0.0.1:80", "[::1]", "1"),
        *("10.0.0.0/8", "::1/128", "1.1.1.1\n", "fe80::1%eth0", "::ffff:1.2.3.4%x"),
        "fe80::1%" + "x" * 9999,
    ],
    ids=lambda text: repr(text[:20]),
)
async def test_what_is_no_address_is_refused_with_limits_and_without(
    server: ValkeyServer, text: str
) -> None:
    async with count_round_trips(server) as (url, counts):
        for limit in (Limit(1), None):
            async with open_gateway(url, limit=limit) as gateway:
                with pytest.raises(InvalidRequestError) as caught:
                    await gateway.authorize(ask(ip=text))
                assert caught.value.field == "ip"
        assert counts.round_trips == 0


async def test_spellings_of_an_address_share_a_counter(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(3))
        spellings = ["10.0.0.1", "::ffff:10.0.0.1", "::FFFF:a00:1"]
        left = []
        for text in spellings:
            charge = await limiter.check(limiter.identities("u", text, None)[1:])
            left.append(charge.states[0].remaining)
        assert left == [2, 1, 0]


async def test_without_limits_nothing_is_counted_or_asked(server: ValkeyServer) -> None:
    async with count_round_trips(server) as (url, counts), open_store(url) as store:
        limiter = limiter_of(store, None)
        identities = limiter.identities("alice", "10.0.0.1", "k")
        charge = await limiter.check(identities)
        assert (identities, charge.admitted, charge.states) == ((), True, ())
        assert counts.round_trips == 0


async def test_a_limit_of_0_in_the_settings_switches_limits_off(
    server: ValkeyServer, tmp_path: Path
) -> None:
    (tmp_path / "a.rego").write_text('package sark.authz\ndecision := {"allow": true}\n')
    for per_minute, limited in ((0, 0), (7, 2)):
        settings = Settings(
            valkey_url=ServerUrl(server.url),
            policy_dir=tmp_path,
            data_dir=tmp_path / "data",
            key_dir=tmp_path / "keys",
            limit_per_minute=per_minute,
            request_budget_ms=30_000,
        )
        async with open_runtime(settings) as sark:
            answer = await sark.authorize(ask(ip="10.0.0.1"))
            assert len(answer.limits) == limited
        with server.client() as client:
            assert len(list(client.scan_iter("ratelimit:*"))) == limited
    assert [(state.limit, state.remaining) for state in answer.limits] == [(7, 6), (7, 6)]


async def test_a_counter_that_is_none_is_an_error_and_not_a_free_pass(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        limiter = limiter_of(store, Limit(1))
        with server.client() as client:
            client.set("ratelimit:user:alice:60", "many", ex=60)
            with pytest.raises(StoreCommandError):
                await limiter.check([USER])
            client.delete("ratelimit:user:alice:60")
            client.rpush("ratelimit:user:alice:60", "x")
            client.expire("ratelimit:user:alice:60", 60)
            with pytest.raises(StoreCommandError):
                await limiter.check([USER])
