"""The key on disk: made once, whoever comes first, and read by its owner only."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sark.errors import ConfigurationError
from sark.keyring import KEY_BYTES, mac_key
from tests.support.gateways import processes

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="modes do not stop the superuser")


def read_together(directory: Path) -> bytes:
    """Read the key at about the moment at which the other processes do."""
    return mac_key(directory)


def test_a_missing_key_is_made_and_then_stays(tmp_path: Path) -> None:
    directory = tmp_path / "some" / "keys"
    key = mac_key(directory)
    assert len(key) == KEY_BYTES
    assert mac_key(directory) == key
    assert mac_key(tmp_path / "others") != key
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "mac.key").stat().st_mode) == 0o600
    assert [path.name for path in directory.iterdir()] == ["mac.key"]


def test_the_modes_do_not_hang_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        mac_key(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys" / "mac.key").stat().st_mode) == 0o600


def test_many_first_starts_at_once_read_one_key(tmp_path: Path) -> None:
    with processes(3) as pool:
        # Warm, so that the processes meet at each folder.
        list(pool.map(read_together, [tmp_path / "warm"] * 8))
        for number in range(25):
            keys = set(pool.map(read_together, [tmp_path / str(number)] * 8))
            assert len(keys) == 1
            assert len(keys.pop()) == KEY_BYTES
            left = [path.name for path in (tmp_path / str(number)).iterdir()]
            assert left == ["mac.key"]


def test_many_threads_read_one_key(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def read(number: int) -> bytes:
        barrier.wait(10)
        return mac_key(tmp_path / str(number // 8))

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(read, range(400)))
    assert len(set(keys)) == 50


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660, 0o601])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    key = mac_key(tmp_path)
    (tmp_path / "mac.key").chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mac.key: mode {mode:04o}.*expected 0600") as got:
        mac_key(tmp_path)
    assert_no_secret(got.value, key)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 31, b"SECRET" * 10, b"x" * 100_000])
def test_a_file_of_another_length_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mac.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=f"expected {KEY_BYTES}") as got:
        mac_key(tmp_path)
    if content:
        assert_no_secret(got.value, content)
    assert path.read_bytes() == content


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_is_not_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x" * KEY_BYTES)
    (tmp_path / "elsewhere").chmod(0o600)
    directory = tmp_path / "keys"
    directory.mkdir()
    (directory / "mac.key").symlink_to(tmp_path / target)
    with pytest.raises(ConfigurationError, match="SARK_KEY_DIR"):
        mac_key(directory)
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_in_the_keys_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mac.key").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="SARK_KEY_DIR"):
        mac_key(tmp_path)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(ConfigurationError, match="SARK_KEY_DIR"):
        mac_key(tmp_path / "keys")


@needs_permissions
@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "keys"
    directory.mkdir()
    directory.chmod(mode)
    try:
        with pytest.raises(ConfigurationError, match="SARK_KEY_DIR"):
            mac_key(directory)
    finally:
        directory.chmod(0o700)


@needs_permissions
def test_a_key_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    mac_key(tmp_path)
    (tmp_path / "mac.key").chmod(0o200)
    with pytest.raises(ConfigurationError, match="SARK_KEY_DIR"):
        mac_key(tmp_path)


def assert_no_secret(error: BaseException, secret: bytes) -> None:
    """Check what would be shown of an error, with what caused it."""
    told = ""
    link: BaseException | None = error
    while link is not None:
        told += f"{link} {link.args!r}"
        link = link.__cause__ or link.__context__
    for form in (secret.hex(), secret.decode("latin-1"), repr(secret)[2:-1]):
        assert form not in told
