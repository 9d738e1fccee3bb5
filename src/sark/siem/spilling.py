"""What the queue expects of the store that takes the events which Valkey does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count
from typing import NamedTuple, Protocol

__all__ = ["SpillRow", "SpillStore", "next_key"]

_keys = count(1)


def next_key() -> int:
    """Number a row; no two in this process have the same."""
    return next(_keys)


class SpillRow(NamedTuple):
    """One event of one sink that waits outside Valkey.

    Attributes:
        sink: Whose queue it belongs in.
        event: Its JSON.
        copy: Whether it may be in that queue as well; it is then booked as a duplicate.
        key: Names the row; unique in this process.
    """

    sink: str
    event: bytes
    copy: bool
    key: int


class SpillStore(Protocol):
    """Keeps events until their queues take them, in order, sink by sink."""

    def waits(self, sink: str) -> bool:
        """Whether something of this sink waits here: new events then go behind it."""
        ...

    def has_room(self) -> bool:
        """Whether it would take an ordinary event now; others may take that room first."""
        ...

    async def put(self, rows: Sequence[SpillRow]) -> None:
        """Keep rows, all or none; returns when they are safe.

        Raises:
            QueueFullError: There is no room for all of them.
            AuditError: They cannot be written.
        """
        ...

    async def forget(self, ids: Collection[int]) -> None:
        """Drop rows by key, as far as they still wait: their events are in the queue."""
        ...
