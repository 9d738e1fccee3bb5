"""Tokens of outside issuers: their sessions begin when they are first seen, and end for good."""

from __future__ import annotations

import asyncio
import time

import pytest

from sark.errors import BindingError, SessionEndedError, TokenError
from sark.gateway import Request
from sark.sessions import SessionRules
from tests.support.gateways import open_gateway, queued
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer
from tests.support.sessions import code_of, log_in, open_sessions, outside_token, sessions_on

ADOPT = SessionRules(adopt=True, cap=3)


def ask(token: str) -> Request:
    return Request(action="server:read", resource="srv-1", access_token=token)


async def test_without_the_setting_they_have_no_session(server: ValkeyServer) -> None:
    async with open_sessions(server.url) as sessions:
        assert await code_of(sessions.authenticate(outside_token())) == "no_session"
        assert await sessions.count("alice") == 0


async def test_the_first_token_begins_the_session_and_others_join(server: ValkeyServer) -> None:
    async with open_sessions(server.url, ADOPT) as sessions:
        first, second = outside_token(jti="t-1"), outside_token(jti="t-2")
        for token in (first, second, first):
            assert (await sessions.authenticate(token, ip="192.0.2.7")).session_id == "idp-1"
        (session,) = await sessions.list("alice")
        assert (session.outside, session.client_id, session.ip) == (True, "app", "192.0.2.7")


@pytest.mark.parametrize("how", ["session", "user", "cap"])
async def test_what_has_ended_never_begins_again(how: str, server: ValkeyServer) -> None:
    async with (
        open_sessions(server.url, ADOPT) as sessions,
        open_sessions(server.url, ADOPT) as elsewhere,
    ):
        await sessions.authenticate(outside_token())
        match how:
            case "session":
                await sessions.revoke("alice", "idp-1")
            case "user":
                await sessions.revoke_user("alice")
            case "cap":
                await asyncio.sleep(0.002)  # later than it, by the millisecond that counts
                for _ in range(3):
                    await log_in(sessions)
        await sessions.sweep()
        for place in (sessions, elsewhere):
            for jti in ("t-1", "t-2", "t-3"):
                with pytest.raises(SessionEndedError):
                    await place.authenticate(outside_token(jti=jti))
        newer = outside_token(session_id="idp-2", jti="t-4", at=time.time() + 1)
        await elsewhere.authenticate(newer)


async def test_a_revoked_token_stays_refused_while_its_session_goes_on(
    server: ValkeyServer,
) -> None:
    async with (
        open_sessions(server.url, ADOPT) as sessions,
        open_sessions(server.url, ADOPT) as elsewhere,
    ):
        claims = await sessions.authenticate(outside_token())
        await sessions.revoke_token(claims)
        for place in (sessions, elsewhere):
            with pytest.raises(TokenError):
                await place.authenticate(outside_token())
        await elsewhere.authenticate(outside_token(jti="t-2"))


async def test_they_are_bound_like_others(server: ValkeyServer) -> None:
    rules = SessionRules(adopt=True, bind="network")
    async with open_sessions(server.url, rules) as sessions:
        with pytest.raises(BindingError):
            await sessions.authenticate(outside_token())
        await sessions.authenticate(outside_token(), ip="192.0.2.7")
        with pytest.raises(BindingError):
            await sessions.authenticate(outside_token(), ip="198.51.100.7")


async def test_authorize_takes_them_and_asks_once(server: ValkeyServer) -> None:
    async with (
        count_round_trips(server) as (url, counts),
        open_gateway(url, make_sessions=lambda store: sessions_on(store, ADOPT)) as gateway,
    ):
        # Seen first: one more round trip, beside the one that stores the decision.
        for user, expected in (("warm-up", None), ("alice", 4), ("alice", 2)):
            counts.reset()
            assert (await gateway.authorize(ask(outside_token(user)))).allow
            assert expected is None or counts.round_trips <= expected  # calls may share a write
        async with open_sessions(server.url, ADOPT) as sessions:
            await sessions.revoke("alice", "idp-1")
        with pytest.raises(SessionEndedError):
            await gateway.authorize(ask(outside_token("alice")))
        with pytest.raises(SessionEndedError):
            await gateway.authorize(ask(outside_token("alice", jti="t-2")))
    assert [event["type"] for event in queued(server)] == ["decision"] * 3 + ["refusal"]
