"""The account of a spill store."""

from __future__ import annotations

import msgspec

__all__ = ["SpillStatus"]


class SpillStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one sink's spilled events: spilled = waiting + replayed + dropped + forgotten.

    That holds for the events and for the bytes of their JSON.

    Attributes:
        spilled: Events that were ever kept.
        spilled_bytes: Their size.
        replayed: Events that the queue took.
        replayed_bytes: Their size.
        dropped: Events that gave way to newer ones.
        dropped_bytes: Their size.
        forgotten: Copies whose originals the queue turned out to have.
        forgotten_bytes: Their size.
        waiting: Events that are here now.
        waiting_bytes: Their size.
        oldest: When the oldest of them was put here, in seconds since the epoch; None without any.
    """

    spilled: int = 0
    spilled_bytes: int = 0
    replayed: int = 0
    replayed_bytes: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    forgotten: int = 0
    forgotten_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    oldest: float | None = None

    def __add__(self, other: SpillStatus) -> SpillStatus:
        """Put the accounts of two stores together."""
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__struct_fields__
            if name != "oldest"
        }
        times = [time for time in (self.oldest, other.oldest) if time is not None]
        return SpillStatus(**sums, oldest=min(times, default=None))
