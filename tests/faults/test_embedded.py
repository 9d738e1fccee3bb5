"""The embedded server when its parent, its watchdog or the server itself comes to a bad end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import valkey
from valkey.asyncio import Valkey

from sark.errors import ConfigurationError
from sark.store.datadir import DataDir, read_run_file
from sark.store.embedded import EmbeddedServer, process
from tests.support.polling import until, until_sync
from tests.support.processes import group_members, is_gone, parent_of

GONE_SECONDS = 15.0

# Starts a server, tells its pid and URL, and then does what the test wants.
SERVICE = """
import asyncio, multiprocessing, os, pathlib, signal, sys, threading, time
from sark.store.datadir import DataDir
from sark.store.embedded import EmbeddedServer

async def serve(ephemeral=False):
    server = EmbeddedServer(pathlib.Path(sys.argv[1]), ephemeral=ephemeral)
    await server.start()
    print(server.pid, server.url, flush=True)
    return server

async def serve_for_ever(ephemeral=False):
    await serve(ephemeral)
    await asyncio.Event().wait()

"""


@contextmanager
def service(directory: Path, body: str, tmpdir: Path | None = None) -> Iterator[Service]:
    """Run a process that starts an embedded server, as a service would."""
    environment = {**os.environ, "TMPDIR": str(tmpdir or directory.parent)}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVICE + body, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        # A process group to send Ctrl-C to, without the test.
        process_group=0,
    ) as process:
        try:
            assert process.stdout is not None
            pid, url = process.stdout.readline().decode().split()
            yield Service(process, int(pid), url)
        finally:
            process.kill()


class Service:
    def __init__(self, process: subprocess.Popen[bytes], server_pid: int, url: str) -> None:
        self.process = process
        self.server_pid = server_pid
        self.url = url

    def proceed(self) -> None:
        """Let the process go on from where it reads its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()


def await_gone(pid: int) -> None:
    until_sync(lambda: is_gone(pid), within=GONE_SECONDS, what=f"valkey-server {pid} is gone")


def answers(url: str) -> bool:
    with valkey.Valkey.from_url(url, socket_timeout=5.0) as client:
        return bool(client.ping())


def listing(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def runs(server: EmbeddedServer) -> bool:
    """Ask anew; a type checker would take a property's first answer for all."""
    return server.running


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="kill -9"),
        pytest.param("raise RuntimeError('unhandled')", id="unhandled exception"),
        pytest.param("os._exit(3)", id="exit without clean-up"),
        pytest.param("pass", id="ordinary exit"),
    ],
)
def test_it_dies_with_its_parent(tmp_path: Path, ending: str) -> None:
    with service(tmp_path, f"asyncio.run(serve()); sys.stdin.read(); {ending}") as running:
        group = parent_of(running.server_pid)
        assert answers(running.url)
        running.proceed()
        await_gone(running.server_pid)
        until_sync(
            lambda: group_members(group) == [], within=GONE_SECONDS, what="the watchdog is gone"
        )


