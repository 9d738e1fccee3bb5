"""What Valkey holds, from a bounded sample of its keys.

``SCAN`` walks the keyspace in the order of hashes, so its first steps are a fair sample of it.
The number of steps is bounded, whatever the number of keys; what was not seen is extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sark.keyspace import classify
from sark.store import Server

__all__ = ["KeySample", "average_bytes", "sample_keys"]

STEPS = 20
KEYS_PER_STEP = 500
MEASURED_KEYS = 100


@dataclass(frozen=True, slots=True)
class KeySample:
    """Keys of a server.

    Attributes:
        keys: Those that were met, of any kind.
        complete: Whether these are all.
        total: How many there are.
    """

    keys: list[bytes]
    complete: bool
    total: int

    def of(self, *names: str) -> list[bytes]:
        """Pick the keys of some rows of the keyspace."""
        rows = ((key, classify(key)) for key in self.keys)
        return [key for key, row in rows if row is not None and row.name in names]

    def estimate(self, found: int) -> int:
        """Tell how many keys there are of a kind of which so many were found."""
        if self.complete or not self.keys:
            return found
        return round(self.total * found / len(self.keys))


async def sample_keys(server: Server) -> KeySample:
    """Walk a bounded way.

    Raises:
        StoreError: The server did not answer.
    """
    keys: set[bytes] = set()
    cursor: Any = b"0"
    for _ in range(STEPS):
        cursor, found = await server.execute(
            "SCAN", cursor, "COUNT", KEYS_PER_STEP, idempotent=True
        )
        keys.update(found)
        if int(cursor) == 0:
            return KeySample(list(keys), complete=True, total=len(keys))
    total: int = await server.execute("DBSIZE", idempotent=True)
    return KeySample(list(keys), complete=False, total=total)


async def average_bytes(server: Server, keys: list[bytes]) -> float | None:
    """Measure the memory of some keys with their values, the first hundred; None without any.

    Raises:
        StoreError: The server did not answer.
    """
    if not keys:
        return None
    commands = [("MEMORY", "USAGE", key) for key in keys[:MEASURED_KEYS]]
    replies, _ = await server.exchange(commands, idempotent=True)
    sizes = [size for size in replies if size is not None]  # a key may have expired meanwhile
    return sum(sizes) / len(sizes) if sizes else None
