"""``authorize()`` while Valkey is away and there is a spill store: it answers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sark.batch import BatchQuestion, BatchRequest, authorize_many
from sark.errors import (
    EvaluationError,
    LimitExceededError,
    QueueFullError,
    SessionError,
    StoreError,
)
from sark.events import AuditSpilled, GuardChanged, Hub, LimitFallback, Looked, RoundTrip
from sark.gateway import Answer, Gateway, Request
from sark.policy import Decision
from sark.ratelimit import Limit
from sark.siem.spill import Spill
from sark.store.guard import FAILURES_TO_OPEN
from tests.support.gateways import Scripted, ask, assert_account_is_exact, open_gateway, queued
from tests.support.polling import until
from tests.support.proxy import FaultProxy
from tests.support.servers import ValkeyServer
from tests.support.sessions import sessions_on
from tests.support.spills import MAIN, assert_account_closes, open_spill, stored

BUDGET = 0.25
# What a busy machine may add to a budget.
MARGIN = 1.0
AT_ONCE = 0.2
HEALS = 10.0

Servers = Callable[..., ValkeyServer]
FAULTS = ("killed", "hanging", "cut off")


class Outage:
    """A gateway with a spill store, whose server can be broken and mended."""

    def __init__(self, server: ValkeyServer, proxy: FaultProxy, gateway: Gateway) -> None:
        self.server = server
        self.proxy = proxy
        self.gateway = gateway

    async def begin(self, fault: str) -> None:
        """Break it, and wait until the gateway has found out."""
        if fault == "killed":
            self.server.kill()
        elif fault == "hanging":
            self.server.pause()
        else:
            self.proxy.blackhole()
        for _ in range(FAILURES_TO_OPEN):
            await self.gateway.authorize(ask("first"))

    async def end(self) -> None:
        """Mend it, and wait until all that was spilled is queued."""
        if not self.server.running:
            self.server.start()
        self.server.resume()
        await self.proxy.forward()
        spill = self.gateway.queue.spill
        assert isinstance(spill, Spill)
        await until(lambda: not spill.waits(MAIN), within=HEALS, what="what was spilled is queued")


@asynccontextmanager
async def outage(
    start: Servers, folder: Path, evaluator: Scripted | None = None, **options: Any
) -> AsyncIterator[Outage]:
    """Open a gateway that has answered a first request."""
    own = start({"appendonly": "yes", "appendfsync": "always"})
    spilling = {name: options.pop(name) for name in ("max_bytes",) if name in options}
    async with (
        FaultProxy(own.host, own.port) as proxy,
        open_spill(folder, **spilling) as spill,
        open_gateway(
            proxy.url(own.password),
            evaluator,
            **{"budget": BUDGET, "limit": Limit(1000), **options, "spill": spill},
        ) as gateway,
    ):
        await gateway.authorize(ask())
        yield Outage(own, proxy, gateway)


@pytest.mark.parametrize("fault", FAULTS)
async def test_requests_are_decided_at_the_source_and_recorded(
    private_server: Servers, tmp_path: Path, fault: str
) -> None:
    evaluator = Scripted()
    hub, looked, spilled = Hub(), list[str](), list[AuditSpilled]()
    hub.on(Looked, lambda event: looked.append(event.result))
    hub.on(AuditSpilled, spilled.append)
    async with outage(private_server, tmp_path, evaluator, hub=hub) as case:
        gateway = case.gateway
        assert (await gateway.authorize(ask())).cached == "valkey"
        await case.begin(fault)
        before = len(evaluator.asked)
        looked.clear()
        answers = [await gateway.authorize(ask()) for _ in range(3)]
        # Nothing is kept: who was revoked elsewhere meanwhile is denied by the source at once.
        assert len(evaluator.asked) == before + 3
        assert looked == ["unavailable"] * 3
        for answer in answers:
            assert (answer.allow, answer.reason, answer.cached, answer.ttl) == (
                True,
                "scripted",
                False,
                0,
            )
            assert answer.limits
        waiting = [msgspec.json.decode(event)["id"] for _, event in stored(tmp_path)]
        assert [answer.decision_id for answer in answers] == waiting[-3:]
        assert {event.sink for event in spilled} == {MAIN}
        await case.end()
        after = await gateway.authorize(ask())
        events = queued(case.server)
        ids = [event["id"] for event in events]
        assert [each.decision_id for each in (*answers, after)] == ids[-4:]
        # A timed-out append may have been carried out after all: a copy at worst, never a loss.
        assert len(ids) - len(set(ids)) <= FAILURES_TO_OPEN
        assert all("cached" not in event for event in events if event["id"] in waiting)
    assert_account_closes(tmp_path)


async def test_it_costs_the_budget_at_first_and_then_nothing(
    private_server: Servers, tmp_path: Path
) -> None:
    hub, changes = Hub(), list[GuardChanged]()
    hub.on(GuardChanged, changes.append)
    async with outage(private_server, tmp_path, hub=hub) as case:
        loop = asyncio.get_running_loop()
        with case.server.paused():
            for _ in range(FAILURES_TO_OPEN):
                began = loop.time()
                await case.gateway.authorize(ask())
                assert loop.time() - began < BUDGET + MARGIN
            trips = list[RoundTrip]()
            hub.on(RoundTrip, trips.append)
            began = loop.time()
            await asyncio.gather(*(case.gateway.authorize(ask(f"u-{n}")) for n in range(100)))
            assert loop.time() - began < BUDGET + MARGIN
            began = loop.time()
            await case.gateway.authorize(ask())
            assert loop.time() - began < AT_ONCE
        assert [change.is_open for change in changes][:1] == [True]
        await case.end()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_batch_is_answered_as_well(
    private_server: Servers, tmp_path: Path, fault: str
) -> None:
    evaluator = Scripted()
    async with outage(private_server, tmp_path, evaluator) as case:
        await case.begin(fault)
        asked = len(evaluator.asked)
        questions = [BatchQuestion(action="a", resource=resource) for resource in "xyzxy"]
        batch = BatchRequest(user_id="ann", questions=questions)
        answers = await authorize_many(case.gateway, batch)
        assert [(answer.allow, answer.cached, answer.ttl) for answer in answers] == [
            (True, False, 0)
        ] * 5
        # A question that is asked twice in one batch is evaluated once.
        assert len(evaluator.asked) == asked + 3
        remaining = {state.remaining for answer in answers for state in answer.limits}
        assert remaining == {1000 - 5}
        await case.end()
        recorded = [event["id"] for event in queued(case.server)]
        assert [answer.decision_id for answer in answers] == recorded[-5:]


@pytest.mark.parametrize("fault", FAULTS)
async def test_sessions_fail_closed(private_server: Servers, tmp_path: Path, fault: str) -> None:
    evaluator = Scripted()
    async with outage(private_server, tmp_path, evaluator, make_sessions=sessions_on) as case:
        gateway = case.gateway
        token = (await gateway.admission.create("alice")).access_token
        request = Request(action="a", resource="r", access_token=token)
        assert (await gateway.authorize(request)).allow
        await case.begin(fault)
        asked = len(evaluator.asked)
        batch = BatchRequest(
            questions=[BatchQuestion(action="a", resource="r")], access_token=token
        )
        with pytest.raises(StoreError):
            await gateway.authorize(request)
        with pytest.raises(StoreError):
            await authorize_many(gateway, batch)
        with pytest.raises(StoreError):
            await gateway.admission.create("bob")
        assert len(evaluator.asked) == asked
        # A token that is none is refused all the same, and that is recorded.
        with pytest.raises(SessionError) as refused:
            await gateway.authorize(
                Request(action="a", resource="r", access_token="a.b.c", ip="192.0.2.1")
            )
        assert refused.value.decision_id
        await case.end()
        assert (await gateway.authorize(request)).allow
        assert refused.value.decision_id in {event["id"] for event in queued(case.server)}


async def test_limits_are_counted_in_the_process(private_server: Servers, tmp_path: Path) -> None:
    async with outage(private_server, tmp_path, limit=Limit(3)) as case:
        case.server.kill()
        given, refused = list[Answer](), list[LimitExceededError]()
        for _ in range(6):
            try:
                given.append(await case.gateway.authorize(ask("bob")))
            except LimitExceededError as error:
                refused.append(error)
        assert [answer.limits[0].remaining for answer in given] == [2, 1, 0]
        # Refusals are recorded as ever: one event, and the repeats are counted.
        assert len({error.decision_id for error in refused}) == 1
        await case.gateway.refusals.close()
        await case.end()
        # Who asked before the server was known to be down may have spilled a copy.
        found = {event["id"]: event for event in queued(case.server) if event["user_id"] == "bob"}
        events = [*found.values()]
        assert [event["type"] for event in events] == [*["decision"] * 3, "refusal", "refusals"]
        assert events[3]["id"] == refused[0].decision_id
        assert events[4]["count"] == 2


@pytest.mark.parametrize("fallback", ["open", "closed"])
async def test_limits_may_be_open_or_closed_instead(
    private_server: Servers, tmp_path: Path, fallback: str
) -> None:
    hub, modes = Hub(), list[str]()
    hub.on(LimitFallback, lambda event: modes.append(event.mode))
    async with outage(private_server, tmp_path, limit=Limit(2), fallback=fallback, hub=hub) as case:
        case.server.kill()
        for _ in range(5):
            if fallback == "open":
                assert (await case.gateway.authorize(ask("bob"))).limits == ()
            else:
                with pytest.raises(StoreError):
                    await case.gateway.authorize(ask("bob"))
        assert set(modes) == {fallback}


async def test_an_evaluation_that_fails_is_a_denial_with_its_reason(
    private_server: Servers, tmp_path: Path
) -> None:
    async def fail(_policy: str, _input: bytes) -> Decision:
        raise EvaluationError("the engine is away too")

    evaluator = Scripted()
    async with outage(private_server, tmp_path, evaluator) as case:
        await case.begin("killed")
        evaluator.decide = fail
        answer = await case.gateway.authorize(ask())
        assert (answer.allow, answer.reason) == (False, "evaluation_failed")
        (_, event) = stored(tmp_path)[-1]
        assert msgspec.json.decode(event)["reason"] == "evaluation_failed"


async def test_nothing_is_answered_when_the_spill_store_is_full(
    private_server: Servers, tmp_path: Path
) -> None:
    async with outage(private_server, tmp_path, max_bytes=2000) as case:
        case.server.kill()
        given = list[Answer]()

        async def ask_for_ever() -> None:
            while True:
                given.append(await case.gateway.authorize(ask()))

        with pytest.raises(QueueFullError) as refused:
            await ask_for_ever()
        assert refused.value.retry_after >= 1
        waiting = {msgspec.json.decode(event)["id"] for _, event in stored(tmp_path)}
        assert {answer.decision_id for answer in given} == waiting
        assert len(given) > 2
        await case.end()
        ids = {event["id"] for event in queued(case.server)}
        assert {answer.decision_id for answer in given} <= ids
        assert_account_is_exact(case.server)


async def test_answers_and_events_agree_whatever_happens(
    private_server: Servers, tmp_path: Path
) -> None:
    """Callers who never pause, and a server that is killed, paused and cut off in between."""
    given = list[Answer]()
    async with outage(
        private_server, tmp_path, max_bytes=2**26, limit=Limit(10**6), bounds=None
    ) as case:
        over = False

        async def keep_asking(number: int) -> None:
            turn = 0
            while not over:
                turn += 1
                given.append(await case.gateway.authorize(ask(f"u-{number}", resource=f"r-{turn}")))

        callers = [asyncio.create_task(keep_asking(number)) for number in range(20)]
        for fault in ("killed", "hanging", "cut off", "killed"):
            await case.begin(fault)
            goal = len(given) + 300
            await until(lambda goal=goal: len(given) >= goal, within=20, what="answers are given")
            await case.end()
        over = True
        await asyncio.gather(*callers)
        spill = case.gateway.queue.spill
        assert isinstance(spill, Spill)
        await until(lambda: not spill.waits(MAIN), within=HEALS, what="all is queued")
        ids = [event["id"] for event in queued(case.server)]
        assert {answer.decision_id for answer in given} <= set(ids)
    account = assert_account_closes(tmp_path)[MAIN]
    assert account.waiting == 0
