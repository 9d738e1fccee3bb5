"""Sessions of an open runtime: as the settings say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sark.errors import (
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
    SessionEndedError,
    UserMismatchError,
)
from sark.events import AuditDropped, Hub
from sark.gateway import Request
from sark.runtime import Runtime, open_runtime
from sark.sessions import Grant
from sark.settings import Settings
from sark.settings._urls import ServerUrl
from tests.support.gateways import queued
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import write_policies
from tests.support.sessions import BROWSER


async def test_a_runtime_holds_sessions_as_the_settings_say(
    server: ValkeyServer, tmp_path: Path
) -> None:
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
        session_cap=1,
        session_bind="user_agent",
        access_token_ttl=60,
    )
    async with open_runtime(settings) as sark:
        grants = [await sark.sessions.create("ann", user_agent=BROWSER) for _ in range(2)]
        assert grants[0].expires_in == 60
        requests = [
            Request(
                action="x:read", resource="r", access_token=each.access_token, user_agent=BROWSER
            )
            for each in grants
        ]
        with pytest.raises(SessionEndedError):
            await sark.authorize(requests[0])
        assert (await sark.authorize(requests[1])).allow
        with pytest.raises(InvalidRequestError):
            await sark.decide(requests[1])
        # Whoever logs out is never answered from before.
        freshness = (await sark.sessions.revoke_user("ann")).freshness
        assert freshness
        with pytest.raises(SessionEndedError):
            await sark.authorize(requests[1])


async def test_a_program_begins_and_ends_sessions_as_the_service_does(
    server: ValkeyServer, tmp_path: Path
) -> None:
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
    )
    async with open_runtime(settings) as sark:
        grant = await sark.admission.create("ann", client_id="web", ip="192.0.2.10")
        answer = await sark.authorize(
            Request(access_token=grant.access_token, action="x:read", resource="r")
        )
        assert answer.allow
        again = await sark.admission.refresh(grant.refresh_token)
        assert again.session_id == grant.session_id
        session = await sark.admission.session(again.access_token)
        assert (session.client_id, session.ip) == ("web", "192.0.2.10")
        ended = await sark.admission.revoke("ann", grant.session_id, by="user")
        assert ended.ended == (grant.session_id,)
        with pytest.raises(SessionEndedError) as caught:
            await sark.admission.session(again.access_token)
        others = [(await sark.admission.create("ann")).session_id for _ in range(3)]
        ended = await sark.admission.revoke_user("ann", except_session=others[0], by="admin")
        assert set(ended.ended) == set(others[1:])
        other = await sark.admission.create("bob")
        with pytest.raises(UserMismatchError):
            await sark.admission.authenticate(other.access_token, user_id="ann")
    recorded = [(event["type"], event["action"], event["reason"]) for event in queued(server)]
    assert recorded == [
        ("session", "session:create", "by service"),
        ("decision", "x:read", "readers may read"),
        ("session", "session:revoke", "by user"),
        ("refusal", "session:authenticate", "session:ended"),
        *[("session", "session:create", "by service")] * 3,
        *[("session", "session:revoke", "by admin")] * 2,
        ("session", "session:create", "by service"),
        ("refusal", "session:authenticate", "session:user"),
    ]
    assert caught.value.decision_id == queued(server)[3]["id"]


def full(server: ValkeyServer, directory: Path, **fields: Any) -> Settings:
    """Settings of a runtime whose audit queue has room for so many events."""
    return Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=write_policies(directory / "policies"),
        key_dir=directory / "keys",
        data_dir=directory / "data",
        **{"siem_max_events": 1, "spill_max_bytes": 0, **fields},
    )


async def drained(sark: Runtime, server: ValkeyServer, count: int) -> list[dict[str, Any]]:
    """Make room again and again, until so many events that had to wait were in the queue."""
    found: list[dict[str, Any]] = []
    for _ in range(count):
        await sark.gateway.queue.purge()
        with contextlib.suppress(QueueFullError):
            await sark.gateway.late.append_waiting()
        found += queued(server)
    return found


def told(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(event["action"], event["resource"], event["reason"]) for event in events]


async def test_a_login_that_cannot_be_recorded_leaves_no_session_and_ends_none(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_runtime(full(server, tmp_path, session_cap=1)) as sark:
        first = await sark.admission.create("ann")
        for user in ("ann", "bob"):
            with pytest.raises(QueueFullError):
                await sark.admission.create(user)
        assert await sark.sessions.count("bob") == 0
        await sark.sessions.authenticate(first.access_token)


async def test_a_login_whose_event_finds_no_room_is_taken_back(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_runtime(full(server, tmp_path, siem_max_events=2)) as sark:
        # All of them see the room that is left; most find it taken.
        logins = [sark.admission.create("ann") for _ in range(6)]
        outcomes = await asyncio.gather(*logins, return_exceptions=True)
        grants = [each for each in outcomes if isinstance(each, Grant)]
        assert len(grants) == 2
        assert all(isinstance(each, Grant | QueueFullError) for each in outcomes)
        alive = {session.session_id for session in await sark.sessions.list("ann")}
        assert alive == {grant.session_id for grant in grants}


async def test_an_end_that_cannot_be_recorded_stays_and_is_recorded_later(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_runtime(full(server, tmp_path)) as sark:
        first = await sark.admission.create("ann")
        second = await sark.sessions.create("ann")
        with pytest.raises(QueueFullError) as caught:
            await sark.admission.revoke("ann", first.session_id, by="user")
        assert caught.value.ended == (first.session_id,)
        assert caught.value.freshness.startswith("user.")
        with pytest.raises(SessionEndedError):
            await sark.sessions.authenticate(first.access_token)
        with pytest.raises(QueueFullError) as caught:
            await sark.admission.revoke_user("ann", by="admin")
        assert caught.value.ended == (second.session_id,)
        assert told(await drained(sark, server, 2)) == [
            ("session:revoke", first.session_id, "by user"),
            ("session:revoke", second.session_id, "by admin"),
        ]
        assert len(sark.gateway.late) == 0


async def test_an_end_whose_outcome_nobody_hears_is_recorded(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_runtime(full(server, tmp_path, siem_max_events=9)) as sark:
        grant = await sark.sessions.create("ann")
        ending = asyncio.create_task(sark.admission.revoke("ann", grant.session_id, by="user"))
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert len(sark.gateway.late) == 1
    assert told(queued(server)) == [
        ("session:revoke", grant.session_id, "by user, outcome unknown")
    ]


async def test_a_revocation_that_is_repeated_is_recorded(
    server: ValkeyServer, tmp_path: Path
) -> None:
    """By another process too, when the first one was killed with what had to wait."""
    async with open_runtime(full(server, tmp_path, siem_max_events=9)) as sark:
        grant = await sark.sessions.create("ann")
        await sark.sessions.revoke("ann", grant.session_id)
        assert (await sark.admission.revoke("ann", grant.session_id, by="user")).ended == ()
        assert (await sark.admission.revoke_user("ann", by="service")).ended == ()
    assert told(queued(server)) == [
        ("session:revoke", grant.session_id, "by user, nothing was alive"),
        ("session:revoke", "*", "by service, nothing was alive"),
    ]


async def test_the_alarm_of_a_copied_refresh_token_is_not_lost(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_runtime(full(server, tmp_path, refresh_grace=0)) as sark:
        grant = await sark.admission.create("ann")
        await sark.sessions.refresh(grant.refresh_token)
        with pytest.raises(QueueFullError):
            await sark.admission.refresh(grant.refresh_token)
        assert told(await drained(sark, server, 1)) == [
            ("session:refresh", grant.session_id, "session:refresh_reused")
        ]
        await sark.gateway.queue.purge()
        with pytest.raises(SessionEndedError):
            await sark.admission.refresh(grant.refresh_token)


async def test_what_waits_is_recorded_by_itself_when_there_is_room(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_runtime(full(server, tmp_path)) as sark:
        grant = await sark.admission.create("ann")
        with pytest.raises(QueueFullError):
            await sark.admission.revoke("ann", grant.session_id, by="user")
        await sark.gateway.queue.purge()
        await until(
            lambda: told(queued(server)) == [("session:revoke", grant.session_id, "by user")],
            within=10,
            what="the event is in the queue",
        )


async def test_what_is_given_up_at_the_end_is_reported(
    server: ValkeyServer, tmp_path: Path
) -> None:
    hub, dropped = Hub(), list[AuditDropped]()
    hub.on(AuditDropped, dropped.append)
    async with open_runtime(full(server, tmp_path), hub=hub) as sark:
        grant = await sark.admission.create("ann")
        with pytest.raises(QueueFullError):
            await sark.admission.revoke("ann", grant.session_id, by="user")
        assert dropped == []
    assert dropped == [AuditDropped(1)]


@pytest.mark.parametrize(
    ("memory", "policy", "refused"),
    [
        ("64mb", "volatile-lfu", True),
        ("64mb", "allkeys-lru", True),
        ("64mb", "noeviction", False),
        ("0", "volatile-lfu", False),
    ],
)
async def test_outside_sessions_begin_only_where_their_ends_are_kept(
    memory: str,
    policy: str,
    refused: bool,
    private_server: Callable[..., ValkeyServer],
    tmp_path: Path,
) -> None:
    server = private_server()
    with server.client() as client:
        client.config_set("maxmemory", memory)
        client.config_set("maxmemory-policy", policy)
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
        session_adopt=True,
    )
    if refused:
        with pytest.raises(ConfigurationError, match=f"SARK_SESSION_ADOPT: .*{policy}"):
            async with open_runtime(settings):
                pass
        return
    async with open_runtime(settings) as sark:
        assert await sark.sessions.count("ann") == 0


async def test_the_embedded_server_keeps_them(tmp_path: Path) -> None:
    settings = Settings(
        policy_dir=write_policies(tmp_path / "policies"),
        data_dir=tmp_path / "data",
        session_adopt=True,
    )
    async with open_runtime(settings, ephemeral=True) as sark:
        told = await sark.store.state.execute("INFO", "memory", idempotent=True)
    assert b"maxmemory_policy:noeviction" in told
