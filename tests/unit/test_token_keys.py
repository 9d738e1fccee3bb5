"""Signing keys: their life, their file, and what processes make of a rotation."""

from __future__ import annotations

import asyncio
import os
import pickle
import stat
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import ConfigurationError, TokenError
from sark.events import Event, Hub, SigningKeysChanged, SigningKeysRefused
from sark.sessions.tokens import KeyFile, KeySet, retention_of
from sark.sessions.tokens import signing_keys as signing_keys_module
from sark.sessions.tokens.key_file import KEY_FILE_NAME
from sark.sessions.tokens.key_set import PUBLISHED_SECONDS, RETIREMENT_SLACK_SECONDS
from sark.sessions.tokens.keys import SigningKey, VerificationKey, thumbprint
from tests.support.gateways import processes
from tests.support.polling import until
from tests.support.tokens import (
    LEEWAY,
    NOW,
    TTL,
    Clock,
    access_tokens,
    cancel,
    claims,
    signing_keys,
)

RETENTION = retention_of(TTL, LEEWAY)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes(3) as pool:
        yield pool


def states(keys: KeySet) -> list[str]:
    return [record.state for record in keys.records]


def published(document: bytes) -> list[str]:
    return [key["kid"] for key in msgspec.json.decode(document)["keys"]]


# Keys


