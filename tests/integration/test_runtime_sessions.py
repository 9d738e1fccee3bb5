"""Sessions of an open runtime: as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sark.errors import (
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
    SessionEndedError,
    UserMismatchError,
)
from sark.gateway import Request
from sark.runtime import open_runtime
from sark.settings import Settings
from sark.settings._urls import ServerUrl
from tests.support.gateways import queued
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


async def test_a_login_that_cannot_be_recorded_is_not_told(
    server: ValkeyServer, tmp_path: Path
) -> None:
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        siem_max_events=1,
    )
    async with open_runtime(settings) as sark:
        first = await sark.admission.create("ann")
        with pytest.raises(QueueFullError):
            await sark.admission.create("ann")
        # It has ended all the same, which is what matters.
        with pytest.raises(QueueFullError):
            await sark.admission.revoke("ann", first.session_id, by="user")
        with pytest.raises(SessionEndedError):
            await sark.sessions.authenticate(first.access_token)


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
