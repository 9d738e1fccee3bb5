"""How many decisions Valkey holds and how big they are, from a bounded sample."""

from __future__ import annotations

from typing import Literal

import msgspec

from sark.errors import StoreError
from sark.ops.key_sample import average_bytes, sample_keys
from sark.store import Server

__all__ = ["StoredDecisions", "sample_decisions", "sample_key_forms"]

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
        sample = await sample_keys(server)
        found = sample.of(DECISIONS)
        average = await average_bytes(server, found)
    except StoreError:
        return None
    return StoredDecisions(
        sample.estimate(len(found)), not sample.complete, len(sample.keys), average
    )


async def sample_key_forms(server: Server) -> set[Literal["full", "compact"]]:
    """Tell the forms of the decisions' keys, as ``SARK_CACHE_KEY`` names them; of a sample.

    Raises:
        StoreError: The server does not answer.
    """
    sample = await sample_keys(server)
    lengths = {len(key.rpartition(b":")[2]) for key in sample.of(DECISIONS)}
    return {"full" if length == FULL_DIGITS else "compact" for length in lengths}
