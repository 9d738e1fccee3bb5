"""OPA's decision log and our audit trail, joined by OPA's id of a decision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sark.batch import BatchQuestion, BatchRequest
from sark.gateway import Request
from sark.runtime import Runtime, open_runtime
from sark.settings import ServerUrl, Settings
from tests.support.gateways import queued
from tests.support.opa import OpaServer, says, slow
from tests.support.servers import ValkeyServer


@pytest.fixture
async def opa() -> AsyncIterator[OpaServer]:
    async with OpaServer() as server:
        server.decision_ids = []
        yield server


@pytest.fixture
async def runtime(server: ValkeyServer, opa: OpaServer, tmp_path: Path) -> AsyncIterator[Runtime]:
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        key_dir=tmp_path,
        data_dir=tmp_path / "data",
        opa_url=opa.url,
        opa_watch_interval=3600,
        policies=("full", "nothing"),
        near_cache_entries=0,
        limit_per_minute=0,
    )
    async with open_runtime(settings) as opened:
        opa.decision_ids = []
        yield opened


def asked(resource: str = "r", **fields: str) -> Request:
    return Request(user_id="ann", action="a", resource=resource, **fields)  # type: ignore[arg-type]


async def test_what_opa_decided_carries_its_id(
    runtime: Runtime, opa: OpaServer, server: ValkeyServer
) -> None:
    await runtime.authorize(asked())
    await runtime.authorize(asked(policy="nothing"))
    assert [event["engine_decision_id"] for event in queued(server)] == opa.decision_ids
    # A decision from the cache is none of OPA's.
    assert (await runtime.authorize(asked())).cached == "valkey"
    assert "engine_decision_id" not in queued(server)[-1]
    assert opa.decision_ids is not None
    assert len(opa.decision_ids) == 2


async def test_requests_that_share_an_evaluation_share_its_id(
    runtime: Runtime, opa: OpaServer, server: ValkeyServer
) -> None:
    opa.always = slow(0.1)
    await asyncio.gather(*(runtime.authorize(asked()) for _ in range(5)))
    assert opa.decision_ids is not None
    assert [e["engine_decision_id"] for e in queued(server)] == opa.decision_ids * 5


async def test_each_question_of_a_batch_has_its_own(
    runtime: Runtime, opa: OpaServer, server: ValkeyServer
) -> None:
    questions = [BatchQuestion(action="a", resource=f"r{number}") for number in range(5)]
    await runtime.authorize_many(BatchRequest(user_id="ann", questions=questions))
    found = [event["engine_decision_id"] for event in queued(server)]
    assert sorted(found) == sorted(opa.decision_ids or ())
    assert len(set(found)) == 5


async def test_without_decision_logs_there_is_none(
    runtime: Runtime, opa: OpaServer, server: ValkeyServer
) -> None:
    opa.decision_ids = None
    await runtime.authorize(asked())
    assert "engine_decision_id" not in queued(server)[0]


async def test_an_id_that_is_none_is_left_out(
    runtime: Runtime, opa: OpaServer, server: ValkeyServer
) -> None:
    opa.always = says(b'{"result":{"allow":true},"decision_id":"%b"}' % (b"x" * 200))
    assert (await runtime.authorize(asked())).allow
    assert "engine_decision_id" not in queued(server)[0]
