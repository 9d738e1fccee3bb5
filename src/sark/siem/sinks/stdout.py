"""Writes events to the standard output, one JSON object or one line of CEF a line.

Whoever reads a pipe may stop reading, and a write to a full one would block for good. So each piece
is written only when there is room for it, and is small enough to fit then: up to ``PIPE_BUF`` bytes
a pipe takes all or nothing, which also keeps the lines of several processes apart.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Sequence
from time import monotonic

from sark.errors import SinkError
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.blocking import OneAtATime
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.verdict import Delivered, Partly, Unavailable, Verdict

__all__ = ["SINK", "StdoutSink"]

STDOUT = 1
LIMITS = SinkLimits(events=10_000, bytes=16 * 2**20, event_bytes=16 * 2**20)
# The thread gives up first, so that it is free for the next batch.
MARGIN_SECONDS = 0.5


class StdoutSink:
    """Writes events to a descriptor. An event counts as delivered when the kernel has its line.

    Args:
        timeout: Longest wait for whoever reads, in seconds.
        descriptor: Where to write; stays open.
    """

    def __init__(self, *, timeout: float = 10.0, descriptor: int = STDOUT) -> None:
        self.limits = LIMITS
        self._timeout = timeout
        self._descriptor = descriptor
        self._is_torn = False
        self._thread = OneAtATime("sark-stdout-sink")

    async def open(self) -> None:
        """Look whether there is a standard output.

        Raises:
            SinkError: It is closed.
        """
        try:
            os.fstat(self._descriptor)
        except OSError:
            raise SinkError("the standard output is closed") from None

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Write events."""
        lines = [entry.body + b"\n" for entry in entries]
        try:
            return await self._thread.run(
                lambda: self._write(lines), timeout=self._timeout + MARGIN_SECONDS
            )
        except TimeoutError:
            return Unavailable("nobody reads it")

    async def close(self) -> None:
        """Let go of the thread."""
        self._thread.close()

    def _write(self, lines: Sequence[bytes]) -> Verdict:
        deadline = monotonic() + self._timeout
        done = 0
        try:
            if self._is_torn:
                self._write_piece(b"\n", deadline)
            for count, piece in _pieces(lines):
                self._write_piece(piece, deadline)
                done += count
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            if done == 0:
                return Unavailable(reason)
            return Partly(retry=frozenset(range(done, len(lines))), reason=reason)
        return Delivered()

    def _write_piece(self, piece: bytes, deadline: float) -> None:
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while piece:
            left = deadline - monotonic()
            if left <= 0 or not room.poll(left * 1000):
                raise TimeoutError("nobody reads it")
            written = os.write(self._descriptor, piece)
            self._is_torn = not piece[:written].endswith(b"\n")
            piece = piece[written:]


def _pieces(lines: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cut lines into pieces that fit; with each, how many lines end in it.

    Whole lines together where they are short, and parts of one where it is long: only the last of
    these counts.
    """
    piece, count = b"", 0
    for line in lines:
        if count and len(piece) + len(line) > select.PIPE_BUF:
            yield count, piece
            piece, count = b"", 0
        piece, count = piece + line, count + 1
        while len(piece) > select.PIPE_BUF:
            yield 0, piece[: select.PIPE_BUF]
            piece = piece[select.PIPE_BUF :]
    if count:
        yield count, piece


def _make(plan: SinkPlan) -> StdoutSink:
    return StdoutSink(timeout=plan.common.timeout)


SINK = SinkKind(
    schemes=("stdout",),
    formats=("sark", "ocsf", "ecs", "cef"),
    make=_make,
    needs_host=False,
    credential="none",
)
