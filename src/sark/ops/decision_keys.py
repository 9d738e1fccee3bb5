"""How many decisions Valkey holds and how big they are, from a bounded sample."""

from __future__ import annotations

import msgspec

from sark.errors import StoreError
from sark.ops.key_sample import average_bytes, sample_keys
from sark.store import Server

__all__ = ["StoredDecisions", "sample_decisions"]

DECISIONS = "policy_decision"


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
