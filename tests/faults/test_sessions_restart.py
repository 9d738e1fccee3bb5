"""Sessions and their ends when the server restarts, is killed, hangs, or has too few replicas."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from sark.errors import RefreshReuseError, ReplicationError, StoreError, StoreTimeoutError
from sark.events import Hub, RefreshReused
from sark.sessions import SessionRules
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.sessions import code_of, log_in, open_sessions

Start = Callable[..., ValkeyServer]
# WAIT is given half of it.
IMPATIENT = {"valkey_socket_timeout": 0.8}
APPEND_ONLY = {"appendonly": "yes", "appendfsync": "everysec"}


async def test_sessions_survive_a_restart(private_server: Start) -> None:
    server = private_server(APPEND_ONLY)
    async with open_sessions(server.url) as sessions:
        kept, ended = await log_in(sessions), await log_in(sessions)
        await sessions.revoke("alice", ended.session_id)
        before = await sessions.list("alice")
        server.restart()
        await until(lambda: answers(sessions.count("alice")), within=10, what="the server answers")
        assert await sessions.list("alice") == before
        await sessions.authenticate(kept.access_token)
        again = await sessions.refresh(kept.refresh_token)
        await sessions.authenticate(again.access_token)
        assert await code_of(sessions.authenticate(ended.access_token)) == "ended"


@pytest.mark.parametrize("how", ["session", "user", "reuse"])
async def test_a_revocation_that_returned_survives_kill_9(how: str, private_server: Start) -> None:
    server = private_server(APPEND_ONLY)
    async with open_sessions(server.url, SessionRules(grace=0)) as sessions:
        kept = await log_in(sessions)
        grants = [await log_in(sessions) for _ in range(3)]
        match how:
            case "session":
                for grant in grants:
                    await sessions.revoke("alice", grant.session_id)
            case "user":
                await sessions.revoke_user("alice", except_session=kept.session_id)
            case "reuse":
                for grant in grants:
                    await sessions.refresh(grant.refresh_token)
                    with pytest.raises(RefreshReuseError):
                        await sessions.refresh(grant.refresh_token)
        server.kill()
        server.start()
        await until(lambda: answers(sessions.count("alice")), within=10, what="the server answers")
        for grant in grants:
            assert await code_of(sessions.authenticate(grant.access_token)) == "ended"
            assert await code_of(sessions.refresh(grant.refresh_token)) == "ended"
        await sessions.authenticate(kept.access_token)


async def test_a_token_ahead_of_a_server_that_forgot_is_the_current_one(
    server: ValkeyServer,
) -> None:
    """As after ``kill -9``: the client holds a successor that the server has lost."""
    async with open_sessions(server.url, SessionRules(grace=0)) as sessions:
        first = await log_in(sessions)
        key = f"session:user:alice:{first.session_id}"
        with server.client() as client:
            forgotten = client.dump(key)
            second = await sessions.refresh(first.refresh_token)
            client.restore(key, 60_000, forgotten, replace=True)
        third = await sessions.refresh(second.refresh_token)
        await sessions.authenticate(third.access_token)
        with pytest.raises(RefreshReuseError):
            await sessions.refresh(second.refresh_token)


async def test_too_few_replicas_are_told_each_time(server: ValkeyServer) -> None:
    await load_scripts(server)
    async with open_sessions(server.url, replicas=1, settings=IMPATIENT) as sessions:
        grant = await log_in(sessions)
        for _ in range(2):
            with pytest.raises(ReplicationError):
                await sessions.revoke("alice", grant.session_id)
            with pytest.raises(ReplicationError):
                await sessions.revoke_user("alice")
        assert await code_of(sessions.authenticate(grant.access_token)) == "ended"


async def test_a_copied_token_is_refused_even_when_its_end_is_not_safe(
    server: ValkeyServer,
) -> None:
    reused: list[RefreshReused] = []
    hub = Hub()
    hub.on(RefreshReused, reused.append)
    rules = SessionRules(grace=0)
    await load_scripts(server)
    async with open_sessions(
        server.url, rules, hub=hub, replicas=1, settings=IMPATIENT
    ) as sessions:
        grant = await log_in(sessions)
        await sessions.refresh(grant.refresh_token)
        with pytest.raises(RefreshReuseError):
            await sessions.refresh(grant.refresh_token)
    (event,) = reused
    assert (event.user_id, event.session_id) == ("alice", grant.session_id)
    assert "0 of 1 replicas" in event.failure


async def test_a_server_that_hangs_fails_everything_and_ends_nothing(server: ValkeyServer) -> None:
    async with open_sessions(server.url, settings={"valkey_socket_timeout": 0.2}) as sessions:
        grant = await log_in(sessions)
        with server.paused():
            with pytest.raises(StoreTimeoutError):
                await sessions.authenticate(grant.access_token)
            with pytest.raises(StoreError):
                await sessions.revoke("alice", "another")
            with pytest.raises(StoreError):
                await sessions.refresh(grant.refresh_token)
        await until(lambda: answers(sessions.count("alice")), within=10, what="the server answers")
        await sessions.authenticate(grant.access_token)


async def load_scripts(server: ValkeyServer) -> None:
    """Let the server know the scripts: it waits twice when it has to be given one."""
    async with open_sessions(server.url) as sessions:
        await sessions.revoke("nobody", "none")
        await sessions.revoke_user("nobody")


async def answers(call: Awaitable[object]) -> bool:
    try:
        await call
    except StoreError:
        return False
    return True
