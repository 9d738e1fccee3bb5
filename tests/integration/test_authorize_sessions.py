"""``authorize()`` with access tokens: who is admitted, what is recorded, what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from sark.batch import BatchQuestion, BatchRequest, authorize_many
from sark.errors import (
    BindingError,
    InvalidRequestError,
    LimitExceededError,
    QueueFullError,
    RefreshReuseError,
    SessionEndedError,
    SessionError,
    StoreError,
    TokenError,
    UserMismatchError,
)
from sark.events import Hub, SessionRefused
from sark.gateway import Gateway, Request
from sark.ops.logs import report_events
from sark.ratelimit import Limit
from sark.sessions import Grant, SessionRules, Sessions
from sark.siem import QueueBounds
from sark.store import Store
from tests.support.gateways import PATIENCE_SECONDS, Scripted, open_gateway, queued
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer
from tests.support.sessions import BROWSER, dump, log_in, open_sessions, sessions_on

LIMIT = Limit(100, window_seconds=600)


@asynccontextmanager
async def opened(
    url: str, rules: SessionRules | None = None, **options: Any
) -> AsyncIterator[tuple[Gateway, Sessions]]:
    """Open a gateway that takes access tokens."""

    def make(store: Store) -> Sessions:
        return sessions_on(store, rules)

    async with open_gateway(url, make_sessions=make, **options) as gateway:
        sessions = gateway.admission._sessions
        assert sessions is not None
        yield gateway, sessions


def ask(grant: Grant | str, **fields: Any) -> Request:
    token = grant if isinstance(grant, str) else grant.access_token
    return Request(
        **{"action": "server:read", "resource": "srv-1", "access_token": token, **fields}
    )


def batch(grant: Grant, **fields: Any) -> BatchRequest:
    questions = [BatchQuestion(action="server:read", resource=f"srv-{n}") for n in range(3)]
    return BatchRequest(questions=questions, access_token=grant.access_token, **fields)


def charged(server: ValkeyServer, user_id: str = "alice") -> int:
    with server.client() as client:
        return int(client.get(f"ratelimit:user:{user_id}:600") or 0)


async def test_the_user_is_taken_from_the_token(server: ValkeyServer) -> None:
    evaluator = Scripted()
    async with opened(server.url, evaluator=evaluator, limit=LIMIT) as (gateway, sessions):
        grant = await log_in(sessions)
        for request in (ask(grant), ask(grant, user_id="alice")):
            assert (await gateway.authorize(request)).allow
        answers = await authorize_many(gateway, batch(grant))
        assert len(answers) == 3
    assert all(b'"user_id":"alice"' in given for _, given in evaluator.asked)
    assert {event["user_id"] for event in queued(server)} == {"alice"}
    assert charged(server) == 5


async def test_another_users_token_is_refused_and_recorded(server: ValkeyServer) -> None:
    async with opened(server.url, limit=LIMIT) as (gateway, sessions):
        grant = await log_in(sessions)
        with pytest.raises(UserMismatchError) as caught:
            await gateway.authorize(ask(grant, user_id="bob"))
        with pytest.raises(UserMismatchError):
            await authorize_many(gateway, batch(grant, user_id="bob"))
    (event,) = queued(server)
    assert event["id"] == caught.value.decision_id
    assert (event["type"], event["reason"], event["user_id"]) == (
        "refusal",
        "session:user",
        "alice",
    )
    assert charged(server) == charged(server, "bob") == 0


async def test_a_revoked_session_is_refused_before_anything_else_happens(
    server: ValkeyServer,
) -> None:
    evaluator = Scripted()
    async with opened(server.url, evaluator=evaluator, limit=LIMIT) as (gateway, sessions):
        grant = await log_in(sessions)
        assert (await gateway.authorize(ask(grant))).allow
        await sessions.revoke("alice", grant.session_id)
        for number in range(20):
            with pytest.raises(SessionEndedError) as caught:
                await gateway.authorize(ask(grant, resource=f"other-{number}"))
            with pytest.raises(SessionEndedError):
                await authorize_many(gateway, batch(grant))
    assert len(evaluator.asked) == 1
    assert charged(server) == 1
    decided, refused = queued(server)
    assert decided["type"] == "decision"
    assert (refused["type"], refused["reason"]) == ("refusal", "session:ended")
    assert (refused["user_id"], refused["action"]) == ("alice", "server:read")
    assert refused["id"] == caught.value.decision_id


async def test_an_unverified_token_is_its_senders(server: ValkeyServer) -> None:
    refused: list[SessionRefused] = []
    hub = Hub()
    hub.on(SessionRefused, refused.append)
    async with opened(server.url, hub=hub) as (gateway, _):
        for ip in ("192.0.2.1", "192.0.2.1", "192.0.2.2", None):
            with pytest.raises(TokenError):
                await gateway.authorize(ask("no.such.token", user_id="alice", ip=ip))
    events = queued(server)
    assert [event.get("ip") for event in events] == ["192.0.2.1", "192.0.2.2", None]
    assert {(event["reason"], event["user_id"]) for event in events} == {("session:invalid", "")}
    assert len(refused) == 4


async def test_what_is_malformed_too_is_not_recorded(server: ValkeyServer) -> None:
    async with opened(server.url) as (gateway, _):
        for fields in ({"action": ""}, {"resource": "x" * 257}, {"user_id": ""}, {"ip": "x"}):
            with pytest.raises(InvalidRequestError):
                await gateway.authorize(ask("no.such.token", **fields))
    assert queued(server) == []


async def test_who_names_neither_user_nor_token_is_told(server: ValkeyServer) -> None:
    async with opened(server.url) as (gateway, _):
        with pytest.raises(InvalidRequestError) as caught:
            await gateway.authorize(Request(action="a", resource="b"))
        assert caught.value.field == "user_id"
        with pytest.raises(InvalidRequestError) as caught:
            await gateway.authorize(Request(action="a", resource="b", access_token=cast("Any", 7)))
        assert caught.value.field == "access_token"
    async with open_gateway(server.url) as without:
        with pytest.raises(InvalidRequestError) as caught:
            await without.authorize(ask("a.b.c"))
        assert caught.value.field == "access_token"


async def test_a_session_is_bound_to_the_requests_network_and_agent(server: ValkeyServer) -> None:
    async with opened(server.url, SessionRules(bind="both"), limit=LIMIT) as (gateway, sessions):
        grant = await log_in(sessions, ip="192.0.2.1", user_agent=BROWSER)
        await gateway.authorize(ask(grant, ip="192.0.2.9", user_agent=BROWSER))
        for fields in (
            {"ip": "198.51.100.1", "user_agent": BROWSER},
            {"ip": "192.0.2.1", "user_agent": "curl"},
            {"ip": "192.0.2.1"},
            {},
        ):
            with pytest.raises(BindingError) as caught:
                await gateway.authorize(ask(grant, **fields))
            assert caught.value.decision_id
            with pytest.raises(BindingError):
                await authorize_many(gateway, batch(grant, **fields))
    assert charged(server) == 1


async def test_a_limit_refuses_as_without_a_token(server: ValkeyServer) -> None:
    async with opened(server.url, limit=Limit(1)) as (gateway, sessions):
        grant = await log_in(sessions)
        await gateway.authorize(ask(grant))
        with pytest.raises(LimitExceededError):
            await gateway.authorize(ask(grant))


async def test_the_check_costs_no_round_trip(server: ValkeyServer) -> None:
    async with (
        open_sessions(server.url) as sessions,
        count_round_trips(server) as (url, counts),
        opened(url, limit=LIMIT) as (gateway, _),
    ):
        grant = await log_in(sessions)
        cases = (
            (ask(grant), Request(user_id="alice", action="server:read", resource="srv-1")),
            (batch(grant), batch(grant, user_id="alice")),
        )
        for with_token, without in cases:
            costs = []
            for request in (with_token, without):
                for _ in range(2):
                    counts.reset()
                    if isinstance(request, Request):
                        await gateway.authorize(request)
                    else:
                        await authorize_many(gateway, request)
                costs.append((counts.round_trips, counts.commands["evalsha"]))
            assert costs == [(2, 2), (2, 2)]


async def test_a_split_deployment_checks_the_session_on_the_state_server(
    server: ValkeyServer, private_server: Any
) -> None:
    cache: ValkeyServer = private_server()
    async with opened(server.url, cache_url=cache.url) as (gateway, sessions):
        grant = await log_in(sessions)
        assert [(await gateway.authorize(ask(grant))).cached for _ in range(2)] == [False, "valkey"]
        await sessions.revoke("alice", grant.session_id)
        with pytest.raises(SessionEndedError):
            await gateway.authorize(ask(grant))
        with pytest.raises(SessionEndedError):
            await authorize_many(gateway, batch(grant))


async def test_without_the_server_nobody_is_admitted(server: ValkeyServer) -> None:
    async with (
        open_sessions(server.url) as sessions,
        opened(server.url, budget=0.2) as (gateway, _),
    ):
        grant = await log_in(sessions)
        with server.paused():
            with pytest.raises(StoreError):
                await gateway.authorize(ask(grant))
            with pytest.raises(StoreError):
                await gateway.admission.authenticate(grant.access_token)


async def test_a_refusal_that_cannot_be_recorded_is_no_answer(server: ValkeyServer) -> None:
    async with opened(server.url, bounds=QueueBounds(events=1)) as (gateway, sessions):
        grant = await log_in(sessions)
        await gateway.authorize(ask(grant))
        await sessions.revoke("alice", grant.session_id)
        with pytest.raises(QueueFullError):
            await gateway.authorize(ask(grant))


async def test_a_revocation_revokes_the_users_decisions_too(server: ValkeyServer) -> None:
    async with opened(server.url) as (gateway, sessions):
        first, second = [await log_in(sessions) for _ in range(2)]
        assert not (await gateway.authorize(ask(first))).cached
        assert (await gateway.authorize(ask(second))).cached
        freshness = (await sessions.revoke("alice", first.session_id)).freshness
        answer = await gateway.authorize(ask(second, consistency="fresh", freshness=freshness))
        assert not answer.cached


async def test_reuse_of_a_refresh_token_is_recorded(server: ValkeyServer) -> None:
    async with opened(server.url, SessionRules(grace=0)) as (gateway, sessions):
        grant = await log_in(sessions)
        refresh = gateway.admission.refresh
        successor = await refresh(grant.refresh_token, ip="192.0.2.1")
        await gateway.admission.authenticate(successor.access_token)
        assert queued(server) == []
        with pytest.raises(RefreshReuseError) as caught:
            await refresh(grant.refresh_token, ip="192.0.2.1")
        with pytest.raises(SessionEndedError):
            await gateway.admission.authenticate(successor.access_token)
        with pytest.raises(TokenError):
            await refresh("forged")
    reused, ended, forged = queued(server)
    assert reused["id"] == caught.value.decision_id
    assert (reused["reason"], reused["user_id"]) == ("session:refresh_reused", "alice")
    assert (reused["action"], reused["ip"]) == ("session:refresh", "192.0.2.1")
    assert (ended["reason"], ended["action"]) == ("session:ended", "session:authenticate")
    assert (forged["reason"], forged["user_id"]) == ("session:invalid", "")


async def test_a_flood_of_refused_tokens_is_one_event(server: ValkeyServer) -> None:
    async with opened(server.url) as (gateway, sessions):
        grant = await log_in(sessions)
        await sessions.revoke("alice", grant.session_id)

        async def knock() -> str:
            with pytest.raises(SessionError) as caught:
                await gateway.authorize(ask(grant))
            return caught.value.decision_id

        ids = await asyncio.wait_for(
            asyncio.gather(*(knock() for _ in range(200))), PATIENCE_SECONDS
        )
    assert [event["id"] for event in queued(server)] == list(set(ids))


async def test_no_token_is_recorded_logged_or_stored(
    server: ValkeyServer,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub()
    report_events(hub)
    async with opened(server.url, SessionRules(grace=0), hub=hub) as (gateway, sessions):
        grant = await log_in(sessions)
        forged = grant.access_token[:-4] + "AAAA"
        await gateway.authorize(ask(grant, context={"a": 1}))
        await authorize_many(gateway, batch(grant))
        successor = await gateway.admission.refresh(grant.refresh_token)
        errors = []
        for call in (
            gateway.authorize(ask(forged)),
            gateway.authorize(ask(grant, user_id="bob")),
            gateway.admission.refresh(grant.refresh_token),
            gateway.admission.refresh(forged),
            gateway.authorize(ask(successor)),
            authorize_many(gateway, batch(successor)),
        ):
            with pytest.raises(SessionError) as caught:
                await call
            errors.append(f"{caught.value} {caught.value!r} {vars(caught.value)}")
    told = "\n".join([*capsys.readouterr(), caplog.text, *errors]).encode()
    stored = dump(server)
    assert b"refresh token reused" in told
    assert b"session:refresh_reused" in stored
    for token in (grant, successor):
        for secret in (token.access_token, token.refresh_token, forged):
            signature = secret.rpartition(".")[2].encode()
            assert signature not in stored
            assert signature not in told


def test_a_request_never_shows_its_token() -> None:
    from rich.pretty import pretty_repr

    request, many = ask("a.secret.token"), BatchRequest(questions=[], access_token="a.secret.token")
    for each in (request, many):
        assert "access_token='...'" in repr(each)
        assert "secret" not in repr(each) + str(each) + pretty_repr(each) + f"{each}"
    assert "access_token=None" in repr(Request(action="a", resource="b"))