def test_the_thumbprint_of_rfc_7638() -> None:
    """The example of section 3.1."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP"
        "ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY"
        "368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f"
        "M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    key = {"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_thumbprint_of_rfc_8037() -> None:
    """The example of appendix A.3."""
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert thumbprint(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
def test_a_key_survives_being_written_down_and_shows_nothing(algorithm: str) -> None:
    key = SigningKey.generate("EdDSA" if algorithm == "EdDSA" else "RS256")
    again = SigningKey.from_private_jwk(algorithm, key.private_jwk())
    assert again.kid == key.kid
    assert again.sign(b"{}") == key.sign(b"{}")
    private = {name: text for name, text in key.private_jwk().items() if name not in key.public_jwk}
    assert "d" in private
    shown = f"{key!r} {key} {key.public_jwk} {key.verification!r} {[key]} {key.__class__.__dict__}"
    assert not any(str(text) in shown for text in private.values() if len(str(text)) > 4)
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(key)


@pytest.mark.parametrize(
    "change",
    [
        {"kid": ""},
        {"kid": 1},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "RSA"},
        {"crv": "Ed448"},
        {"crv": "P-256"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": ["EdDSA"]},
        {"alg": None},
        {"use": "enc"},
        {"x": "AAAA"},
        {"x": 5},
        {"x": "é"},
        {"d": "AAAA"},
    ],
)
def test_outside_keys_that_cannot_be_used(change: dict[str, object]) -> None:
    good = SigningKey.generate("EdDSA").public_jwk
    assert VerificationKey.from_jwk(good).algorithm == "EdDSA"
    with pytest.raises(ValueError, match=r"."):
        VerificationKey.from_jwk({**good, **change})


def test_a_private_key_that_an_issuer_publishes_is_not_believed() -> None:
    for algorithm in ("EdDSA", "RS256"):
        key = SigningKey.generate("EdDSA" if algorithm == "EdDSA" else "RS256")
        with pytest.raises(ValueError, match="not a public key"):
            VerificationKey.from_jwk({**key.private_jwk(), "kid": key.kid})


def test_a_short_rsa_key_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from jwt.algorithms import RSAAlgorithm

    short = generate_private_key(65537, 1024)  # noqa: S505 - the point
    public = RSAAlgorithm.to_jwk(short.public_key(), as_dict=True)
    with pytest.raises(ValueError, match="1024 bits"):
        VerificationKey.from_jwk({**public, "kid": "short"})
    with pytest.raises(ValueError, match="not a private key"):
        SigningKey.from_private_jwk("RS256", RSAAlgorithm.to_jwk(short, as_dict=True))


# Their life


def test_the_first_keys_are_one_to_sign_and_one_to_follow() -> None:
    keys = KeySet.first("EdDSA", NOW)
    assert states(keys) == ["active", "next"]
    assert keys.active.key.kid != keys.records[1].key.kid


def test_a_rotation_moves_each_key_one_step() -> None:
    first = KeySet.first("EdDSA", NOW)
    later = NOW + PUBLISHED_SECONDS
    second = first.rotated("RS256", later, RETENTION)
    assert states(second) == ["active", "next", "retired"]
    assert first.upcoming is not None
    assert second.active.key is first.upcoming.key
    assert second.active.activated_at == later
    assert second.records[2].key is first.active.key
    assert second.records[2].retired_at == later
    assert second.records[1].key.algorithm == "RS256"


def test_a_key_that_was_just_published_does_not_sign_yet() -> None:
    keys = KeySet.first("EdDSA", NOW)
    with pytest.raises(ConfigurationError, match=f"{PUBLISHED_SECONDS} s.*--now"):
        keys.rotated("EdDSA", NOW + PUBLISHED_SECONDS - 1, RETENTION)
    assert states(keys.rotated("EdDSA", NOW, RETENTION, hurry=True)) == [
        "active",
        "next",
        "retired",
    ]


def test_another_next_key_leaves_the_rest_alone() -> None:
    keys = KeySet.first("EdDSA", NOW).rotated("EdDSA", NOW, RETENTION, hurry=True)
    other = keys.with_next("RS256", NOW + 5)
    assert states(other) == states(keys)
    assert other.active == keys.active
    assert other.records[2] == keys.records[2]
    assert (other.records[1].key.algorithm, other.records[1].created_at) == ("RS256", NOW + 5)


def test_without_a_next_key_there_is_no_rotation() -> None:
    keys = KeySet((KeySet.first("EdDSA", NOW).active,))
    with pytest.raises(ConfigurationError, match="sark keys generate"):
        keys.rotated("EdDSA", NOW, RETENTION, hurry=True)


@given(st.lists(st.integers(0, 2 * RETENTION), max_size=12))
def test_a_retired_key_outlives_every_token_that_it_signed(waits: list[int]) -> None:
    now, keys = NOW, KeySet.first("EdDSA", NOW)
    signed_until = dict[str, int]()
    for wait in waits:
        now += wait
        signed_until[keys.active.key.kid] = now
        keys = keys.rotated("EdDSA", now, RETENTION, hurry=True)
        kids = {record.key.kid for record in keys.records}
        assert states(keys).count("active") == states(keys).count("next") == 1
        for kid, last in signed_until.items():
            expired = last + TTL + LEEWAY + RETIREMENT_SLACK_SECONDS <= now
            assert (kid in kids) is not expired


# Their file


def test_an_empty_folder_is_filled_and_then_stays(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "some" / "keys")
    assert not file.exists
    made = file.read_or_create("RS256", NOW)
    assert [record.key.algorithm for record in made.records] == ["RS256", "RS256"]
    content = file.path.read_bytes()
    again = file.read_or_create("EdDSA", NOW + 1)
    assert [r.key.kid for r in again.records] == [r.key.kid for r in made.records]
    assert file.path.read_bytes() == content
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.path.parent.iterdir()] == [KEY_FILE_NAME]


def test_a_change_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    file.read_or_create("EdDSA", NOW)
    mark = file.mark()
    changed = file.change(lambda keys: keys.rotated("EdDSA", NOW, RETENTION, hurry=True))
    assert file.mark() != mark
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert states(file.read()) == states(changed)
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE_NAME]


def test_a_change_by_the_superuser_leaves_the_file_to_its_owner(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    file.read_or_create("EdDSA", NOW)
    # Only the superuser can give files away; others keep what is theirs.
    owner = 54321 if os.geteuid() == 0 else os.geteuid()
    os.chown(file.path, owner, -1)
    file.change(lambda keys: keys.with_next("EdDSA", NOW))
    assert file.path.stat().st_uid == owner
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_refused_change_leaves_everything_as_it_was(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    file.read_or_create("EdDSA", NOW)
    before = file.path.read_bytes(), file.mark()
    with pytest.raises(ConfigurationError, match="published"):
        file.change(lambda keys: keys.rotated("EdDSA", NOW, RETENTION))
    assert (file.path.read_bytes(), file.mark()) == before
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE_NAME]


def test_a_folder_without_keys_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No such file.*SARK_KEY_DIR"):
        KeyFile(tmp_path).read()


SECRET = "c2VjcmV0LW1hdGVyaWFs"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 10_000,
        b'{"version": 1, "keys": []}',
        b'{"version": 1, "keys": [{"state": "active"}]}',
        b'{"version": 2, "keys": []}',
        b'{"version": 1, "keys": [{"state": "active", "algorithm": "EdDSA", "created_at": 0, '
        b'"jwk": {"kty": "OKP", "crv": "Ed25519", "d": "%b", "x": "AA"}}]}' % SECRET.encode(),
        b'{"version": 1, "keys": [{"state": "active", "algorithm": "HS256", "created_at": 0, '
        b'"jwk": {"kty": "oct", "k": "%b"}}]}' % SECRET.encode(),
        b"x" * 300_000,
    ],
)
def test_an_unusable_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEY_FILE_NAME
    path.write_bytes(content)
    path.chmod(0o600)
    for read in (KeyFile(tmp_path).read, lambda: signing_keys(tmp_path)):
        with pytest.raises(ConfigurationError, match=KEY_FILE_NAME) as caught:
            read()
        assert SECRET not in f"{caught.value} {caught.value.__cause__}"
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_keys_that_others_can_use_are_refused(tmp_path: Path, mode: int) -> None:
    signing_keys(tmp_path)
    (tmp_path / KEY_FILE_NAME).chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}"):
        signing_keys(tmp_path)


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_is_not_followed(tmp_path: Path, target: str) -> None:
    signing_keys(tmp_path / "elsewhere")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / KEY_FILE_NAME).symlink_to(tmp_path / target / KEY_FILE_NAME)
    with pytest.raises(ConfigurationError, match="SARK_KEY_DIR"):
        signing_keys(tmp_path / "keys")
    assert not (tmp_path / "nowhere").exists()


# Several processes


@dataclass(frozen=True)
class FirstStart:
    directory: Path

    def __call__(self, number: int) -> tuple[str, ...]:
        directory = self.directory / str(number // 6)
        keys = KeyFile(directory).read_or_create("EdDSA", NOW)
        return tuple(record.key.kid for record in keys.records)


def test_many_first_starts_at_once_agree(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    found = list(pool.map(FirstStart(tmp_path), range(48)))
    for start in range(0, 48, 6):
        assert len(set(found[start : start + 6])) == 1
    assert len(set(found)) == 8


@dataclass(frozen=True)
class Rotate:
    directory: Path

    def __call__(self, _: int) -> str:
        changed = KeyFile(self.directory).change(
            lambda keys: keys.rotated("EdDSA", NOW, RETENTION, hurry=True)
        )
        return changed.active.key.kid


def test_rotations_at_once_come_one_after_the_other(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    KeyFile(tmp_path).read_or_create("EdDSA", NOW)
    active = list(pool.map(Rotate(tmp_path), range(30)))
    keys = KeyFile(tmp_path).read()
    assert len(set(active)) == 30
    assert states(keys) == ["active", "next"] + ["retired"] * 30
    assert len({record.key.kid for record in keys.records}) == 32


@dataclass(frozen=True)
class Issue:
    """What another process does that starts after the rotation."""

    directory: Path

    def __call__(self, _: int) -> str:
        return access_tokens(signing_keys(self.directory)).issue(claims())


async def test_a_running_process_verifies_what_others_sign_with_the_next_key(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    tokens = access_tokens(signing_keys(tmp_path))
    before = tokens.issue(claims())
    pool.submit(Rotate(tmp_path), 0).result()
    token = pool.submit(Issue(tmp_path), 0).result()
    assert token != before
    # It hasn't noticed the rotation: nobody has looked at the file.
    assert await tokens.verify(token) == await tokens.verify(before) == claims()
    assert tokens.issue(claims()) == before


async def test_an_unknown_key_makes_a_process_look(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    tokens = access_tokens(signing_keys(tmp_path))
    before = tokens.issue(claims())
    for _ in range(3):
        pool.submit(Rotate(tmp_path), 0).result()
    token = pool.submit(Issue(tmp_path), 0).result()
    assert await tokens.verify(token) == claims()
    assert await tokens.verify(before) == claims()
    assert tokens.issue(claims()) == token


async def test_many_tokens_of_an_unknown_key_at_once(tmp_path: Path) -> None:
    tokens = access_tokens(signing_keys(tmp_path))
    KeyFile(tmp_path).change(lambda _: KeySet.first("EdDSA", NOW))
    other = access_tokens(signing_keys(tmp_path))
    written = [claims(jti=f"token-{number}") for number in range(50)]
    issued = [other.issue(each) for each in written]
    assert await asyncio.gather(*map(tokens.verify, issued)) == written


async def test_unknown_keys_cost_one_look_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = signing_keys(tmp_path)
    looks = 0

    def counted() -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(signing_keys_module, "LOOK_SECONDS", 1000.0)
    monkeypatch.setattr(keys._file, "mark", counted)
    monkeypatch.setattr(keys, "_mark", None)
    for number in range(100):
        with pytest.raises(TokenError):
            await keys.find(f"made-up-{number}")
    assert looks == 1


async def test_a_rotation_is_noticed_without_a_request(tmp_path: Path) -> None:
    hub, told = Hub(), list[Event]()
    hub.on(SigningKeysChanged, told.append)
    keys = signing_keys(tmp_path, hub=hub)
    watching = asyncio.create_task(keys.watch(0.01))
    try:
        kid = Rotate(tmp_path)(0)
        await until(lambda: keys.active.kid == kid, within=10, what="the rotation is noticed")
        assert told == [SigningKeysChanged(kid, 3)]
        assert published(keys.jwks())[0] == kid
    finally:
        await cancel(watching)


async def test_the_first_start_is_no_change(tmp_path: Path) -> None:
    hub, told = Hub(), list[Event]()
    hub.on(SigningKeysChanged, told.append)
    keys = signing_keys(tmp_path, hub=hub)
    path = tmp_path / KEY_FILE_NAME
    await keys.look()
    path.touch()
    await keys.look()
    assert (told, keys.version) == ([], 1)


async def test_unusable_keys_leave_the_known_ones_in_force(tmp_path: Path) -> None:
    hub, told = Hub(), list[SigningKeysRefused]()
    hub.on(SigningKeysRefused, told.append)
    keys = signing_keys(tmp_path, hub=hub)
    tokens, path = access_tokens(keys), tmp_path / KEY_FILE_NAME
    token, content = tokens.issue(claims()), path.read_bytes()
    for breakage in (lambda: path.write_bytes(b"{"), path.unlink):
        breakage()
        await keys.look()
        await keys.look()
        assert await tokens.verify(token) == claims()
        assert tokens.issue(claims()) == token
    assert len(told) == 2
    path.write_bytes(content)
    path.chmod(0o600)
    await keys.look()
    assert len(told) == 2
    assert keys.active.kid == KeyFile(tmp_path).read().active.key.kid


# What becomes of tokens


async def test_a_retired_key_verifies_until_its_last_token_has_expired(tmp_path: Path) -> None:
    clock = Clock()
    keys = signing_keys(tmp_path, clock=clock)
    tokens = access_tokens(keys, clock=clock)
    old = keys.active.kid
    Rotate(tmp_path)(0)  # at NOW
    late = tokens.issue(claims(issued_at=NOW + 50, expires_at=NOW + 50 + TTL))
    await keys.look()
    clock.now = NOW + 50 + TTL + LEEWAY - 1
    assert await tokens.verify(late)
    assert old in published(keys.jwks())
    clock.now = NOW + RETENTION
    assert old not in published(keys.jwks())


async def test_a_key_past_its_time_verifies_nothing_however_long_the_token(tmp_path: Path) -> None:
    clock = Clock()
    keys = signing_keys(tmp_path, clock=clock)
    tokens = access_tokens(keys, clock=clock)
    endless = tokens.issue(claims(expires_at=NOW + 10**8))
    Rotate(tmp_path)(0)
    await keys.look()
    clock.now = NOW + RETENTION - 1
    assert await tokens.verify(endless)
    assert await tokens.verify(endless)
    assert tokens.hits == 1
    clock.now = NOW + RETENTION
    for _ in range(2):
        with pytest.raises(TokenError) as caught:
            await tokens.verify(endless)
        assert caught.value.code == "unknown_key"


async def test_a_dropped_key_takes_what_it_verified_with_it(tmp_path: Path) -> None:
    keys = signing_keys(tmp_path)
    tokens = access_tokens(keys)
    token = tokens.issue(claims())
    await tokens.verify(token)
    KeyFile(tmp_path).change(lambda _: KeySet.first("EdDSA", NOW))
    await keys.look()
    with pytest.raises(TokenError) as caught:
        await tokens.verify(token)
    assert caught.value.code == "unknown_key"
    assert await tokens.verify(tokens.issue(claims())) == claims()


async def test_another_algorithm_after_a_rotation(tmp_path: Path) -> None:
    keys = signing_keys(tmp_path)
    tokens = access_tokens(keys)
    first = tokens.issue(claims())
    file = KeyFile(tmp_path)
    file.change(lambda known: known.with_next("RS256", NOW))
    file.change(lambda known: known.rotated("RS256", NOW, RETENTION, hurry=True))
    await keys.look()
    second = tokens.issue(claims())
    assert keys.active.algorithm == "RS256"
    assert await tokens.verify(first) == await tokens.verify(second) == claims()


async def test_verifiers_that_share_their_keys_all_forget(tmp_path: Path) -> None:
    keys = signing_keys(tmp_path)
    sharing = [access_tokens(keys) for _ in range(3)]
    token = sharing[0].issue(claims())
    for tokens in sharing:
        await tokens.verify(token)
    KeyFile(tmp_path).change(lambda _: KeySet.first("EdDSA", NOW))
    await keys.look()
    for tokens in sharing:
        with pytest.raises(TokenError):
            await tokens.verify(token)


def test_the_published_keys_hold_nothing_secret(tmp_path: Path) -> None:
    keys = signing_keys(tmp_path, algorithm="RS256")
    document = msgspec.json.decode(keys.jwks())
    assert [set(key) for key in document["keys"]] == [{"kty", "n", "e", "kid", "alg", "use"}] * 2
    record = KeySet.first("EdDSA", NOW).active
    assert record.key.private_jwk()["d"] not in repr(replace(record, state="retired"))
