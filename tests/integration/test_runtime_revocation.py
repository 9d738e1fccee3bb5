"""Revocation in the library: an open runtime revokes, and refuses what it cannot mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sark import BatchQuestion, BatchRequest, Runtime
from sark.errors import InvalidRequestError, StoreError, UnknownPolicyError
from sark.gateway import Request
from sark.runtime import open_runtime
from sark.settings import Settings
from sark.settings._urls import ServerUrl
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import write_policies

REQUEST = Request(user_id="ann", action="x:read", resource="r")


async def test_each_scope_and_its_token(
    private_server: Callable[[], ValkeyServer], tmp_path: Path
) -> None:
    server = private_server()
    settings = Settings(
        valkey_url=ServerUrl(server.url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
        valkey_socket_timeout=1,
    )
    async with open_runtime(settings) as sark:
        revocations: tuple[Callable[[], Awaitable[str]], ...] = (
            lambda: sark.invalidate_user("ann"),
            lambda: sark.invalidate_policy("authz"),
            sark.invalidate_all,
        )
        for revoke in revocations:
            await sark.authorize(REQUEST)
            assert (await sark.authorize(REQUEST)).cached is not False
            token = await revoke()
            fresh = Request(user_id="ann", action="x:read", resource="r", freshness=token)
            assert (await sark.authorize(fresh)).cached is False
            assert (await sark.authorize(fresh)).cached == "valkey"
        with pytest.raises(UnknownPolicyError):
            await sark.invalidate_policy("other")
        with pytest.raises(InvalidRequestError):
            await sark.invalidate_user("")
        server.stop()
        with pytest.raises(StoreError):
            await sark.invalidate_all()


async def test_who_revokes_is_never_answered_from_before(
    private_server: Callable[[], ValkeyServer], tmp_path: Path
) -> None:
    settings = Settings(
        valkey_url=ServerUrl(private_server().url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
    )

    async def is_near(sark: Runtime) -> bool:
        return (await sark.decide(REQUEST)).source == "near"

    async with open_runtime(settings) as sark:
        revocations: tuple[Callable[[], Awaitable[str]], ...] = (
            lambda: sark.invalidate_user("ann"),
            lambda: sark.invalidate_policy("authz"),
            sark.invalidate_all,
        )
        for revoke in revocations * 20:
            await until(lambda: is_near(sark), within=10, what="the decision is near")
            await revoke()
            assert (await sark.decide(REQUEST)).source == "evaluated"


async def test_many_at_once_through_the_front_door(
    private_server: Callable[[], ValkeyServer], tmp_path: Path
) -> None:
    settings = Settings(
        valkey_url=ServerUrl(private_server().url),
        policy_dir=write_policies(tmp_path / "policies"),
        key_dir=tmp_path / "keys",
        data_dir=tmp_path / "data",
    )
    asked = BatchRequest(
        user_id="ann", questions=[BatchQuestion(action="x:read", resource=r) for r in "abc"]
    )
    async with open_runtime(settings) as sark:
        answers = await sark.authorize_many(asked)
        assert len({answer.decision_id for answer in answers}) == 3
