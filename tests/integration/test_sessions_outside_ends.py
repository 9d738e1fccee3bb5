"""The ends of outside issuers' sessions and tokens hold for as long as one of them is accepted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sark.sessions import AccessClaims, SessionRules, Sessions
from tests.support.servers import ValkeyServer
from tests.support.sessions import (
    FrozenClock,
    SignedTokens,
    code_of,
    frozen_clock,
    log_in,
    open_sessions,
    outside_token,
)

ADOPT = SessionRules(adopt=True, lifetime=1000, idle=300, leeway=30, cap=3, at_cap="refuse")
MOST_MEMORY = 1000 + 2 * 30 + 60


@asynccontextmanager
async def two_processes(
    server: ValkeyServer, rules: SessionRules = ADOPT
) -> AsyncIterator[tuple[Sessions, Sessions, FrozenClock]]:
    """Open sessions twice, neither of which knows what the other has seen."""
    with frozen_clock(server) as clock:
        tokens = SignedTokens(lambda: clock.now() - rules.leeway)
        async with (
            open_sessions(server.url, rules, tokens=tokens) as here,
            open_sessions(server.url, rules, tokens=tokens) as there,
        ):
            yield here, there, clock


async def test_a_token_that_was_revoked_before_it_was_seen_begins_nothing(
    server: ValkeyServer,
) -> None:
    async with two_processes(server) as (here, there, clock):
        token = outside_token(at=clock.now())
        await here.revoke_token(await here.checks.verify(token))
        assert await code_of(there.authenticate(token)) == "revoked"
        assert await there.count("alice") == 0
        await there.authenticate(outside_token(jti="t-2", at=clock.now()))
        assert await code_of(here.authenticate(token)) == "revoked"


@pytest.mark.parametrize("other", [{"issuer": "https://b"}, {"user_id": "mallory"}])
async def test_token_ids_of_one_issuer_mean_nothing_to_another(
    other: dict[str, Any], server: ValkeyServer
) -> None:
    async with two_processes(server) as (here, _, clock):
        grant = await log_in(here, "bob")
        ours = (await here.authenticate(grant.access_token)).jti
        mine = outside_token(jti=ours, at=clock.now())
        theirs = outside_token(**{"user_id": "alice", **other}, jti=ours, at=clock.now())
        for token in (mine, theirs, grant.access_token):
            await here.authenticate(token)
        await here.revoke_token(await here.checks.verify(theirs))
        assert await code_of(here.authenticate(theirs)) == "revoked"
        for token in (mine, grant.access_token):
            await here.authenticate(token)


async def test_what_is_known_of_a_token_outlives_it(server: ValkeyServer) -> None:
    async with two_processes(server) as (here, _, clock):
        seen, unseen = (outside_token(jti=jti, at=clock.now(), life=100) for jti in "ab")
        grant = await log_in(here)
        await here.authenticate(seen)
        await here.revoke_token(await here.checks.verify(unseen))
        ours = await here.checks.verify(grant.access_token)
        await here.revoke_token(ours)
        with server.client() as client:
            for token, life in ((seen, 100), (unseen, 100), (grant.access_token, 900)):
                claims = await here.checks.verify(token)
                left = client.ttl(f"session:token:{claims.token_id}")
                assert life + 30 < left <= life + 2 * 30 + 60


async def test_a_token_that_lives_longer_than_a_session_is_refused(server: ValkeyServer) -> None:
    async with two_processes(server) as (here, _, clock):
        await here.authenticate(outside_token(at=clock.now(), life=1000))
        long = outside_token("eve", at=clock.now(), life=1001)
        assert await code_of(here.authenticate(long)) == "lifetime"
        assert await here.count("eve") == 0


async def test_an_end_is_remembered_for_longer_than_any_token(server: ValkeyServer) -> None:
    async with two_processes(server) as (here, there, clock):
        await here.authenticate(outside_token(at=clock.now()))
        with server.client() as client:
            assert client.ttl("session:user:alice:idp-1") > 1000 + MOST_MEMORY - 5
        clock.advance(999)
        last = outside_token(jti="t-9", at=clock.now(), life=1000)
        await here.revoke("alice", "idp-1")
        clock.advance(1000)
        assert await code_of(there.authenticate(last)) == "ended"


async def test_a_token_from_before_the_latest_end_does_not_begin_the_session_anew(
    server: ValkeyServer,
) -> None:
    async with two_processes(server) as (here, there, clock):
        token = outside_token(at=clock.now(), life=1000)
        await here.authenticate(token)
        for _ in range(3):
            clock.advance(250)
            await here.authenticate(token)
        clock.advance(250)
        for place in (here, there):
            assert await code_of(place.authenticate(token)) == "ended"
        clock.advance(1)
        await there.authenticate(outside_token(jti="t-2", at=clock.now()))


async def test_after_the_idle_timeout_a_newer_login_begins_it_anew(server: ValkeyServer) -> None:
    async with two_processes(server) as (here, there, clock):
        first = outside_token(at=clock.now())
        await here.authenticate(first)
        clock.advance(299)
        late = outside_token(jti="t-2", at=clock.now())
        clock.advance(2)
        assert await code_of(there.authenticate(late)) == "ended"
        anew = outside_token(jti="t-3", at=clock.now())
        await there.authenticate(anew)
        (session,) = await there.list("alice")
        assert (session.created_at, session.expires_at) == (clock.now(), clock.now() + 1000)
        await here.authenticate(anew)


@pytest.mark.parametrize("swept", [True, False])
@pytest.mark.parametrize("how", ["session", "user", "cap"])
async def test_what_somebody_ended_is_not_begun_anew_by_newer_tokens(
    how: str, swept: bool, server: ValkeyServer
) -> None:
    rules = SessionRules(adopt=True, lifetime=1000, idle=300, cap=1)
    async with two_processes(server, rules) as (here, there, clock):
        await here.authenticate(outside_token(at=clock.now()))
        clock.advance(1)
        match how:
            case "session":
                await here.revoke("alice", "idp-1")
            case "user":
                await here.revoke_user("alice")
            case "cap":
                await log_in(here)
        if swept:
            await here.sweep()
        clock.advance(250)
        newer = outside_token(jti="t-2", at=clock.now())
        assert await code_of(there.authenticate(newer)) == "ended"
        clock.advance(100)
        # Its idle timeout has passed too. Without the mark nobody knows which end came first.
        newest = outside_token(jti="t-3", at=clock.now())
        marked = swept or how == "session"
        assert await code_of(there.authenticate(newest)) == ("ended" if marked else "ok")


async def test_a_provider_whose_clock_is_ahead_does_not_begin_an_ended_session_early(
    server: ValkeyServer,
) -> None:
    async with two_processes(server) as (here, there, clock):
        await here.authenticate(outside_token(at=clock.now()))
        clock.advance(290)
        await here.revoke_user("alice")  # and nobody has marked the session yet
        ahead = outside_token(jti="t-2", at=clock.now() + 20)
        assert await code_of(there.authenticate(ahead)) == "ended"


async def test_ending_all_sessions_refuses_tokens_that_were_not_seen_yet(
    server: ValkeyServer,
) -> None:
    async with two_processes(server) as (here, there, clock):
        unseen = outside_token(session_id="idp-2", jti="t-0", at=clock.now())
        kept = outside_token(session_id="idp-3", at=clock.now())
        joining = outside_token(session_id="idp-3", jti="t-2", at=clock.now())
        await here.authenticate(kept)
        clock.advance(0.5)
        await here.revoke_user("alice", except_session="idp-3")
        assert await code_of(there.authenticate(unseen)) == "ended"
        await there.authenticate(joining)
        with server.client() as client:
            assert MOST_MEMORY - 5 < client.ttl("session:not_before:alice") <= MOST_MEMORY
        clock.advance(1)
        await there.authenticate(outside_token(session_id="idp-4", jti="t-9", at=clock.now()))


async def test_a_session_of_a_single_token_ends_with_it(server: ValkeyServer) -> None:
    async with two_processes(server) as (here, there, clock):
        tokens = [
            outside_token(session_id=f"d-{n}", jti=f"t-{n}", at=clock.now(), life=100, single=True)
            for n in range(3)
        ]
        for token in tokens:
            await here.authenticate(token)
        assert await code_of(log_in(here)) == "cap"
        clock.advance(129)
        assert await code_of(there.authenticate(tokens[0])) == "ok"
        clock.advance(1)
        assert await here.count("alice") == 0
        await log_in(here)
        assert await code_of(there.authenticate(tokens[0])) == "expired"


async def test_a_session_is_shown_with_the_plan_of_its_token(server: ValkeyServer) -> None:
    async with two_processes(server) as (here, _, clock):
        now = int(clock.now())
        said = AccessClaims(
            "https://idp", "alice", "idp-1", "t-1", "app", now, now + 9, tier="gold", outside=True
        )
        await here.authenticate(SignedTokens().issue(said))
        (session,) = await here.list("alice")
        assert (session.tier, session.outside) == ("gold", True)
