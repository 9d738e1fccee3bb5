"""Sessions under many tasks and several processes: what has to be exact stays exact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from sark.errors import SessionEndedError, SessionError
from sark.events import Hub, RefreshReused
from sark.sessions import Grant, SessionRules
from sark.settings import SessionCapPolicy
from tests.support.gateways import Meeting, later, processes, together
from tests.support.servers import ValkeyServer
from tests.support.sessions import (
    AuthenticateWork,
    LogInWork,
    LogOutWork,
    RefreshWork,
    UseWork,
    code_of,
    log_in,
    open_sessions,
    tokens_of,
)

CAP = 5
PROCESSES = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes(PROCESSES) as pool:
        yield pool


@pytest.mark.parametrize("at_cap", ["refuse", "end_oldest"])
async def test_200_logins_at_once_leave_exactly_the_cap(
    at_cap: SessionCapPolicy, server: ValkeyServer, pool: ProcessPoolExecutor
) -> None:
    rules = SessionRules(cap=CAP, at_cap=at_cap)
    work = LogInWork(Meeting(server.url, at_cap, PROCESSES), rules, tasks=200 // PROCESSES)
    begun = [each for ids in await together(pool, PROCESSES, work) for each in ids]
    assert len(begun) == (CAP if at_cap == "refuse" else 200)
    async with open_sessions(server.url, rules) as sessions:
        listed = {session.session_id for session in await sessions.list("alice")}
        assert await sessions.count("alice") == len(listed) == CAP
        assert listed <= set(begun)
        with server.client() as client:
            assert client.zcard("session:index:alice") == CAP


async def test_200_refreshes_of_one_token_give_one_successor(
    server: ValkeyServer, pool: ProcessPoolExecutor
) -> None:
    reused: list[RefreshReused] = []
    hub = Hub()
    hub.on(RefreshReused, reused.append)
    async with open_sessions(server.url, hub=hub) as sessions:
        grant = await log_in(sessions)
        meeting = Meeting(server.url, "refresh", PROCESSES)
        work = RefreshWork(meeting, grant.refresh_token, tasks=200 // PROCESSES)
        answers = set[tuple[str, str]]().union(*await together(pool, PROCESSES, work))
        ((access_token, refresh_token),) = answers
        assert (await sessions.authenticate(access_token)).session_id == grant.session_id
        assert tokens_of(await sessions.refresh(refresh_token)) not in answers
    assert reused == []


async def test_a_revoked_session_is_refused_by_the_next_check_of_another_process(
    server: ValkeyServer, pool: ProcessPoolExecutor
) -> None:
    async with open_sessions(server.url) as sessions:
        grants = [await log_in(sessions, user) for user in ("alice", "alice", "bob")]
        tokens = tuple(grant.access_token for grant in grants)
        elsewhere = AuthenticateWork(server.url, tokens)
        (before,) = await together(pool, 1, elsewhere)
        await sessions.revoke("alice", grants[1].session_id)
        (after,) = await together(pool, 1, elsewhere)
        await sessions.revoke_user("bob")
        (last,) = await together(pool, 1, elsewhere)
    assert before == ["ok", "ok", "ok"]
    assert after == ["ok", "ended", "ok"]
    assert last == ["ok", "ended", "ended"]


async def test_a_logout_that_races_what_writes_leaves_nothing_alive(server: ValkeyServer) -> None:
    """With ``seen_every=0`` each check and each touch writes."""
    async with open_sessions(server.url, SessionRules(seen_every=0, cap=100)) as sessions:

        async def race(number: int) -> None:
            grant = await log_in(sessions, f"user-{number % 7}")
            user_id = f"user-{number % 7}"
            await asyncio.gather(
                code_of(sessions.authenticate(grant.access_token, deadline=later())),
                code_of(sessions.touch(user_id, grant.session_id, deadline=later())),
                code_of(sessions.refresh(grant.refresh_token, deadline=later())),
                sessions.revoke(user_id, grant.session_id),
                code_of(sessions.authenticate(grant.access_token, deadline=later())),
                code_of(sessions.touch(user_id, grant.session_id, deadline=later())),
            )
            with pytest.raises(SessionEndedError):
                await sessions.authenticate(grant.access_token, deadline=later())
            assert await sessions.get(user_id, grant.session_id) is None

        for start in range(0, 300, 20):
            await asyncio.gather(*(race(number) for number in range(start, start + 20)))
    with server.client() as client:
        assert list(client.scan_iter("session:user:*")) == []
        assert list(client.scan_iter("session:index:*")) == []


async def test_extensions_are_not_lost(server: ValkeyServer) -> None:
    """Each use moves the end: 300 sessions in use at once all end as late as they should."""
    rules = SessionRules(idle=1000, seen_every=0, cap=300)
    async with open_sessions(server.url, rules) as sessions:
        grants = [await log_in(sessions) for _ in range(300)]
        for _ in range(2):
            await asyncio.gather(
                *(sessions.authenticate(g.access_token, deadline=later()) for g in grants),
                *(sessions.touch("alice", g.session_id, deadline=later()) for g in grants),
                *(sessions.refresh(g.refresh_token, deadline=later()) for g in grants[:50]),
            )
        listed = await sessions.list("alice")
        with server.client() as client:
            for session in listed:
                ends = client.zscore("session:index:alice", session.session_id)
                assert ends == (session.last_seen + 1000) * 1000
                assert session.last_seen > session.created_at
    assert len(listed) == 300


async def test_of_a_login_and_a_revocation_at_once_one_comes_first(server: ValkeyServer) -> None:
    async with open_sessions(server.url, SessionRules(cap=1000)) as sessions:

        async def log_in_and_use() -> tuple[Grant, str]:
            grant = await log_in(sessions, deadline=later())
            return grant, await code_of(sessions.authenticate(grant.access_token, deadline=later()))

        logins = [asyncio.create_task(log_in_and_use()) for _ in range(50)]
        await asyncio.sleep(0)
        revoked = set((await sessions.revoke_user("alice")).ended)
        begun = {grant.session_id for grant, _ in await asyncio.gather(*logins)}
        alive = {session.session_id for session in await sessions.list("alice")}
    assert revoked | alive == begun
    assert not revoked & alive


async def test_who_copied_a_token_and_who_owns_it_cannot_both_go_on(server: ValkeyServer) -> None:
    async with open_sessions(server.url, SessionRules(grace=0)) as sessions:
        for _ in range(20):
            grant = await log_in(sessions)
            answers = await asyncio.gather(
                *(sessions.refresh(grant.refresh_token, deadline=later()) for _ in range(2)),
                return_exceptions=True,
            )
            assert sorted(type(each).__name__ for each in answers) == ["Grant", "RefreshReuseError"]
            for each in answers:
                if isinstance(each, Grant):
                    with pytest.raises(SessionError):
                        await sessions.refresh(each.refresh_token)
        assert await sessions.count("alice") == 0


async def test_300_logouts_race_another_process_that_uses_the_sessions(
    server: ValkeyServer, pool: ProcessPoolExecutor
) -> None:
    rules = SessionRules(seen_every=0, cap=300)
    async with open_sessions(server.url, rules) as sessions:
        grants = tuple([await log_in(sessions) for _ in range(300)])
        meeting = Meeting(server.url, "logout", 2)
        used, ended = await asyncio.gather(
            *together_of(pool, UseWork(meeting, rules, grants), LogOutWork(meeting, grants))
        )
        for grant in grants:
            with pytest.raises(SessionEndedError):
                await sessions.authenticate(grant.access_token)
    assert ended == 300
    assert 0 <= used <= 900
    with server.client() as client:
        assert list(client.scan_iter("session:user:*")) == []
        assert list(client.scan_iter("session:index:*")) == []


async def test_300_extensions_by_two_processes_are_not_lost(
    server: ValkeyServer, pool: ProcessPoolExecutor
) -> None:
    rules = SessionRules(idle=1000, seen_every=0, cap=300)
    async with open_sessions(server.url, rules) as sessions:
        grants = tuple([await log_in(sessions) for _ in range(300)])
        meeting = Meeting(server.url, "extend", PROCESSES)
        used = await together(pool, PROCESSES, UseWork(meeting, rules, grants))
        listed = await sessions.list("alice")
    assert used == [900, 900]
    with server.client() as client:
        ends = dict(client.zrange("session:index:alice", 0, -1, withscores=True))
    assert len(listed) == 300
    for session in listed:
        assert ends[session.session_id.encode()] == (session.last_seen + 1000) * 1000
        assert session.last_seen > session.created_at


def together_of(
    pool: ProcessPoolExecutor, *works: Callable[[int], int]
) -> list[asyncio.Future[int]]:
    """Run each work in a process of its own."""
    loop = asyncio.get_running_loop()
    return [loop.run_in_executor(pool, work, 0) for work in works]
