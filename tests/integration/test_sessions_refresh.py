"""What a refresh token gives when it comes late, again, or from nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sark.events import Hub, RefreshRepeated, TokenRefreshed
from sark.sessions import Grant, RefreshTokens, SessionRules, Sessions
from sark.sessions.refresh_token import RefreshClaims
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.sessions import (
    KEY,
    FrozenClock,
    SignedTokens,
    code_of,
    frozen_clock,
    log_in,
    open_sessions,
    outside_token,
    tokens_of,
)

OTHER_KEY = b"another key of the tests, 32 byte"
RULES = SessionRules(access=900, grace=10)


@asynccontextmanager
async def timed(
    server: ValkeyServer, rules: SessionRules = RULES, hub: Hub | None = None
) -> AsyncIterator[tuple[Sessions, FrozenClock]]:
    with frozen_clock(server) as clock:
        tokens = SignedTokens(clock.now)
        async with open_sessions(server.url, rules, tokens=tokens, hub=hub) as sessions:
            yield sessions, clock


async def trade(sessions: Sessions, grant: Grant, times: int) -> list[Grant]:
    """Refresh again and again; returns all grants, the first too."""
    grants = [grant]
    for _ in range(times):
        grants.append(await sessions.refresh(grants[-1].refresh_token))
    return grants


async def jtis(sessions: Sessions, grants: list[Grant]) -> list[str]:
    return [(await sessions.checks.verify(each.access_token)).jti for each in grants]


def forged(grant: Grant, counter: int) -> str:
    """Make a token of a session as whoever has the key can."""
    return RefreshTokens(KEY).issue(RefreshClaims(grant.user_id, grant.session_id, counter))


async def test_each_token_whose_own_trade_is_within_the_grace_gives_the_current_one(
    server: ValkeyServer,
) -> None:
    async with timed(server) as (sessions, clock):
        grants = await trade(sessions, await log_in(sessions), 2)
        clock.advance(6)
        grants = [*grants, *(await trade(sessions, grants[-1], 2))[1:]]
        for old in grants[:-1]:
            assert tokens_of(await sessions.refresh(old.refresh_token)) == tokens_of(grants[-1])
        clock.advance(4)
        for old in grants[2:-1]:
            await sessions.refresh(old.refresh_token)
        # The second was traded ten seconds ago.
        assert await code_of(sessions.refresh(grants[1].refresh_token)) == "refresh_reused"
        assert await sessions.count("alice") == 0


async def test_no_more_than_four_old_tokens_give_the_current_one(server: ValkeyServer) -> None:
    async with timed(server) as (sessions, _):
        grants = await trade(sessions, await log_in(sessions), 5)
        await sessions.refresh(grants[1].refresh_token)
        assert await code_of(sessions.refresh(grants[0].refresh_token)) == "refresh_reused"


async def test_the_login_is_no_trade(server: ValkeyServer) -> None:
    """What was never traded is not in its grace: one trade in a new session notes one time."""
    async with timed(server) as (sessions, _):
        (_, second) = await trade(sessions, await log_in(sessions), 1)
        with server.client() as client:
            session = f"session:user:alice:{second.session_id}"
            assert client.hget(session, "rotated_before") is None
            await sessions.refresh(second.refresh_token)
            assert client.hget(session, "rotated_before").count(b" ") == 0
            assert client.object("encoding", session) == b"listpack"


async def test_an_answer_given_again_says_how_long_its_token_is_still_good(
    server: ValkeyServer,
) -> None:
    async with timed(server, SessionRules(access=20, grace=15)) as (sessions, clock):
        first = await log_in(sessions)
        clock.advance(1)
        assert (await sessions.refresh(first.refresh_token)).expires_in == 20
        clock.advance(13)
        assert (await sessions.refresh(first.refresh_token)).expires_in == 7


async def test_however_often_a_session_is_refreshed_few_access_tokens_are_good(
    server: ValkeyServer,
) -> None:
    async with open_sessions(server.url, RULES) as sessions:
        grants = await trade(sessions, await log_in(sessions), 30)
        codes = [await code_of(sessions.authenticate(each.access_token)) for each in grants]
        assert codes == ["revoked"] * 26 + ["ok"] * 5
        with server.client() as client:
            left = [client.ttl(f"session:token:{jti}") for jti in await jtis(sessions, grants[-5:])]
        assert max(left[:3]) <= 10
        assert min(left[3:]) > 890


async def test_a_token_on_the_way_stays_good_when_it_is_traded_once(server: ValkeyServer) -> None:
    async with open_sessions(server.url, SessionRules(grace=0)) as sessions:
        first, second, third = await trade(sessions, await log_in(sessions), 2)
        assert await code_of(sessions.authenticate(first.access_token)) == "revoked"
        for grant in (second, third):
            await sessions.authenticate(grant.access_token)


async def test_an_access_token_does_not_outlive_its_session(server: ValkeyServer) -> None:
    async with open_sessions(server.url, SessionRules(lifetime=100, access=900)) as sessions:
        grants = await trade(sessions, await log_in(sessions), 1)
        with server.client() as client:
            for jti in await jtis(sessions, grants):
                assert 90 < client.ttl(f"session:token:{jti}") <= 100


@pytest.mark.parametrize(
    ("ahead", "code"), [(1, "ok"), (2, "ok"), (3, "invalid"), (9**9, "invalid")]
)
async def test_a_counter_from_the_future_is_believed_as_far_as_a_crash_explains_it(
    ahead: int, code: str, server: ValkeyServer
) -> None:
    async with open_sessions(server.url, RULES) as sessions:
        grants = await trade(sessions, await log_in(sessions), 1)
        assert await code_of(sessions.refresh(forged(grants[-1], 1 + ahead))) == code
        assert await sessions.count("alice") == 1
        if code == "ok":
            # The trades that are noted are those of other tokens now.
            assert await code_of(sessions.refresh(forged(grants[-1], ahead))) == "refresh_reused"


async def test_a_token_that_is_not_the_stored_one_is_refused(server: ValkeyServer) -> None:
    """As one that was made with a key that doesn't count any more."""
    async with open_sessions(server.url, RULES) as sessions:
        grant = await log_in(sessions)
        with server.client() as client:
            client.hset(f"session:user:alice:{grant.session_id}", "refresh_token_hash", "x" * 43)
        assert await code_of(sessions.refresh(grant.refresh_token)) == "invalid"


