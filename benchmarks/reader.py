"""A process that decides from its near cache: ``python -m benchmarks.reader``.

It reads one JSON object per line. The first says what to ask, each further one is an order to tell,
and to forget, what happened since the last.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks.workload import POLICIES
from sark import Runtime, Settings, open_runtime
from sark.events import Enforced, NearCacheChanged
from sark.policy import Question

__all__ = ["Happened", "ReaderTask"]

BURST = 10
PAUSE_SECONDS = 0.005
READY_SECONDS = 20.0
LINE_BYTES = 2**24


class ReaderTask(msgspec.Struct, frozen=True):
    """What to do.

    Attributes:
        url: The server, with its password.
        key_dir: Folder of the shared keys.
        directory: For data of its own.
        asked: Arguments of the questions, asked in turn.
    """

    url: str
    key_dir: str
    directory: str
    asked: list[tuple[str, str, str, str, dict[str, Any]]]


class Happened(msgspec.Struct, frozen=True):
    """What happened.

    Attributes:
        seconds: Of each invalidation, from the server's write until it was enforced here.
        near: Decisions from the near cache.
        other: Decisions from elsewhere.
        stepped_aside: How often the near cache stopped serving.
    """

    seconds: list[float]
    near: int
    other: int
    stepped_aside: int


class _Reader:
    def __init__(self, runtime: Runtime, task: ReaderTask) -> None:
        self._runtime = runtime
        self._asked = task.asked
        self._forget()
        runtime.hub.on(Enforced, lambda event: self._seconds.append(event.seconds))
        runtime.hub.on(NearCacheChanged, self._changed)

    def _forget(self) -> None:
        self._seconds: list[float] = []
        self._near = self._other = self._stepped_aside = 0

    def _changed(self, event: NearCacheChanged) -> None:
        self._stepped_aside += not event.serving

    def tell(self) -> Happened:
        happened = Happened(self._seconds, self._near, self._other, self._stepped_aside)
        self._forget()
        return happened

    async def ready(self) -> None:
        """Wait until the near cache serves and knows the server's clock."""
        near = self._runtime.gateway.decisions.near
        assert near is not None  # noqa: S101 - it was opened with one
        async with asyncio.timeout(READY_SECONDS):
            while not near.serving:  # noqa: ASYNC110 - it tells nobody else
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)

    async def ask_forever(self) -> None:
        decide, number = self._runtime.gateway.decisions.decide, 0
        while True:
            for _ in range(BURST):
                outcome = await decide(Question.ask(*self._asked[number % len(self._asked)]))
                number += 1
                if outcome.source == "near":
                    self._near += 1
                else:
                    self._other += 1
            await asyncio.sleep(PAUSE_SECONDS)


async def _main() -> None:
    lines = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    task = msgspec.json.decode(await lines.readline(), type=ReaderTask)
    settings = Settings.model_validate(
        {
            "VALKEY_URL": task.url,
            "SARK_KEY_DIR": Path(task.key_dir),
            "SARK_DATA_DIR": Path(task.directory),
            "SARK_POLICY_DIR": POLICIES,
        }
    )
    async with open_runtime(settings) as runtime:
        reader = _Reader(runtime, task)
        await reader.ready()
        asking = asyncio.create_task(reader.ask_forever())
        _answer(reader.tell())
        async for _ in lines:
            if asking.done():
                break
            _answer(reader.tell())
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def _answer(happened: Happened) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(happened) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_main())
