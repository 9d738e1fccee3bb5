"""The keys of refresh tokens: made once, rotated, never shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import stat
import time
from pathlib import Path

import pytest

from sark.errors import ConfigurationError, TokenError
from sark.keyring import KEY_BYTES
from sark.sessions.refresh_keys import (
    MOST_RETIRED,
    RefreshKeyFile,
    RefreshKeySet,
    watch_refresh_keys,
)
from sark.sessions.refresh_token import RefreshClaims, RefreshTokens, token_hash
from tests.support.polling import until

CLAIMS = RefreshClaims("alice", "s-1", 3)


def tokens_of(keys: RefreshKeySet, now: float = 0, retention: float = 100) -> RefreshTokens:
    return RefreshTokens(keys.active, keys.next, keys.counting(now, retention))


def test_each_process_finds_the_keys_of_the_first(tmp_path: Path) -> None:
    file = RefreshKeyFile(tmp_path)
    assert file.read_or_create() == RefreshKeyFile(tmp_path).read_or_create()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_tokens_of_the_next_and_of_retired_keys_are_read() -> None:
    first = RefreshKeySet.new()
    second = first.rotated(now=50)
    assert second.active == first.next
    for maker, reader in ((first, second), (second, first)):
        assert tokens_of(reader).read(tokens_of(maker).issue(CLAIMS)) == CLAIMS
    old = tokens_of(first).issue(CLAIMS)
    assert tokens_of(second).is_of_retired_key(old)
    assert not tokens_of(first).is_of_retired_key(tokens_of(second).issue(CLAIMS))
    tokens_of(second, now=149.9).read(old)
    with pytest.raises(TokenError):
        tokens_of(second, now=150).read(old)
    with pytest.raises(TokenError):
        tokens_of(RefreshKeySet.new()).read(old)


def test_the_key_of_an_issued_token_is_found() -> None:
    first = RefreshKeySet.new()
    second = first.rotated(now=0)
    token = tokens_of(first).issue(CLAIMS)
    key = tokens_of(second).key_of(CLAIMS, token_hash(token))
    assert key is not None
    assert key.issue(CLAIMS) == token
    assert tokens_of(RefreshKeySet.new()).key_of(CLAIMS, token_hash(token)) is None


def test_there_are_only_so_many() -> None:
    keys = RefreshKeySet.new()
    for now in range(2 * MOST_RETIRED):
        keys = keys.rotated(now)
    assert len(keys.retired) == MOST_RETIRED
    assert keys.retired[0].at == 2 * MOST_RETIRED - 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", json.dumps({"active": "AAAA", "next": "AAAA"}).encode()],
)
def test_another_file_is_refused_and_not_shown(content: bytes, tmp_path: Path) -> None:
    file = RefreshKeyFile(tmp_path)
    file.read_or_create()
    file.path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a file of refresh token keys") as caught:
        file.read()
    assert "AAAA" not in str(caught.value)


def test_nothing_secret_is_shown() -> None:
    keys = RefreshKeySet.new().rotated(1)
    shown = repr(keys) + repr(keys.retired) + repr(tokens_of(keys))
    for secret in (keys.active, keys.next, keys.retired[0].key):
        assert len(secret) == KEY_BYTES
        assert repr(secret)[2:-1] not in shown


async def test_a_running_service_follows_and_survives_a_broken_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refusals() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]

    file = RefreshKeyFile(tmp_path)
    before = file.read_or_create()
    tokens = RefreshTokens(before.active, before.next)
    token = tokens.issue(CLAIMS)
    watch = asyncio.create_task(watch_refresh_keys(tokens, file, retention=1000, interval=0.01))
    try:
        content = file.path.read_bytes()
        file.path.write_bytes(b"{")
        await until(refusals, within=5, what="the broken file was reported")
        assert tokens.issue(CLAIMS) == token
        file.path.write_bytes(content)
        file.change(lambda known: known.rotated(int(time.time())))
        await until(lambda: tokens.issue(CLAIMS) != token, within=5, what="the key rotated")
        assert tokens.read(token) == CLAIMS
        file.path.unlink()
        await until(lambda: len(refusals()) == 2, within=5, what="the missing file was reported")
        assert not file.path.exists()
        assert tokens.read(token) == CLAIMS
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