async def test_outside_sessions_have_no_refresh_tokens(server: ValkeyServer) -> None:
    async with open_sessions(server.url, RULES) as sessions:
        grant = await log_in(sessions)
        with server.client() as client:
            client.hdel(f"session:user:alice:{grant.session_id}", "refresh_counter")
        assert await code_of(sessions.refresh(grant.refresh_token)) == "invalid"
        assert await sessions.count("alice") == 1


async def test_what_comes_again_is_counted_apart(server: ValkeyServer) -> None:
    told: list[Any] = []
    hub = Hub()
    for kind in (TokenRefreshed, RefreshRepeated):
        hub.on(kind, told.append)
    async with open_sessions(server.url, RULES, hub=hub) as sessions:
        first = await log_in(sessions)
        for _ in range(3):
            await sessions.refresh(first.refresh_token)
    assert told == [TokenRefreshed(), RefreshRepeated(), RefreshRepeated()]


async def test_refresh_tokens_outlive_a_rotation_of_their_keys(server: ValkeyServer) -> None:
    async with open_sessions(server.url, RULES) as sessions:
        first, second = await trade(sessions, await log_in(sessions), 1)
        tokens = sessions._refresh_tokens
        tokens.use(OTHER_KEY, None, [KEY])
        # Whoever comes again gets what was given before, made with the key of then.
        again = await sessions.refresh(first.refresh_token)
        assert tokens_of(again) == tokens_of(second)
        third = await sessions.refresh(again.refresh_token)
        await sessions.authenticate(third.access_token)
        assert RefreshTokens(OTHER_KEY).read(third.refresh_token).counter == 2
        # The old key makes nothing any more: neither the current token nor a later one.
        for counter in (2, 3):
            assert await code_of(sessions.refresh(forged(first, counter))) == "invalid"
        await sessions.refresh(third.refresh_token)


async def test_without_its_key_a_refresh_token_is_nothing(server: ValkeyServer) -> None:
    async with open_sessions(server.url, RULES) as sessions:
        grant = await log_in(sessions)
        sessions._refresh_tokens.use(OTHER_KEY, None, [])
        assert await code_of(sessions.refresh(grant.refresh_token)) == "invalid"
        assert await sessions.count("alice") == 1


async def test_valkey_itself_ends_what_nobody_asks_about(server: ValkeyServer) -> None:
    """By real TTLs, without a clock of the test."""
    rules = SessionRules(lifetime=0.3, idle=0.3, access=0.3, adopt=True, leeway=0)
    late = SignedTokens(lambda: 0)
    async with open_sessions(server.url, rules, tokens=late) as sessions:
        grant = await log_in(sessions)
        seen = outside_token("bob", life=0)
        await sessions.authenticate(seen)
        with server.client() as client:
            await until(
                lambda: not client.exists("session:index:alice", "session:index:bob"),
                within=5,
                what="the indexes expired",
            )
            assert not list(client.scan_iter("session:user:alice:*"))
            assert client.exists("session:user:bob:idp-1")
        for call in (
            sessions.authenticate(grant.access_token),
            sessions.refresh(grant.refresh_token),
            sessions.touch("alice", grant.session_id),
            sessions.authenticate(seen),
        ):
            assert await code_of(call) == "ended"
        assert await sessions.count("alice") == await sessions.count("bob") == 0
    async with open_sessions(server.url, rules, tokens=late) as elsewhere:
        assert await code_of(elsewhere.authenticate(seen)) == "ended"
