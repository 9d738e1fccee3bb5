"""The account as a sum, and the rates between two readings of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from sark.siem import Booked, QueueBounds, SinkStatus
from sark.siem.rates import Rates, rates_between

BOUNDS = QueueBounds(events=100, bytes=10_000)
LINES = (
    "accepted",
    "duplicates",
    "delivered",
    "failed",
    "queued",
    "in_flight",
    "dropped",
    "purged",
)


def status(**lines: int) -> SinkStatus:
    """Make an account whose events have ten bytes each."""
    booked: dict[str, Any] = {
        name: Booked(lines.get(name, 0), 10 * lines.get(name, 0)) for name in LINES
    }
    return SinkStatus(sink="main", leases=0, oldest_seconds=None, **booked)


def test_an_account_balances_when_every_event_is_somewhere() -> None:
    assert status().balanced
    full = {"accepted": 5, "duplicates": 10}
    places = dict(zip(LINES[2:], (1, 2, 3, 4, 2, 3), strict=True))
    balanced = status(**full, **places)
    assert balanced.balanced
    for name, unit in product(LINES, ("events", "bytes")):
        line = getattr(balanced, name)
        off = msgspec.structs.replace(line, **{unit: getattr(line, unit) + 1})
        assert not msgspec.structs.replace(balanced, **{name: off}).balanced


def test_a_queue_that_drains() -> None:
    before = status(accepted=60, queued=50, in_flight=10)
    after = status(accepted=80, queued=35, in_flight=5, delivered=38, failed=2)
    assert rates_between(before, after, 10, BOUNDS) == Rates(
        inflow=2.0, drain=4.0, seconds_to_empty=20.0, seconds_to_full=None
    )


def test_a_queue_that_fills() -> None:
    before = status(accepted=20, queued=10, in_flight=10)
    after = status(accepted=70, duplicates=10, queued=60, in_flight=20)
    assert rates_between(before, after, 15, BOUNDS) == Rates(
        inflow=4.0, drain=0.0, seconds_to_empty=None, seconds_to_full=5.0
    )


def test_the_bound_of_bytes_may_come_first() -> None:
    before, after = status(), status(accepted=10, queued=10)
    assert (
        rates_between(before, after, 1, QueueBounds(events=100, bytes=150)).seconds_to_full == 0.5
    )


@pytest.mark.parametrize(
    ("queued", "to_empty", "to_full"), [(0, 0.0, None), (100, None, 0.0), (7, None, None)]
)
def test_a_queue_that_rests(queued: int, to_empty: float | None, to_full: float | None) -> None:
    still = status(accepted=queued, queued=queued)
    assert rates_between(still, still, 5, BOUNDS) == Rates(0.0, 0.0, to_empty, to_full)


def test_purged_dead_letters_are_no_negative_drain() -> None:
    before = status(accepted=9, failed=9)
    after = status(accepted=9, purged=9)
    assert rates_between(before, after, 1, BOUNDS).drain == 0.0
