"""The published keys, as other services fetch them, through rotations of a running service."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sark.errors import TokenError
from sark.events import Hub
from sark.parts.sessions import open_access_tokens
from sark.sessions.tokens import issuer_keys
from sark.settings import Settings, TrustedIssuer
from tests.support.polling import until
from tests.support.service import SarkService, assert_problem, call_sark, http_client
from tests.support.tokens import access_tokens, claims, signing_keys

PATH = "/.well-known/jwks.json"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(
        directory, SARK_SERVICE_TOKEN="service-token-0123456789", SARK_KEY_WATCH_INTERVAL=0.05
    ) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def rotate(service: SarkService) -> None:
    ended = call_sark("keys", "rotate", "--now", SARK_KEY_DIR=service.directory / "keys")
    assert ended.returncode == 0, ended.stderr


async def published(http: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with http.get(PATH) as response:
        assert response.status == 200
        document = await response.json(content_type="application/jwk-set+json")
        found: list[dict[str, Any]] = document["keys"]
        return found


async def test_anybody_may_have_the_public_keys(http: aiohttp.ClientSession) -> None:
    async with http.get(PATH) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/jwk-set+json"
        assert response.headers["Cache-Control"] == "public, max-age=300"
        etag = response.headers["ETag"]
    for key in await published(http):
        assert set(key) == {"kty", "crv", "x", "kid", "alg", "use"}
    for condition in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        async with http.get(PATH, headers={"If-None-Match": condition}) as response:
            assert (response.status, await response.read()) == (304, b"")
            assert response.headers["ETag"] == etag
    async with http.get(PATH, headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200
    async with http.post(PATH) as response:
        await assert_problem(response, 405)


async def test_a_rotation_is_published_by_the_running_service(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    before = await published(http)
    rotate(service)

    async def noticed() -> bool:
        return len(await published(http)) == len(before) + 1

    await until(noticed, within=10, what="the new next key is published")
    after = await published(http)
    kids = [key["kid"] for key in before]
    assert [after[0]["kid"], after[2]["kid"]] == [kids[1], kids[0]]
    assert [line["event"] for line in service.logs][-1] == "signing keys changed"


async def test_the_metrics_tell_of_keys_and_tokens(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    async def value_of(sample: str) -> float:
        async with http.get("/metrics") as response:
            lines = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines())
        return float(lines.get(sample, 0))

    assert await value_of('sark_token_verifications{state="warm"}') == 0
    changes = 'sark_signing_key_changes_total{result="changed"}'
    before = await value_of(changes)
    rotate(service)

    async def counted() -> bool:
        return await value_of(changes) == before + 1

    await until(counted, within=10, what="the rotation is counted, once")


async def test_another_deployment_trusts_this_one(
    service: SarkService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an outside issuer, with everything wired as in production."""
    monkeypatch.setattr(issuer_keys, "WAIT_SECONDS", 30.0)
    url, now = service.url + PATH, int(time.time())
    theirs = access_tokens(signing_keys(service.directory / "keys"), issuer="other")
    token = theirs.issue(claims(issuer="other", issued_at=now, expires_at=now + 60))
    settings = Settings(
        key_dir=tmp_path, trusted_issuers=(TrustedIssuer("other", url),), token_issuer="us"
    )
    async with open_access_tokens(settings, Hub()) as tokens:
        read = await tokens.verify(token)
        assert (read.user_id, read.outside) == ("other|user-0001", True)
        ours = claims(issuer="us", issued_at=now, expires_at=now + 60)
        assert await tokens.verify(tokens.issue(ours)) == ours
        with pytest.raises(TokenError, match="iss names no issuer"):
            await theirs.verify(tokens.issue(ours))
