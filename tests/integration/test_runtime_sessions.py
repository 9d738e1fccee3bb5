"""Sessions of an open runtime: as the settings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sark.errors import InvalidRequestError, SessionEndedError
from sark.gateway import Request
from sark.runtime import open_runtime
from sark.settings import Settings
from sark.settings._urls import ServerUrl
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
