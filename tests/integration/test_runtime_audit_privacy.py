"""Secrets in a request's context reach neither the queue nor the spill store."""

from __future__ import annotations

from pathlib import Path

import pytest

from sark.errors import LimitExceededError
from sark.gateway import Request
from sark.runtime import open_runtime
from sark.settings import Settings
from sark.settings._urls import ServerUrl
from tests.support.gateways import queued, raw_events
from tests.support.servers import ValkeyServer
from tests.support.service import write_policies

SECRET = "hunter2-" * 8
CONTEXT = {"password": SECRET, "nested": [{"Access-Token": SECRET}], "reason": "maintenance"}


@pytest.mark.parametrize("bound", [100_000, 1], ids=["queued", "spilled"])
async def test_they_are_redacted_in_events_of_decisions_and_refusals(
    server: ValkeyServer, tmp_path: Path, bound: int
) -> None:
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
        limit_per_minute=2,
        siem_max_events=bound,
    )
    request = Request(user_id="ann", action="x:read", resource="r", context=CONTEXT)
    async with open_runtime(settings) as sark:
        assert (await sark.authorize(request)).allow
        await sark.authorize(request)
        with pytest.raises(LimitExceededError):
            await sark.authorize(request)
        events = queued(server)
        assert len(events) == min(3, bound)
        assert {event["context"]["reason"] for event in events} == {"maintenance"}
        assert SECRET.encode() not in b"".join(raw_events(server))
        files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
