"""The decorator for any coroutine function, on a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from sark.errors import LimitExceededError, StoreError
from sark.ratelimit import Identity, Limit, RateLimiter
from sark.ratelimit.decorator import limited
from sark.ratelimit.named import derive_name
from tests.support.gateways import Meeting, open_store, processes, together
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer


def by_user(user_id: str, *_: object) -> Identity:
    return "user", user_id


async def test_it_raises_instead_of_calling(server: ValkeyServer) -> None:
    called: list[tuple[str, int]] = []
    async with open_store(str(server.url)) as store:

        @limited(RateLimiter(store, None), "2/minute", "10/hour", key=by_user)
        async def send(user_id: str, number: int) -> int:
            """Sends."""
            called.append((user_id, number))
            return number

        assert [await send("ann", n) for n in range(2)] == [0, 1]
        with pytest.raises(LimitExceededError) as caught:
            await send("ann", 2)
        assert await send("bob", 3) == 3
    assert called == [("ann", 0), ("ann", 1), ("bob", 3)]
    error = caught.value
    assert (error.kind, error.decision_id) == ("user", "")
    assert error.policy == f"{derive_name(f'{send.__module__}.{send.__qualname__}')}-60"
    assert 0 < error.retry_after <= 60
    assert [(s.limit, s.remaining) for s in error.limits] == [(2, 0), (10, 8)]  # type: ignore[attr-defined]
    assert (send.__name__, send.__doc__) == ("send", "Sends.")


async def test_functions_are_apart_unless_they_share_a_name(server: ValkeyServer) -> None:
    async with open_store(str(server.url)) as store:
        limiter = RateLimiter(store, None)

        @limited(lambda: limiter, "1/minute", key=by_user)
        async def one(_: str) -> None: ...

        @limited(limiter, "1/minute", key=by_user)
        async def two(_: str) -> None: ...

        @limited(limiter, "1/minute", key=by_user, name="shared")
        async def three(_: str) -> None: ...

        @limited(limiter, "1/minute", key=by_user, name="shared")
        async def four(_: str) -> None: ...

        @limited(limiter, "1/minute", key=by_user, name="shared", namespace="blog")
        async def five(_: str) -> None: ...

        for function in (one, two, three, five):
            await function("ann")
        with pytest.raises(LimitExceededError, match="shared"):
            await four("ann")


async def test_several_identities_are_charged_together(server: ValkeyServer) -> None:
    def key(user_id: str, ip: str) -> Sequence[Identity]:
        return [("user", user_id), ("ip", ip)]

    async with open_store(str(server.url)) as store:

        @limited(RateLimiter(store, None), "2/minute", key=key, name="login")
        async def log_in(user_id: str, ip: str) -> None: ...

        await log_in("ann", "192.0.2.1")
        await log_in("bob", "192.0.2.1")
        for _ in range(3):
            with pytest.raises(LimitExceededError) as caught:
                await log_in("ann", "192.0.2.1")
            assert (caught.value.kind, caught.value.policy) == ("ip", "login-ip")
        # The refused ones charged nobody.
        await log_in("ann", "192.0.2.2")


async def test_a_call_takes_one_round_trip(server: ValkeyServer) -> None:
    def key(user_id: str) -> Sequence[Identity]:
        return [("user", user_id), ("ip", "2001:db8::1"), ("apikey", "k")]

    async with count_round_trips(server) as (url, counts), open_store(url) as store:

        @limited(RateLimiter(store, None), "5/second burst 9", "60/minute", "9/day", key=key)
        async def build(_: str) -> None: ...

        await build("ann")  # opens the connection and loads the script
        counts.reset()
        for _ in range(3):
            await build("ann")
        assert (counts.round_trips, counts.commands["evalsha"]) == (3, 3)


async def test_the_limiter_keeps_its_own_rules(server: ValkeyServer) -> None:
    async with open_store(str(server.url)) as store:
        limiter = RateLimiter(store, Limit(3))
        rules = limiter.rules

        @limited(limiter, "1/minute", key=by_user)
        async def build(_: str) -> None: ...

        await build("ann")
        assert limiter.rules is rules
        charges = [await limiter.check([("user", "ann")]) for _ in range(4)]
    assert [charge.admitted for charge in charges] == [True, True, True, False]
    assert {state.policy for charge in charges for state in charge.states} == {"user"}


async def test_a_call_may_cost_more(server: ValkeyServer) -> None:
    async with open_store(str(server.url)) as store:

        @limited(RateLimiter(store, None), "10/minute", key=by_user, cost=5)
        async def build(_: str) -> None: ...

        await build("ann")
        await build("ann")
        with pytest.raises(LimitExceededError):
            await build("ann")


async def test_in_shadow_mode_every_call_goes_through(server: ValkeyServer) -> None:
    async with open_store(str(server.url)) as store:

        @limited(RateLimiter(store, None), "1/minute", key=by_user, shadow=True)
        async def build(_: str) -> int:
            return 1

        assert [await build("ann") for _ in range(3)] == [1, 1, 1]


async def test_without_valkey_it_does_as_the_limiter(private_server: object) -> None:
    valkey: ValkeyServer = private_server()  # type: ignore[operator]
    async with open_store(str(valkey.url)) as store:

        @limited(RateLimiter(store, None, fallback="closed"), "10/minute", key=by_user)
        async def build(_: str) -> None: ...

        await build("ann")
        valkey.kill()
        with pytest.raises(StoreError):
            await build("ann")


class CallWork:
    """Calls a limited function with many tasks; tells how many calls went through."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting

    def __call__(self, _number: int) -> int:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> int:
        async with open_store(self.meeting.url) as store:

            @limited(RateLimiter(store, None), "50/hour", key=by_user, name="calls")
            async def call(_: str) -> None: ...

            results = await asyncio.gather(
                *(call("ann") for _ in range(100)), return_exceptions=True
            )
        refused = [result for result in results if result is not None]
        assert all(isinstance(result, LimitExceededError) for result in refused)
        return len(results) - len(refused)


async def test_two_processes_admit_exactly_the_limit(server: ValkeyServer) -> None:
    with processes(2) as pool:
        admitted = await together(pool, 2, CallWork(Meeting(str(server.url), "calls", 2)))
    assert sum(admitted) == 50


def test_mistakes_show_at_once() -> None:
    for limits, name in ((["often"], None), ([], None), (["1/minute"], "a name")):
        with pytest.raises(ValueError, match="got "):
            limited(lambda: None, *limits, key=by_user, name=name)(_never)  # type: ignore[arg-type,return-value]


def test_only_a_coroutine_function_can_be_limited() -> None:
    def plain(_: str) -> str:
        return ""

    async def generates(_: str) -> AsyncIterator[str]:
        yield ""

    for function in (plain, generates, len, type):
        with pytest.raises(TypeError, match="expected a coroutine function"):
            limited(lambda: None, "1/minute", key=by_user)(function)  # type: ignore[arg-type,return-value]


async def _never(_: str) -> None: ...
