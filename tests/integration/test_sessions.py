"""Sessions on a real server: what begins, is accepted, is traded, and ends."""

from __future__ import annotations

import pytest

from sark.errors import RefreshReuseError, SessionEndedError, TokenError
from sark.sessions import SessionRules, scripts
from sark.sessions.logins import Origin, Subject
from sark.sessions.refresh_token import token_hash
from tests.support.servers import ValkeyServer
from tests.support.sessions import BROWSER, code_of, log_in, open_sessions, tokens_of


async def test_a_session_is_accepted_until_it_is_revoked(server: ValkeyServer) -> None:
    async with open_sessions(server.url) as sessions:
        grant = await log_in(sessions, ip="::ffff:192.0.2.7", user_agent=BROWSER, tier="gold")
        claims = await sessions.authenticate(grant.access_token)
        assert (claims.user_id, claims.session_id) == ("alice", grant.session_id)
        assert (claims.client_id, claims.tier) == ("web", "gold")
        assert claims.expires_at - claims.issued_at == grant.expires_in == 900
        (session,) = await sessions.list("alice")
        assert session == await sessions.get("alice", grant.session_id)
        assert session.expires_at == grant.session_expires_at
        assert session.expires_at - session.created_at == 7 * 86_400
        assert (session.ip, session.user_agent) == ("192.0.2.7", "Edg/126, Windows NT 10.0")
        revocation = await sessions.revoke("alice", grant.session_id)
        assert revocation.ended == (grant.session_id,)
        assert revocation.freshness
        with pytest.raises(SessionEndedError):
            await sessions.authenticate(grant.access_token)
        with pytest.raises(SessionEndedError):
            await sessions.refresh(grant.refresh_token)
        assert (await sessions.revoke("alice", grant.session_id)).ended == ()
        assert await sessions.list("alice") == []


async def test_refresh_tokens_are_traded_once(server: ValkeyServer) -> None:
    async with open_sessions(server.url, SessionRules(grace=0)) as sessions:
        first = await log_in(sessions)
        second = await sessions.refresh(first.refresh_token)
        assert second.session_id == first.session_id
        assert second.refresh_token != first.refresh_token
        assert second.access_token != first.access_token
        # The earlier access token lives on to its end.
        for grant in (first, second):
            await sessions.authenticate(grant.access_token)
        with pytest.raises(RefreshReuseError):
            await sessions.refresh(first.refresh_token)
        for grant in (first, second):
            assert await code_of(sessions.authenticate(grant.access_token)) == "ended"
            assert await code_of(sessions.refresh(grant.refresh_token)) == "ended"


async def test_within_the_grace_the_same_successor_comes_again(server: ValkeyServer) -> None:
    async with open_sessions(server.url) as sessions:
        first = await log_in(sessions)
        second = await sessions.refresh(first.refresh_token)
        again = await sessions.refresh(first.refresh_token)
        assert tokens_of(again) == tokens_of(second)
        third = await sessions.refresh(second.refresh_token)
        # Another tab still has the first.
        assert tokens_of(await sessions.refresh(first.refresh_token)) == tokens_of(third)


@pytest.mark.parametrize("change", ["user", "session", "counter", "mac", "form", "é", "long"])
async def test_a_forged_refresh_token_costs_no_round_trip(
    change: str, server: ValkeyServer
) -> None:
    async with open_sessions(server.url) as sessions:
        grant = await log_in(sessions)
        version, user, session, counter, mac = grant.refresh_token.split(".")
        forged = {
            "user": f"{version}.Ym9i.{session}.{counter}.{mac}",
            "session": f"{version}.{user}.{session[:-1]}x.{counter}.{mac}",
            "counter": f"{version}.{user}.{session}.1.{mac}",
            "mac": f"{version}.{user}.{session}.{counter}.{mac[:-2]}AA",
            "form": "." * 9,
            "é": grant.refresh_token + "é",
            "long": grant.refresh_token * 1000,
        }[change]
        with server.paused(), pytest.raises(TokenError) as caught:
            await sessions.refresh(forged, deadline=0)
        assert caught.value.code == "invalid"
        assert forged not in str(caught.value)
        await sessions.refresh(grant.refresh_token)


async def test_a_login_that_is_sent_twice_is_one_session(server: ValkeyServer) -> None:
    """As when the connection breaks before the answer: the call is repeated with the same ids."""
    async with open_sessions(server.url) as sessions:
        logins, subject = sessions._logins, Subject("alice", "s-1", "t-1")
        fields = logins.fields(Origin("web", None, None))
        times = {await logins.begin(subject, fields, None) for _ in range(3)}
        assert len(times) == 1
        assert [each.session_id for each in await sessions.list("alice")] == ["s-1"]


async def test_only_those_alive_are_read(server: ValkeyServer) -> None:
    async with open_sessions(server.url) as sessions:
        grants = [await log_in(sessions) for _ in range(3)]
        await log_in(sessions, "bob")
        await sessions.revoke_user("alice", except_session=grants[1].session_id)
        assert [each.session_id for each in await sessions.list("alice")] == [grants[1].session_id]
        assert await sessions.get("alice", grants[0].session_id) is None
        assert await sessions.get("bob", grants[1].session_id) is None
        assert (await sessions.count("alice"), await sessions.count("nobody")) == (1, 0)


async def test_one_access_token_can_be_revoked(server: ValkeyServer) -> None:
    async with open_sessions(server.url) as sessions:
        first = await log_in(sessions)
        second = await sessions.refresh(first.refresh_token)
        await sessions.revoke_token(await sessions.authenticate(second.access_token))
        assert await code_of(sessions.authenticate(second.access_token)) == "revoked"
        await sessions.authenticate(first.access_token)
        # A client that asks for the same successor again is given the token that was revoked.
        again = await sessions.refresh(first.refresh_token)
        assert await code_of(sessions.authenticate(again.access_token)) == "revoked"
        third = await sessions.refresh(second.refresh_token)
        await sessions.authenticate(third.access_token)


async def test_reuse_ends_the_session_in_the_script_that_finds_it(server: ValkeyServer) -> None:
    """Not only by the revocation that follows, which a crash of the process could prevent."""
    async with open_sessions(server.url) as sessions:
        grant = await log_in(sessions)
        later = await sessions.refresh((await sessions.refresh(grant.refresh_token)).refresh_token)
        index = "session:index:alice"
        reply = await sessions._store.state.run(
            scripts.REFRESH,
            [index, f"session:user:alice:{grant.session_id}", "session:token:x"],
            [grant.session_id, 0, token_hash(grant.refresh_token), "h", "x", 0, 9, 9, "", ""],
        )
        assert reply.value == [b"reuse"]
        assert await code_of(sessions.authenticate(later.access_token)) == "ended"
        with server.client() as client:
            assert list(client.scan_iter("session:user:*")) == []
            assert not client.exists(index)


async def test_a_hash_that_is_left_over_is_nobodys_session(server: ValkeyServer) -> None:
    async with open_sessions(server.url) as sessions:
        grant = await log_in(sessions)
        await sessions.revoke_user("alice")
        with server.client() as client:
            assert client.exists(f"session:user:alice:{grant.session_id}")
        for use in (
            sessions.touch("alice", grant.session_id),
            sessions.authenticate(grant.access_token),
            sessions.refresh(grant.refresh_token),
        ):
            assert await code_of(use) == "ended"
        assert await sessions.get("alice", grant.session_id) is None
        with server.client() as client:
            assert not client.exists("session:index:alice")
