"""One breaker, guarding calls: outcomes, round trips, cancellation, listeners, operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from sark.breaker import Breaker, BreakerConfig, Outcome
from sark.errors import BreakerOpen, InvalidRequestError
from sark.events import BreakerChanged, Hub, RoundTrip
from tests.support.breakers import Changes, open_breaker
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.servers import ValkeyServer

WITHIN = 5.0
SOON: dict[str, Any] = {"open_seconds": 0.05, "open_cap": 0.05}


class BrokenError(Exception):
    """What is guarded is down."""


async def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        (await breaker.acquire()).failed("BrokenError")


async def becomes(breaker: Breaker, mode: str) -> None:
    await until(
        lambda: breaker.snapshot().state == mode, within=WITHIN, what=f"the breaker is {mode}"
    )


@asynccontextmanager
async def half_open(server: ValkeyServer, **config: Any) -> AsyncIterator[tuple[Breaker, Changes]]:
    """Run a breaker that is about to admit a probe."""
    async with open_breaker(server, failures=1, **SOON, **config) as (breaker, changes):
        await fail(breaker)
        await becomes(breaker, "open")
        await until(lambda: not breaker.snapshot().retry_after, within=WITHIN, what="it may probe")
        yield breaker, changes


async def test_failures_open_it_and_a_probe_closes_it(server: ValkeyServer) -> None:
    async with open_breaker(server, failures=3, **SOON) as (breaker, changes):
        for _ in range(3):
            with pytest.raises(BrokenError):
                async with breaker:
                    raise BrokenError("a message with a secret")
        await becomes(breaker, "open")
        with pytest.raises(BreakerOpen) as refused:
            await breaker.acquire()
        assert 0 < refused.value.retry_after < 1
        await until(lambda: not breaker.snapshot().retry_after, within=WITHIN, what="it may probe")
        async with breaker as permit:
            assert permit.is_probe
            assert breaker.snapshot().state == "half_open"
        await becomes(breaker, "closed")
        assert changes.modes == ["open", "half_open", "closed"]
        assert changes[0] == BreakerChanged("billing", "open", "BrokenError")
        seen = breaker.snapshot()
        assert (seen.opened, seen.failures, seen.shared) == (1, 0, True)
        assert seen.last_failure is not None
        assert set(seen.seconds) == {"closed", "open", "half_open"}


async def test_closed_a_call_costs_no_round_trip_half_open_it_costs_one(
    server: ValkeyServer,
) -> None:
    hub = Hub()
    trips: list[RoundTrip] = []
    hub.on(RoundTrip, trips.append)
    async with open_breaker(server, hub=hub, failures=1, **SOON) as (breaker, _):
        trips.clear()
        for _ in range(200):
            async with breaker:
                pass
        assert not trips
        await fail(breaker)
        await becomes(breaker, "open")
        await until(lambda: not breaker.snapshot().retry_after, within=WITHIN, what="it may probe")
        trips.clear()
        permit = await breaker.acquire()
        assert permit.is_probe
        assert len(trips) == 1
        for _ in range(100):
            with pytest.raises(BreakerOpen):
                await breaker.acquire()
        assert len(trips) == 1
        permit.neutral()


async def test_every_process_acts_on_the_same_state(server: ValkeyServer) -> None:
    async with (
        open_breaker(server, failures=4) as (one, _),
        open_breaker(server, failures=4) as (other, changes),
        open_breaker(server, "payments", failures=4) as (third, _),
    ):
        await fail(one, 2)
        await until(lambda: other.snapshot().failures == 2, within=WITHIN, what="it is known")
        await fail(other, 2)
        await becomes(one, "open")
        await becomes(other, "open")
        assert changes.modes == ["open"]
        assert third.snapshot().state == "closed"
    with server.client() as client:
        assert client.get("circuit_breaker:billing:state") == b"open"
        assert client.get("circuit_breaker:billing:failure_count") == b"4"
        assert set(client.smembers("circuit_breaker:names")) == {b"billing", b"payments"}


async def test_one_that_starts_finds_it_open(server: ValkeyServer) -> None:
    async with open_breaker(server, failures=1, open_seconds=30) as (one, _):
        await fail(one)
    # What was counted last is brought at the end.
    async with open_breaker(server, failures=1, open_seconds=30) as (other, changes):
        with pytest.raises(BreakerOpen) as refused:
            await other.acquire()
        assert 20 < refused.value.retry_after <= 30
        assert changes.modes == ["open"]


async def test_an_idle_breaker_writes_nothing(server: ValkeyServer) -> None:
    async with open_breaker(server):
        with server.client() as client:
            client.config_resetstat()

            def calls(command: str) -> int:
                found: dict[str, Any] = client.info("commandstats").get(f"cmdstat_{command}", {})
                return int(found.get("calls", 0))

            await until(lambda: calls("hget") >= 3, within=WITHIN, what="it has asked often")
            assert not calls("evalsha")
            assert not calls("hset")
            assert not calls("set")


async def test_neutral_outcomes_count_for_nothing(server: ValkeyServer) -> None:
    config: dict[str, Any] = {"failures": 1, "ignored": (KeyError,)}
    async with open_breaker(server, **config) as (breaker, changes):
        (await breaker.acquire()).neutral()
        with pytest.raises(KeyError):
            async with breaker:
                raise KeyError
        async with breaker as permit:
            permit.neutral()
        asleep = asyncio.create_task(breaker(asyncio.sleep)(30))
        await asyncio.sleep(0)
        asleep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asleep
        await fail(breaker)  # all the others were brought before this one
        await becomes(breaker, "open")
        assert breaker.snapshot().failures == 1
        assert changes.modes == ["open"]


async def test_only_the_first_word_of_a_permit_counts(server: ValkeyServer) -> None:
    async with open_breaker(server, failures=2) as (breaker, _):
        permit = await breaker.acquire()
        permit.failed("one")
        permit.failed("two")
        permit.succeeded()
        await until(lambda: breaker.snapshot().failures == 1, within=WITHIN, what="one has failed")


async def test_the_rules_say_what_a_failure_is(server: ValkeyServer) -> None:
    def by_status(error: BaseException) -> Outcome:
        return "neutral" if "4" in str(error) else "failed"

    def by_result(result: object) -> Outcome:
        return "failed" if result == 503 else "succeeded"

    config: dict[str, Any] = {"failures": 2, "classify": by_status, "classify_result": by_result}
    async with open_breaker(server, **config) as (breaker, _):

        @breaker
        async def call(status: int) -> int:
            """Answers."""
            if status == 400:
                raise BrokenError("400")
            return status

        assert call.__doc__ == "Answers."
        for _ in range(3):
            with pytest.raises(BrokenError):
                await call(400)
        assert [await call(503), await call(503)] == [503, 503]
        await becomes(breaker, "open")
        assert breaker.snapshot().reason == "unwanted result"


async def test_slow_calls_count_by_the_time_that_is_told(server: ValkeyServer) -> None:
    config: dict[str, Any] = {
        "failures": 0,
        "slow_rate": 0.5,
        "slow_seconds": 2.0,
        "minimum_calls": 4,
    }
    async with open_breaker(server, **config, **SOON) as (breaker, _):
        for seconds in (0.1, 2.0, 0.2, 3.0):
            (await breaker.acquire()).succeeded(seconds)
        await becomes(breaker, "open")
        assert breaker.snapshot().reason == "slow calls"
        await until(lambda: not breaker.snapshot().retry_after, within=WITHIN, what="it may probe")
        probe = await breaker.acquire()
        probe.succeeded(5.0)
        await until(lambda: breaker.snapshot().opened == 2, within=WITHIN, what="it opens again")


async def test_guards_may_be_nested_and_run_side_by_side(server: ValkeyServer) -> None:
    async with open_breaker(server, failures=100) as (breaker, _):

        async def call(number: int) -> None:
            async with breaker:
                await asyncio.sleep(0.001 * (number % 3))
                async with breaker as inner:
                    await asyncio.sleep(0.001)
                    inner.failed("inner")

        await asyncio.gather(*(call(number) for number in range(50)))
        assert breaker.snapshot().state == "closed"


async def test_a_block_that_is_left_in_another_task_breaks_nothing(server: ValkeyServer) -> None:
    async with open_breaker(server) as (breaker, _):
        stack = AsyncExitStack()
        await asyncio.create_task(stack.enter_async_context(breaker))
        await asyncio.create_task(stack.aclose())
        async with breaker as permit:
            assert permit.outer is None


async def test_a_cancelled_probe_makes_room_for_the_next(server: ValkeyServer) -> None:
    async with half_open(server, probe_lease=600) as (breaker, _):
        for _ in range(3):
            probe = asyncio.create_task(breaker(asyncio.sleep)(30))
            await until(lambda: breaker.snapshot().probes == 1, within=WITHIN, what="it runs")
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
            await until(lambda: breaker.snapshot().probes == 0, within=WITHIN, what="it has ended")
        (await breaker.acquire()).succeeded()
        await becomes(breaker, "closed")


async def test_who_is_cancelled_while_asking_keeps_nothing(server: ValkeyServer) -> None:
    async with half_open(server, probe_lease=600) as (breaker, _):
        with server.paused():
            asking = asyncio.create_task(breaker.acquire())
            await asyncio.sleep(0.02)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

        async def probes() -> bool:
            try:
                (await breaker.acquire()).succeeded()
            except BreakerOpen:
                return False
            return True

        await until(probes, within=WITHIN, what="another may probe")
        await becomes(breaker, "closed")


async def test_an_operator_holds_it_open_and_closed_and_lets_go(server: ValkeyServer) -> None:
    async with (
        open_breaker(server, failures=1) as (one, _),
        open_breaker(server, failures=1) as (other, changes),
    ):
        assert (await one.force_open()).state == "forced_open"
        with pytest.raises(BreakerOpen):
            await one.acquire()
        await becomes(other, "forced_open")
        with pytest.raises(BreakerOpen):
            await other.acquire()
        assert (await one.force_closed()).state == "forced_closed"
        await becomes(other, "forced_closed")
        await fail(other, 20)
        with server.client() as client:
            assert client.get("circuit_breaker:billing:state") == b"closed"
        assert (await one.reset()).state == "closed"
        await becomes(other, "closed")
        await fail(other)
        await becomes(one, "open")
        assert changes.modes == ["forced_open", "forced_closed", "closed", "open"]


async def test_held_open_for_a_while_it_is_probed_afterwards(server: ValkeyServer) -> None:
    async with open_breaker(server) as (breaker, _):
        await breaker.force_open(0.2)
        await becomes(breaker, "open")
        (await breaker.acquire()).succeeded()
        await becomes(breaker, "closed")


async def test_a_listener_that_raises_breaks_nothing(server: ValkeyServer) -> None:
    def broken(_: BreakerChanged) -> None:
        raise BrokenError

    async with open_store(server.url) as store:
        breaker = Breaker(store, "billing", BreakerConfig(failures=1), on_change=broken)
        async with breaker.running():
            await fail(breaker)
            await becomes(breaker, "open")


async def test_it_has_to_run_and_once_only(server: ValkeyServer) -> None:
    async with open_store(server.url) as store:
        breaker = Breaker(store, "billing")
        with pytest.raises(RuntimeError, match="not running"):
            await breaker.acquire()
        # An operator's word needs no running breaker, and does not make one.
        await breaker.force_closed()
        with pytest.raises(RuntimeError, match="not running"):
            await breaker.acquire()
        async with breaker.running():
            with pytest.raises(RuntimeError, match="running already"):
                async with breaker.running():
                    pass
        async with breaker.running():
            (await breaker.acquire()).succeeded()
        with pytest.raises(InvalidRequestError):
            Breaker(store, "")
