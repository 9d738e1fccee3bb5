"""What ends sessions by itself, what they are bound to, what they hold, and what they cost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sark.errors import (
    BindingError,
    InvalidRequestError,
    SessionCapError,
    SessionError,
    StoreCommandError,
)
from sark.events import Hub, SessionCreated, SessionEnded, SessionRefused, TokenRefreshed
from sark.keyspace import Keyspace
from sark.sessions import SessionRules, Sessions
from sark.sessions import scripts as sessions_scripts
from sark.store import Store
from tests.support.gateways import open_store
from tests.support.probe import CommandCount, count_round_trips
from tests.support.servers import ValkeyServer
from tests.support.sessions import (
    BROWSER,
    FrozenClock,
    SignedTokens,
    code_of,
    dump,
    frozen_clock,
    log_in,
    open_sessions,
    sessions_on,
)

RULES = SessionRules(lifetime=1000, idle=300, access=100, seen_every=60, cap=3)


@asynccontextmanager
async def timed(
    server: ValkeyServer, rules: SessionRules = RULES
) -> AsyncIterator[tuple[Sessions, FrozenClock]]:
    """Open sessions whose time the test moves on."""
    with frozen_clock(server) as clock:
        tokens = SignedTokens(clock.now)
        async with open_sessions(server.url, rules, tokens=tokens) as sessions:
            yield sessions, clock


@asynccontextmanager
async def counted(
    server: ValkeyServer, rules: SessionRules = RULES
) -> AsyncIterator[tuple[Sessions, CommandCount]]:
    """Open sessions whose scripts the server knows already."""
    async with count_round_trips(server) as (url, counts), open_sessions(url, rules) as sessions:
        for _ in range(rules.cap):
            grant = await log_in(sessions)
        await sessions.authenticate(grant.access_token)
        await sessions.refresh(grant.refresh_token)
        counts.reset()
        yield sessions, counts


class TestTime:
    async def test_a_session_ends_when_it_was_not_used_for_too_long(
        self, server: ValkeyServer
    ) -> None:
        async with timed(server) as (sessions, clock):
            grant = await log_in(sessions)
            clock.advance(299)
            second = await sessions.refresh(grant.refresh_token)
            clock.advance(299)
            await sessions.touch("alice", grant.session_id)
            clock.advance(300)
            assert await sessions.count("alice") == 0
            assert await code_of(sessions.refresh(second.refresh_token)) == "ended"
            with server.client() as client:
                # Noticing took it off the index, and its hash with it.
                assert not client.exists("session:index:alice")
                assert list(client.scan_iter("session:user:*")) == []

    async def test_nothing_extends_a_session_beyond_its_lifetime(
        self, server: ValkeyServer
    ) -> None:
        async with timed(server) as (sessions, clock):
            grant = await log_in(sessions)
            for _ in range(9):
                clock.advance(100)
                grant = await sessions.refresh(grant.refresh_token)
            clock.advance(99)
            last = await sessions.refresh(grant.refresh_token)
            assert (last.expires_in, last.session_expires_at) == (1, clock.now() + 1)
            await sessions.authenticate(last.access_token)
            clock.advance(1)
            for call in (
                sessions.authenticate(last.access_token),
                sessions.refresh(last.refresh_token),
                sessions.touch("alice", last.session_id),
            ):
                assert await code_of(call) in {"expired", "ended"}

    async def test_use_is_noted_at_most_once_a_minute(self, server: ValkeyServer) -> None:
        async with timed(server) as (sessions, clock):
            grant = await log_in(sessions)
            begun = clock.now()
            seen = []
            for _ in range(5):
                clock.advance(19)
                await sessions.authenticate(grant.access_token)
                session = await sessions.get("alice", grant.session_id)
                assert session is not None
                seen.append(session.last_seen - begun)
            assert seen == [0, 0, 0, 76, 76]

    async def test_what_has_expired_does_not_count_towards_the_cap(
        self, server: ValkeyServer
    ) -> None:
        rules = SessionRules(idle=300, cap=2, at_cap="refuse")
        async with timed(server, rules) as (sessions, clock):
            await log_in(sessions)
            clock.advance(150)
            await log_in(sessions)
            with pytest.raises(SessionCapError):
                await log_in(sessions)
            clock.advance(150)
            await log_in(sessions)
            with pytest.raises(SessionCapError):
                await log_in(sessions)
            with server.client() as client:
                assert client.zcard("session:index:alice") == 2

    async def test_the_one_used_longest_ago_makes_room(self, server: ValkeyServer) -> None:
        async with timed(server) as (sessions, clock):
            grants = []
            for _ in range(3):
                grants.append(await log_in(sessions))
                clock.advance(60)
            await sessions.authenticate(
                (await sessions.refresh(grants[0].refresh_token)).access_token
            )
            newest = await log_in(sessions)
            alive = {session.session_id for session in await sessions.list("alice")}
            assert alive == {grants[0].session_id, grants[2].session_id, newest.session_id}

    async def test_keys_live_as_long_as_the_guide_says(self, server: ValkeyServer) -> None:
        async with open_sessions(server.url) as sessions:
            grant = await log_in(sessions)
            claims = await sessions.authenticate(grant.access_token)
            with server.client() as client:
                week, quarter = 7 * 86_400, 900
                session = f"session:user:alice:{grant.session_id}"
                token = f"session:token:{claims.jti}"
                assert client.type(session) == b"hash"
                assert week - 5 <= client.ttl(session) <= week
                assert client.hget(session, "access_token_jti") == claims.jti.encode()
                assert len(client.hget(session, "refresh_token_hash")) == 43
                assert client.get(token) == grant.session_id.encode()
                assert quarter - 5 <= client.ttl(token) <= quarter
                assert client.type("session:index:alice") == b"zset"
                assert week - 5 <= client.ttl("session:index:alice") <= week
                assert client.object("encoding", session) == b"listpack"

    async def test_a_shorter_session_does_not_shorten_the_index(self, server: ValkeyServer) -> None:
        for lifetime, least in ((1000, 990), (100, 990), (2000, 1990)):
            async with open_sessions(server.url, SessionRules(lifetime=lifetime)) as sessions:
                await log_in(sessions)
            with server.client() as client:
                assert least < client.ttl("session:index:alice") <= 2000


class TestBinding:
    HOME, ELSEWHERE = "192.0.2.7", "198.51.100.7"

    @pytest.mark.parametrize(
        ("home", "near", "far"),
        [
            ("192.0.2.7", "::ffff:192.0.2.200", "192.0.3.7"),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:3::1"),
            ("192.0.2.7", "192.0.2.8", "2001:db8:1:2::1"),
        ],
    )
    async def test_to_the_network(
        self, home: str, near: str, far: str, server: ValkeyServer
    ) -> None:
        async with open_sessions(server.url, SessionRules(bind="network")) as sessions:
            grant = await log_in(sessions, ip=home)
            await sessions.authenticate(grant.access_token, ip=near)
            with pytest.raises(BindingError, match="another network") as caught:
                await sessions.authenticate(grant.access_token, ip=far)
            assert caught.value.code == "network"
            assert caught.value.user_id == "alice"
            with pytest.raises(BindingError, match="ip is missing"):
                await sessions.authenticate(grant.access_token)
            # A refused trade leaves the token to its owner.
            with pytest.raises(BindingError):
                await sessions.refresh(grant.refresh_token, ip=far)
            await sessions.refresh(grant.refresh_token, ip=near)

    async def test_to_the_user_agent(self, server: ValkeyServer) -> None:
        async with open_sessions(server.url, SessionRules(bind="user_agent")) as sessions:
            grant = await log_in(sessions, user_agent=BROWSER)
            updated = BROWSER.replace("126", "127")
            await sessions.authenticate(grant.access_token, user_agent=updated)
            for other in ("curl/8.5.0", BROWSER.replace("Windows", "Linux")):
                with pytest.raises(BindingError, match="another user agent"):
                    await sessions.authenticate(grant.access_token, user_agent=other)
            with pytest.raises(BindingError, match="missing"):
                await sessions.authenticate(grant.access_token)

    async def test_a_use_from_elsewhere_is_not_noted(self, server: ValkeyServer) -> None:
        rules = SessionRules(bind="both", seen_every=0)
        async with open_sessions(server.url, rules) as sessions:
            here: dict[str, Any] = {"ip": self.HOME, "user_agent": BROWSER}
            grant = await log_in(sessions, **here)
            before = await sessions.get("alice", grant.session_id)
            for changed in ({"ip": self.ELSEWHERE}, {"user_agent": "curl"}):
                with pytest.raises(BindingError):
                    await sessions.authenticate(grant.access_token, **{**here, **changed})
            assert await sessions.get("alice", grant.session_id) == before

    async def test_a_login_has_to_say_what_sessions_are_bound_to(
        self, server: ValkeyServer
    ) -> None:
        async with open_sessions(server.url, SessionRules(bind="both")) as sessions:
            for given, field in (({"user_agent": "x"}, "ip"), ({"ip": "::1"}, "user_agent")):
                with pytest.raises(InvalidRequestError) as caught:
                    await log_in(sessions, **given)
                assert caught.value.field == field

    async def test_a_session_from_before_the_setting_is_refused(self, server: ValkeyServer) -> None:
        async with open_sessions(server.url) as sessions:
            grant = await log_in(sessions, ip=self.HOME)
        async with open_sessions(server.url, SessionRules(bind="network")) as sessions:
            assert (
                await code_of(sessions.authenticate(grant.access_token, ip=self.HOME)) == "network"
            )


class TestInput:
    @pytest.mark.parametrize(
        "user_id",
        ["b:{o}*b", "é\u0301 🔑", "a\r\nb\x00", "x" * 256, "*", "..", "{}", "alice:1", "%2e"],
    )
    async def test_any_text_is_a_user_of_its_own(self, user_id: str, server: ValkeyServer) -> None:
        async with open_sessions(server.url) as sessions:
            other, grant = await log_in(sessions, "alice"), await log_in(sessions, user_id)
            claims = await sessions.authenticate(grant.access_token)
            assert claims.user_id == user_id
            grant = await sessions.refresh(grant.refresh_token)
            assert [each.session_id for each in await sessions.list(user_id)] == [grant.session_id]
            await sessions.revoke_user(user_id)
            assert await code_of(sessions.authenticate(grant.access_token)) == "ended"
            await sessions.authenticate(other.access_token)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("user_id", ""),
            ("user_id", "x" * 257),
            ("user_id", "\ud800"),
            ("user_id", 7),
            ("client_id", "x" * 257),
            ("client_id", None),
            ("tier", "x" * 65),
            ("ip", "no address"),
            ("ip", "fe80::1%eth0"),
            ("user_agent", "x" * 4097),
            ("user_agent", "\ud800"),
        ],
    )
    async def test_unusable_fields_are_refused_before_any_io(
        self, field: str, value: Any, server: ValkeyServer
    ) -> None:
        async with open_sessions(server.url) as sessions:
            fields = {"user_id": "alice", "client_id": "web", field: value}
            with server.paused(), pytest.raises(InvalidRequestError) as caught:
                await sessions.create(**fields, deadline=0)
            assert caught.value.field == field

    async def test_a_user_agent_is_never_too_long_for_the_compact_encoding(
        self, server: ValkeyServer
    ) -> None:
        async with open_sessions(server.url, SessionRules(bind="both")) as sessions:
            for user_agent in (BROWSER * 10, "é" * 2000, "(" * 4096, "Mozilla/5.0 " + "(x" * 1000):
                grant = await log_in(sessions, ip="2001:db8::1", user_agent=user_agent)
                with server.client() as client:
                    fields = client.hgetall(f"session:user:alice:{grant.session_id}")
                assert max(map(len, fields.values())) <= 64


class TestCost:
    async def test_a_login_at_the_cap_is_one_round_trip(self, server: ValkeyServer) -> None:
        async with counted(server) as (sessions, counts):
            await log_in(sessions)
            assert (counts.round_trips, counts.commands["evalsha"]) == (1, 1)
            assert await sessions.count("alice") == 3

    async def test_a_check_and_a_refresh_are_one_round_trip(self, server: ValkeyServer) -> None:
        async with counted(server) as (sessions, counts):
            grant = await log_in(sessions)
            counts.reset()
            await sessions.authenticate(grant.access_token)
            assert counts.round_trips == 1
            commands = counts.commands
            assert {name: commands[name] for name in commands if name != "evalsha"} == {
                "time": 1,
                "zscore": 1,
                "hmget": 1,
                "get": 1,
            }
            counts.reset()
            await sessions.refresh(grant.refresh_token)
            assert counts.round_trips == 1

    async def test_what_made_room_is_swept(self, server: ValkeyServer) -> None:
        async with open_sessions(server.url, RULES) as sessions:
            grants = [await log_in(sessions) for _ in range(5)]
            with server.client() as client:
                assert len(list(client.scan_iter("session:user:*"))) == 5
                assert await sessions.sweep() == 2
                left = {key.decode() for key in client.scan_iter("session:user:*")}
                assert left == {f"session:user:alice:{g.session_id}" for g in grants[2:]}
                await sessions.revoke_user("alice")
                assert (await sessions.sweep(), await sessions.sweep()) == (3, 0)
                assert list(client.scan_iter("session:user:*")) == []

    @pytest.mark.parametrize("users", [200])
    async def test_memory_of_a_session(self, users: int, private_server: Any) -> None:
        """At the server's defaults, with a browser's user agent, index and token included."""
        server: ValkeyServer = private_server()
        async with open_sessions(server.url) as sessions:
            with server.client() as client:
                for number in range(users):
                    user_id = f"user-{number:04}"
                    grant = await log_in(
                        sessions, user_id, ip="203.0.113.200", user_agent=BROWSER, tier="gold"
                    )
                    await sessions.refresh(grant.refresh_token)
                keys = list(client.scan_iter(count=1000))
                sizes = [client.memory_usage(key, samples=0) for key in keys]
                tokens = [key for key in keys if key.startswith(b"session:token:")]
                fields = client.hlen(f"session:user:{user_id}:{grant.session_id}")
                generations = [k for k in keys if k.startswith(b"policy:")]
        assert generations == []
        assert fields >= 8
        # Each session holds two tokens here, because it was refreshed at once.
        token = sum(size for key, size in zip(keys, sizes, strict=True) if key in set(tokens))
        average = (sum(sizes) - token / 2) / users
        logging.getLogger("tests").info("bytes per session: %.0f", average)
        assert average <= 800, average


class TestSecrets:
    async def test_nothing_secret_is_stored_shown_or_told(
        self, server: ValkeyServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        told: list[str] = []
        hub = Hub()
        for kind in (SessionCreated, SessionEnded, SessionRefused, TokenRefreshed):
            hub.on(kind, lambda event: told.append(repr(event)))
        async with open_sessions(server.url, SessionRules(grace=0, cap=2), hub=hub) as sessions:
            grants = [await log_in(sessions, user_agent=BROWSER) for _ in range(3)]
            grants.append(await sessions.refresh(grants[2].refresh_token))
            errors = []
            for token in (
                grants[2].refresh_token,
                grants[3].refresh_token,
                "x" + grants[1].refresh_token,
            ):
                with pytest.raises(SessionError) as caught:
                    await sessions.refresh(token)
                errors.append(repr(caught.value) + str(caught.value))
            for grant in grants[:1]:
                with pytest.raises(SessionError) as caught:
                    await sessions.authenticate(grant.access_token)
                errors.append(repr(caught.value) + str(caught.value))
            seen = "\n".join([*map(repr, grants), *told, *errors, caplog.text]).encode()
            stored = dump(server)
        assert len(told) >= 6
        for grant in grants:
            for token in (grant.access_token, grant.refresh_token):
                signature = token.rpartition(".")[2].encode()
                assert signature not in stored
                assert signature not in seen


class TestEvents:
    async def test_what_happens_is_reported(self, server: ValkeyServer) -> None:
        told: list[Any] = []
        hub = Hub()
        for kind in (SessionCreated, SessionEnded, SessionRefused, TokenRefreshed):
            hub.on(kind, told.append)
        async with open_sessions(server.url, SessionRules(cap=1, grace=0), hub=hub) as sessions:
            first = await log_in(sessions)
            second = await log_in(sessions)
            await code_of(sessions.authenticate(first.access_token))
            await sessions.refresh(second.refresh_token)
            await code_of(sessions.refresh(second.refresh_token))
            third = await log_in(sessions)
            await sessions.revoke("alice", third.session_id)
            await sessions.revoke("alice", third.session_id)
        assert told == [
            SessionCreated(),
            SessionCreated(),
            SessionEnded("cap", 1),
            SessionRefused("ended"),
            TokenRefreshed(),
            SessionEnded("reuse", 1),
            SessionRefused("refresh_reused"),
            SessionCreated(),
            SessionEnded("revoked", 1),
        ]


async def test_a_revocation_always_writes_so_that_a_repeat_waits_for_it(
    server: ValkeyServer,
) -> None:
    async with open_sessions(server.url) as sessions:
        with server.client() as client:
            for call in (
                lambda: sessions._revocations._end("alice", "none"),
                lambda: sessions._store.state.run(
                    sessions_scripts.REVOKE_USER,
                    ["session:index:alice", "session:not_before:alice"],
                    ["", 60_000],
                ),
            ):
                await call()
                before: Any = client.info("persistence")
                await call()
                after: Any = client.info("persistence")
                changes = "rdb_changes_since_last_save"
                assert after[changes] > before[changes]
                assert not client.exists("session:index:alice")


@pytest.mark.parametrize("use", ["authenticate", "refresh", "touch"])
async def test_a_hash_that_was_evicted_ends_its_session(use: str, server: ValkeyServer) -> None:
    async with open_sessions(server.url) as sessions:
        grant = await log_in(sessions)
        uses: dict[str, Callable[[], Awaitable[object]]] = {
            "authenticate": lambda: sessions.authenticate(grant.access_token),
            "refresh": lambda: sessions.refresh(grant.refresh_token),
            "touch": lambda: sessions.touch("alice", grant.session_id),
        }
        with server.client() as client:
            client.delete(f"session:user:alice:{grant.session_id}")
            assert await code_of(uses[use]()) == "ended"
            assert not client.exists("session:index:alice")


async def test_a_foreign_value_under_our_key_is_an_error_not_an_answer(
    server: ValkeyServer,
) -> None:
    async with open_sessions(server.url) as sessions:
        grant = await log_in(sessions)
        with server.client() as client:
            client.set("session:index:alice", "x", ex=60)
            with pytest.raises(StoreCommandError):
                await sessions.authenticate(grant.access_token)


async def test_a_cluster_gets_keys_of_one_slot(server: ValkeyServer) -> None:
    """The same scripts, with the names of a cluster."""
    async with open_store(server.url) as store:
        _as_cluster(store)
        sessions = sessions_on(store, RULES)
        grants = [await log_in(sessions, "b:{o}*b") for _ in range(4)]
        assert await code_of(sessions.authenticate(grants[0].access_token)) == "ended"
        await sessions.authenticate(grants[3].access_token)
        await sessions.refresh(grants[3].refresh_token)
        await sessions.revoke_user("b:{o}*b")
        assert await code_of(sessions.authenticate(grants[3].access_token)) == "ended"
        with server.client() as client:
            names = [key.decode() for key in client.scan_iter("session:*")]
    assert names
    assert all("{b%3A%7Bo%7D%2Ab}" in name for name in names)


def _as_cluster(store: Store) -> None:
    store.keys = Keyspace(cluster=True)
