"""Applications of other people, served by uvicorn: in this process, or in several of their own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from tests.support.polling import until
from tests.support.service import CHECKOUT, environment

__all__ = ["served", "served_by_processes"]

START_SECONDS = 20.0
STOP_SECONDS = 20.0


def _config(app: ASGIApp | str) -> uvicorn.Config:
    return uvicorn.Config(
        app, http="httptools", proxy_headers=False, log_config=None, access_log=False
    )


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an application, with its lifespan; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(_config(app))
    task = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        await until(
            lambda: server.started or task.done(), within=START_SECONDS, what="the app starts"
        )
        assert server.started, "the application did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@contextmanager
def served_by_processes(app: str, count: int, **settings: str) -> Iterator[list[str]]:
    """Serve ``module:app`` by processes of their own, with settings; gives their addresses.

    A request waits until its process has started.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_process(app, settings)) for _ in range(count)]


@contextmanager
def _process(app: str, settings: dict[str, str]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.applications", app, str(listener.fileno())],
            cwd=CHECKOUT,
            env=environment(**settings),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


if __name__ == "__main__":
    _, application, descriptor = sys.argv
    uvicorn.Server(_config(application)).run(sockets=[socket.socket(fileno=int(descriptor))])