def test_it_dies_with_its_parent_while_the_loop_runs(tmp_path: Path) -> None:
    with service(tmp_path, "asyncio.run(serve_for_ever())") as running:
        assert answers(running.url)
        running.process.kill()
        await_gone(running.server_pid)


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    body = """
fork = multiprocessing.get_context("fork")
pause = fork.Event()
asyncio.run(serve())
child = fork.Process(target=pause.wait, args=(60,))
child.start()
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
    with service(tmp_path, body) as running:
        try:
            running.proceed()
            await_gone(running.server_pid)
        finally:
            # The child shares the group of its killed parent.
            os.killpg(running.process.pid, signal.SIGKILL)


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    body = """
thread = threading.Thread(target=lambda: asyncio.run(serve()))
thread.start(); thread.join()
sys.stdin.read()
"""
    with service(tmp_path, body) as running:
        assert answers(running.url)
        # The thread has ended for sure once its process reads; a signal on its end would be there.
        assert not is_gone(running.server_pid)
        running.proceed()
        await_gone(running.server_pid)


def test_ctrl_c_reaches_the_service_only(tmp_path: Path) -> None:
    body = """
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
asyncio.run(serve()); sys.stdin.read()
"""
    with service(tmp_path, body) as running:
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == b"interrupted\n"
        assert answers(running.url)
        log = (tmp_path / "valkey.log").read_text()
        assert "Received" not in log
        running.proceed()
        await_gone(running.server_pid)


@pytest.mark.parametrize("ephemeral", [True, False])
def test_temporary_directories_go_with_a_killed_parent(tmp_path: Path, ephemeral: bool) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    directory = tmp_path / ("d" * 110)
    body = f"asyncio.run(serve_for_ever(ephemeral={ephemeral}))"
    with service(directory, body, temporary) as running:
        assert len(listing(temporary)) == 1
        running.process.kill()
        await_gone(running.server_pid)
        until_sync(
            lambda: listing(temporary) == [], within=GONE_SECONDS, what="the directory is gone"
        )


async def test_a_successor_waits_for_a_server_that_is_still_ending(tmp_path: Path) -> None:
    with service(tmp_path, "asyncio.run(serve_for_ever())") as running:
        with valkey.Valkey.from_url(running.url) as client:
            for number in range(200):
                client.rpush("kept", number)
        running.process.kill()
        async with EmbeddedServer(tmp_path) as server:
            assert is_gone(running.server_pid)
            async with Valkey.from_url(server.url) as client_of_successor:
                assert await client_of_successor.llen("kept") == 200


async def test_a_server_that_hangs_is_killed_with_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "import sark.store.embedded.process as e; e.STOP_SECONDS = 1; asyncio.run(serve_for_ever())"
    )
    with service(tmp_path, body) as running:
        os.kill(running.server_pid, signal.SIGSTOP)
        running.process.kill()
        await until(
            lambda: is_gone(running.server_pid), within=GONE_SECONDS, what="the server is killed"
        )


async def test_a_server_that_hangs_is_killed_at_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 1)
    server = EmbeddedServer(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert is_gone(pid)


async def test_a_server_that_died_is_noticed_and_can_start_again(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    async with server:
        async with Valkey.from_url(server.url) as client:
            await client.set("kept", "value")
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not runs(server), within=GONE_SECONDS, what="the death is noticed")
        assert server.pid is None
        await server.start()
        async with Valkey.from_url(server.url) as client:
            assert await client.get("kept") == b"value"
        assert server.pid != pid


async def test_a_killed_watchdog_does_not_leave_the_server_behind(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(parent_of(pid), signal.SIGKILL)
    await until(lambda: not runs(server), within=GONE_SECONDS, what="the loss is noticed")
    assert not is_gone(pid)
    await server.stop()
    assert is_gone(pid)


def test_parent_and_watchdog_killed_together(tmp_path: Path) -> None:
    with service(tmp_path, "asyncio.run(serve_for_ever())") as running:
        os.kill(parent_of(running.server_pid), signal.SIGKILL)
        running.process.kill()
        await_gone(running.server_pid)


def test_a_killed_service_leaves_a_run_file_that_counts_for_nothing(tmp_path: Path) -> None:
    body = """
with DataDir(pathlib.Path(sys.argv[1])) as data:
    data.write_run_file(valkey_url="unix:///s", admin_token="secret")
    asyncio.run(serve_for_ever())
"""
    with service(tmp_path, body) as running:
        run = read_run_file(tmp_path)
        assert run is not None
        assert run.pid == running.process.pid
        with pytest.raises(ConfigurationError, match=f"pid {run.pid}"), DataDir(tmp_path):
            pass
        running.process.kill()
        until_sync(
            lambda: read_run_file(tmp_path) is None, within=GONE_SECONDS, what="the file is stale"
        )
        assert (tmp_path / "run.json").exists()
        running.process.wait()
        with DataDir(tmp_path):
            assert not (tmp_path / "run.json").exists()


@pytest.mark.heavy
async def test_services_that_start_and_die_at_once_leave_no_process(tmp_path: Path) -> None:
    """A parent that dies at any moment of the start takes everything with it."""
    program = SERVICE + "asyncio.run(serve_for_ever())"
    for moment in range(8):
        directory = tmp_path / str(moment)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(directory), stdout=subprocess.DEVNULL
        )
        config = directory / "valkey" / "valkey.conf"
        await until(config.exists, within=GONE_SECONDS, what="the start begins")
        await asyncio.sleep(moment / 200)
        process.kill()
        await process.wait()
        # The lock is free when neither server nor watchdog is left to hold it.
        async with EmbeddedServer(directory) as server:
            assert runs(server)
