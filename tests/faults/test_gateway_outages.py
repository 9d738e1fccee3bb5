"""``authorize()`` when a server hangs, dies or is split from its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sark.batch import BatchQuestion, BatchRequest, authorize_many
from sark.errors import (
    AuditError,
    LimitExceededError,
    SarkError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.events import GuardChanged, Hub, Looked
from sark.gateway import Answer, Gateway, Request
from sark.policy import Decision
from sark.ratelimit import Limit
from sark.sessions import SessionRules, Sessions
from sark.store import Store
from sark.store.guard import FAILURES_TO_OPEN
from tests.support.gateways import (
    Scripted,
    ask,
    assert_account_is_exact,
    open_gateway,
    queued,
)
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer
from tests.support.sessions import outside_token, sessions_on

BUDGET = 0.25
# What a busy machine may add to a budget.
MARGIN = 1.0
AT_ONCE = 0.2

Servers = Callable[..., ValkeyServer]


async def outcome(gateway: Gateway, **fields: Any) -> tuple[Answer | SarkError, float]:
    """Ask, and tell what came of it and how many seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        came: Answer | SarkError = await gateway.authorize(ask(**fields))
    except SarkError as error:
        came = error
    return came, loop.time() - began


async def answers(gateway: Gateway, *, cached: bool = False) -> None:
    """Wait until it answers: warm at the beginning, healed at the end."""

    async def answered() -> bool:
        came, _ = await outcome(gateway)
        return isinstance(came, Answer) and bool(came.cached) >= cached

    await until(answered, within=10, what="the gateway answers")


async def test_a_server_that_hangs_costs_the_budget_and_soon_nothing(
    private_server: Servers,
) -> None:
    own = private_server()
    hub, changes = Hub(), list[GuardChanged]()
    hub.on(GuardChanged, changes.append)
    async with open_gateway(own.url, budget=BUDGET, limit=Limit(1000), hub=hub) as gateway:
        await answers(gateway, cached=True)
        changes.clear()
        with own.paused():
            for _ in range(FAILURES_TO_OPEN):
                came, seconds = await outcome(gateway)
                # Once no connection is left to wait on, a new one is waited for.
                assert isinstance(came, StoreUnavailableError | StoreTimeoutError)
                assert BUDGET - 0.01 <= seconds < BUDGET + MARGIN
            outcomes = await asyncio.gather(*(outcome(gateway) for _ in range(100)))
            assert all(isinstance(came, StoreUnavailableError) for came, _ in outcomes)
            assert max(seconds for _, seconds in outcomes) < AT_ONCE
            assert [change.is_open for change in changes] == [True]
        await answers(gateway)
        assert [change.is_open for change in changes] == [True, False]


async def test_a_crowd_that_meets_a_hanging_server_waits_no_longer_than_one(
    private_server: Servers,
) -> None:
    own = private_server()
    async with open_gateway(own.url, budget=BUDGET, valkey_pool_size=4) as gateway:
        await answers(gateway)
        with own.paused():
            outcomes = await asyncio.gather(*(outcome(gateway) for _ in range(60)))
            assert all(isinstance(came, StoreError) for came, _ in outcomes)
            assert max(seconds for _, seconds in outcomes) < BUDGET + MARGIN
        await answers(gateway)
        assert gateway.store.state.pool_stats().in_use == 0


async def test_a_dead_server_means_no_answer_until_it_is_back(private_server: Servers) -> None:
    own = private_server()
    async with open_gateway(own.url, budget=BUDGET) as gateway:
        await answers(gateway, cached=True)
        own.kill()
        for _ in range(FAILURES_TO_OPEN + 1):
            came, seconds = await outcome(gateway)
            assert isinstance(came, StoreError)
            assert seconds < BUDGET + MARGIN
        came, seconds = await outcome(gateway)
        assert isinstance(came, StoreUnavailableError)
        assert seconds < AT_ONCE
        own.start()
        await answers(gateway)
        assert_account_is_exact(own)


async def test_a_restart_between_two_requests_costs_a_miss_and_no_error(
    private_server: Servers,
) -> None:
    own = private_server({"appendonly": "yes", "appendfsync": "always"})
    evaluator = Scripted()
    async with open_gateway(own.url, evaluator, budget=5) as gateway:
        await gateway.authorize(ask())
        assert (await gateway.authorize(ask())).cached
        before = {event["id"] for event in queued(own)}
        await asyncio.to_thread(own.restart)
        assert not (await gateway.authorize(ask())).cached
        assert (await gateway.authorize(ask())).cached
        assert before < {event["id"] for event in queued(own)}
        assert len(evaluator.asked) == 2
        assert_account_is_exact(own)


