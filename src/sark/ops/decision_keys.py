"""How many decisions Valkey holds and how big they are, from a bounded sample.

``SCAN`` walks the keyspace in the order of hashes, so its first steps are a fair sample of it.
The number of steps is bounded, whatever the number of keys; what was not seen is extrapolated.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sark.errors import StoreError
from sark.keyspace import classify
from sark.store import Server

__all__ = ["StoredDecisions", "sample_decisions", "sample_key_forms"]

STEPS = 20
KEYS_PER_STEP = 500
MEASURED_KEYS = 100
DECISIONS = "policy_decision"
FULL_DIGITS = 64


class StoredDecisions(msgspec.Struct, frozen=True):
    """Decisions on the server that caches them.

    Attributes:
        decisions: How many there are.
        estimated: Whether that number is extrapolated from ``sampled_keys``.
        sampled_keys: Keys of any kind that were looked at.
        average_bytes: Memory of one decision with its key, the mean of up to a hundred.
    """

    decisions: int
    estimated: bool
    sampled_keys: int
    average_bytes: float | None


async def sample_decisions(server: Server) -> StoredDecisions | None:
    """Estimate; None when the server does not answer."""
    try:
        keys, complete = await _sample(server)
        found = [key for key in keys if _is_decision(key)]
        count = len(found)
        if not complete and keys:
            total = await server.execute("DBSIZE", idempotent=True)
            count = round(total * len(found) / len(keys))
        average = await _average_bytes(server, found[:MEASURED_KEYS])
    except StoreError:
        return None
    return StoredDecisions(count, not complete, len(keys), average)


async def sample_key_forms(server: Server) -> set[Literal["full", "compact"]]:
    """Tell the forms of the decisions' keys, as ``SARK_CACHE_KEY`` names them; of a sample.

    Raises:
        StoreError: The server does not answer.
    """
    keys, _ = await _sample(server)
    lengths = {len(key.rpartition(b":")[2]) for key in keys if _is_decision(key)}
    return {"full" if length == FULL_DIGITS else "compact" for length in lengths}


async def _sample(server: Server) -> tuple[list[bytes], bool]:
    """Walk a bounded way; the keys met, and whether these are all."""
    keys: set[bytes] = set()
    cursor: Any = b"0"
    for _ in range(STEPS):
        cursor, found = await server.execute(
            "SCAN", cursor, "COUNT", KEYS_PER_STEP, idempotent=True
        )
        keys.update(found)
        if int(cursor) == 0:
            return list(keys), True
    return list(keys), False


async def _average_bytes(server: Server, keys: list[bytes]) -> float | None:
    if not keys:
        return None
    commands = [("MEMORY", "USAGE", key) for key in keys]
    replies, _ = await server.exchange(commands, idempotent=True)
    sizes = [size for size in replies if size is not None]  # a key may have expired meanwhile
    return sum(sizes) / len(sizes) if sizes else None


def _is_decision(key: bytes) -> bool:
    row = classify(key)
    return row is not None and row.name == DECISIONS