FAULTS: dict[str, Callable[[FaultProxy, ValkeyServer], None]] = {
    "hangs": lambda _proxy, server: server.pause(),
    "dies": lambda _proxy, server: server.kill(),
    "is cut off": lambda proxy, _server: proxy.blackhole(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cached", [True, False], ids=["hit", "miss"])
async def test_nothing_is_answered_without_its_event(
    private_server: Servers, fault: str, *, cached: bool
) -> None:
    own = private_server()
    armed = False
    hub = Hub()

    def strike(_looked: Looked) -> None:
        # Round trip 1 has come back, round trip 2 has not begun.
        if armed:
            FAULTS[fault](proxy, own)

    hub.on(Looked, strike)
    async with (
        FaultProxy(own.host, own.port) as proxy,
        open_gateway(proxy.url(own.password), budget=BUDGET, hub=hub) as gateway,
    ):
        await answers(gateway, cached=True)
        armed = True
        came, seconds = await outcome(gateway, action="server:read" if cached else "server:list")
        armed = False
        assert isinstance(came, AuditError)
        assert came.retry_after >= 1
        assert seconds < BUDGET + MARGIN
        if not own.running:
            own.start()
        own.resume()
        await proxy.forward()
        await answers(gateway)
    assert_account_is_exact(own)


async def test_a_refusal_that_cannot_be_recorded_is_an_audit_error(
    private_server: Servers,
) -> None:
    own = private_server()
    async with (
        FaultProxy(own.host, own.port) as proxy,
        open_gateway(proxy.url(own.password), limit=Limit(1), budget=1.0) as gateway,
    ):
        await gateway.authorize(ask("bob"))
        await gateway.authorize(ask())
        read = gateway.limiter.read

        def read_and_cut(*arguments: Any) -> Any:
            proxy.blackhole()
            return read(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gateway.limiter, "read", read_and_cut)
            came, seconds = await outcome(gateway)
        assert isinstance(came, AuditError)
        assert seconds < 1.0 + MARGIN
        await proxy.forward()

        async def refused() -> bool:
            return isinstance((await outcome(gateway))[0], LimitExceededError)

        await until(refused, within=10, what="the refusal is recorded")


async def test_connections_that_break_under_load_lose_no_recorded_answer(
    server: ValkeyServer,
) -> None:
    given: list[Answer] = []
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_gateway(proxy.url(server.password), budget=5) as gateway,
    ):
        over = False

        async def keep_asking(number: int) -> None:
            turn = 0
            while not over:
                turn += 1
                came, _ = await outcome(gateway, user_id=f"u-{number}", resource=f"r-{turn % 7}")
                if isinstance(came, Answer):
                    given.append(came)
                else:
                    await asyncio.sleep(0)  # what is refused at once lets nobody else run

        callers = [asyncio.create_task(keep_asking(number)) for number in range(20)]
        for number in range(1, 11):
            goal = number * 40
            await until(
                lambda goal=goal: len(given) >= goal, within=10, what=f"{goal} answers came"
            )
            await proxy.drop()
        over = True
        await asyncio.gather(*callers)
    recorded = {event["id"] for event in queued(server)}
    assert {answer.decision_id for answer in given} <= recorded
    assert_account_is_exact(server)


async def test_a_request_is_charged_at_most_once(private_server: Servers) -> None:
    own = private_server()
    async with (
        FaultProxy(own.host, own.port) as proxy,
        open_gateway(proxy.url(own.password), limit=Limit(1000), budget=BUDGET) as gateway,
    ):
        attempts = answered = 0

        async def attempt() -> bool:
            nonlocal attempts, answered
            attempts += 1
            given = isinstance((await outcome(gateway))[0], Answer)
            answered += given
            return given

        for _ in range(5):
            await until(attempt, within=10, what="the gateway answers")
            call = asyncio.create_task(attempt())
            await asyncio.sleep(0)  # lets it send
            await proxy.drop()
            await call
        with own.client() as client:
            reply: Any = client.get("ratelimit:user:alice:60")
        assert answered <= int(reply) <= attempts


async def test_without_its_cache_server_the_gateway_evaluates(
    server: ValkeyServer, private_server: Servers
) -> None:
    own = private_server()
    evaluator = Scripted()
    async with open_gateway(server.url, evaluator, cache_url=own.url, budget=2 * BUDGET) as gateway:
        await answers(gateway, cached=True)
        evaluator.asked.clear()
        own.kill()
        for turn in range(FAILURES_TO_OPEN + 2):
            came, seconds = await outcome(gateway)
            assert isinstance(came, Answer)
            assert (came.allow, came.cached, came.ttl) == (True, False, 0)
            assert seconds < 2 * BUDGET + MARGIN
            assert len(evaluator.asked) == turn + 1
        _, seconds = await outcome(gateway)
        assert seconds < AT_ONCE
        own.start()

        async def cached() -> bool:
            return bool((await gateway.authorize(ask())).cached)

        await until(cached, within=10, what="decisions are cached again")


async def test_a_cache_server_that_hangs_costs_time_and_no_answer(
    server: ValkeyServer, private_server: Servers
) -> None:
    own = private_server()
    async with open_gateway(server.url, cache_url=own.url, budget=2 * BUDGET) as gateway:
        await answers(gateway)
        before = len(queued(server))
        with own.paused():
            for _ in range(FAILURES_TO_OPEN):
                came, seconds = await outcome(gateway)
                assert isinstance(came, Answer)
                assert seconds < 2 * BUDGET + MARGIN
            came, seconds = await outcome(gateway)
            assert isinstance(came, Answer)
            assert seconds < AT_ONCE
    assert len(queued(server)) == before + FAILURES_TO_OPEN + 1


async def test_without_its_state_server_the_gateway_answers_nothing(
    server: ValkeyServer, private_server: Servers
) -> None:
    own = private_server()
    evaluator = Scripted()
    async with open_gateway(
        own.url, evaluator, cache_url=server.url, limit=Limit(1000), budget=BUDGET
    ) as gateway:
        await answers(gateway, cached=True)
        evaluator.asked.clear()
        own.kill()
        for _ in range(FAILURES_TO_OPEN + 2):
            came, seconds = await outcome(gateway)
            assert isinstance(came, StoreError)
            assert seconds < BUDGET + MARGIN
        assert evaluator.asked == []
        own.start()
        await answers(gateway)
        # The new server never knew the tokens, so what the cache still holds is worth nothing.
        assert evaluator.asked


async def test_an_evaluation_during_a_restart_is_never_served(private_server: Servers) -> None:
    own = private_server({"appendonly": "yes", "appendfsync": "always"})
    turns = 0

    async def restart_once(_policy: str, _input: bytes) -> Decision:
        nonlocal turns
        turns += 1
        number = turns
        if number == 1:
            await asyncio.to_thread(own.restart)
        return Decision(allow=True, reason=str(number))

    async with open_gateway(own.url, Scripted(restart_once), budget=5) as gateway:
        first = await gateway.authorize(ask())
        assert (first.reason, first.ttl) == ("1", 3600)
        answers = [await gateway.authorize(ask()) for _ in range(2)]
        assert [(each.reason, each.cached) for each in answers] == [("2", False), ("2", "valkey")]


async def test_all_round_trips_of_a_token_share_one_budget(server: ValkeyServer) -> None:
    """Of an outside issuer's first token: its session begins, is checked, is refused, recorded."""

    def make(store: Store) -> Sessions:
        return sessions_on(store, SessionRules(adopt=True))

    budget = 0.5
    async with (
        FaultProxy(server.host, server.port) as proxy,
        open_gateway(proxy.url(server.password), budget=budget, make_sessions=make) as gateway,
    ):
        await gateway.authorize(ask())
        own = (await gateway.admission.create("alice")).access_token
        batch = BatchRequest(
            questions=[BatchQuestion(action="a", resource="r")],
            access_token=outside_token(session_id="idp-2", jti="t-2"),
        )
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: gateway.authorize(
                Request(action="a", resource="r", access_token=outside_token())
            ),
            lambda: authorize_many(gateway, batch),
            lambda: gateway.admission.session(own),
        ]
        # Each round trip alone would be in time, and two of them are not.
        proxy.delay(0.3 * budget)
        loop = asyncio.get_running_loop()
        for call in calls:
            began = loop.time()
            with pytest.raises((StoreError, AuditError)):
                await call()
            assert loop.time() - began < 1.4 * budget
