"""Delivering a batch: against any receiver, every event ends delivered or bad, as it deserves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.siem.forwarder.delivery import Again, Delivery, Stop
from sark.siem.sinks.base import SinkLimits
from sark.siem.sinks.verdict import (
    Delivered,
    Partly,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
    Verdict,
)

ROOMY = SinkLimits(events=1000, bytes=10**9, event_bytes=10**6)


def sent(delivery: Delivery) -> list[int]:
    """Give the part to send; there has to be one."""
    part = delivery.part
    assert part is not None
    return list(part)


@dataclass
class Receiver:
    """A receiver that knows what it will never take, and answers in any of the ways there are."""

    bad: frozenset[int]
    sizes: Sequence[int]
    most_bytes: int
    moods: list[str]
    took: list[int] = field(default_factory=list)

    def receive(self, part: Sequence[int]) -> Verdict:  # noqa: PLR0911 - one for each mood
        mood = self.moods.pop() if self.moods else "blames" if len(part) > 3 else "plain"
        match mood:
            case "down":
                return Unavailable("refused", after=None)
            case "busy":
                return Throttled("busy", after=1.0)
            case "locked":
                return Unauthorized("no")
            case "some" if len(part) > 1:
                return self._take_some(part)
        if len(part) > 1 and sum(self.sizes[p] for p in part) > self.most_bytes:
            return TooLarge("too large")
        blamed = [index for index, position in enumerate(part) if position in self.bad]
        if blamed and mood == "blames":
            self.took += [position for position in part if position not in self.bad]
            return Partly(bad=dict.fromkeys(blamed, "bad"))
        if blamed:
            # The first of them is the one to suspect, unless the receiver is wrong about it.
            suspect = {"plain": None, "points": blamed[0], "lies": 0}.get(mood)
            return Rejected("something is bad", suspect)
        self.took += part
        return Delivered(slow_down=mood == "slow")

    def _take_some(self, part: Sequence[int]) -> Verdict:
        """Take the events at even places, and ask for the others again."""
        bad = {i: "bad" for i, position in enumerate(part) if position in self.bad and not i % 2}
        self.took += [p for i, p in enumerate(part) if not i % 2 and i not in bad]
        return Partly(bad=bad, retry=frozenset(range(1, len(part), 2)), reason="later")


MOODS = st.sampled_from(
    ["down", "busy", "locked", "some", "blames", "plain", "slow", "points", "lies"]
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], Receiver, SinkLimits]:
    """Draw sizes, a receiver, and the limits that its sink knows."""
    sizes = draw(st.lists(st.integers(1, 100), min_size=1, max_size=40))
    bad = draw(st.frozensets(st.integers(0, len(sizes) - 1)))
    moods = draw(st.lists(MOODS, max_size=60))
    receiver = Receiver(bad, sizes, draw(st.integers(1, 2000)), moods)
    limits = SinkLimits(draw(st.integers(1, 50)), draw(st.integers(1, 2000)), event_bytes=100)
    return sizes, receiver, limits


@given(batches())
def test_every_event_ends_where_it_belongs(drawn: tuple[list[int], Receiver, SinkLimits]) -> None:
    sizes, receiver, limits = drawn
    delivery = Delivery(sizes, limits)
    settled: list[str] = []
    for _ in range(2000):
        part = delivery.part
        if part is None:
            break
        assert len(part) <= limits.events
        assert len(part) == 1 or sum(sizes[p] for p in part) <= limits.bytes
        before = delivery.unsettled()
        verdict = receiver.receive(part)
        step = delivery.answer(verdict)
        waits = isinstance(verdict, Throttled | Unavailable) or (
            isinstance(verdict, Partly) and bool(verdict.retry)
        )
        assert isinstance(step, Again) == waits
        assert isinstance(step, Stop) == isinstance(verdict, Unauthorized)
        if isinstance(verdict, Throttled | Unavailable | Unauthorized):
            # Whoever is down or locks us out decides nothing.
            assert delivery.unsettled() == before
            assert delivery.part == part
        settled += [outcome for outcome in delivery.unsettled() if outcome is not None]
        delivery.settled()
        assert None not in settled
    assert delivery.part is None
    assert delivery.unsettled() == []
    # None lost, none delivered twice, and bad are exactly those that the receiver calls bad.
    assert sorted(receiver.took) == [p for p in range(len(sizes)) if p not in receiver.bad]
    assert settled.count("") == len(receiver.took)
    assert len(settled) == len(sizes)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_isolating_bad_events_is_logarithmic(drawn: tuple[int, set[int]]) -> None:
    count, bad = drawn
    delivery = Delivery([1] * count, ROOMY)
    sendings = 0
    while (part := delivery.part) is not None:
        sendings += 1
        delivery.answer(Rejected("no") if bad & set(part) else Delivered())
    assert [position for position, outcome in enumerate(delivery.unsettled()) if outcome] == sorted(
        bad
    )
    assert sendings <= 1 + 2 * len(bad) * count.bit_length()


def test_a_hint_at_the_bad_event_spares_sendings() -> None:
    delivery = Delivery([1] * 1000, ROOMY)
    parts = []
    while (part := delivery.part) is not None:
        parts.append(len(part))
        delivery.answer(Rejected("no", part.index(700)) if 700 in part else Delivered())
    assert parts == [1000, 700, 1, 299]
    assert delivery.unsettled()[700] == "no"


def test_order_is_kept_while_the_receiver_keeps_its_side() -> None:
    delivery = Delivery([10] * 10, SinkLimits(events=4, bytes=10**6, event_bytes=10**6))
    order: list[int] = []
    verdicts: list[Verdict] = [
        Unavailable("down"),
        TooLarge("413"),
        Throttled("busy"),
        *[Delivered()] * 4,
    ]
    for verdict in verdicts:
        if verdict == Delivered():
            order += sent(delivery)
        delivery.answer(verdict)
    assert order == list(range(10))
    assert delivery.part is None


def test_what_is_decided_is_settled_at_once() -> None:
    delivery = Delivery([1] * 4, SinkLimits(events=2, bytes=100, event_bytes=100))
    delivery.answer(Delivered())
    assert delivery.unsettled() == ["", "", None, None]
    delivery.settled()
    assert delivery.unsettled() == [None, None]
    delivery.answer(Partly(bad={1: "no such field"}))
    assert delivery.unsettled() == ["", "no such field"]


def test_what_can_not_be_sent_is_bad_from_the_start() -> None:
    limits = SinkLimits(events=10, bytes=100, event_bytes=50)
    delivery = Delivery([10, 51, 10], limits, {0: "not JSON"})
    assert sent(delivery) == [2]
    assert delivery.unsettled() == [
        "not JSON",
        "the event has 51 bytes, the receiver takes 50",
        None,
    ]


def test_an_event_above_the_batch_limit_is_sent_alone() -> None:
    delivery = Delivery([10, 500, 10], SinkLimits(events=10, bytes=100, event_bytes=1000))
    parts = []
    while delivery.part is not None:
        parts.append(sent(delivery))
        delivery.answer(Delivered())
    assert parts == [[0], [1], [2]]


@pytest.mark.parametrize("verdict", [Rejected(""), TooLarge("")], ids=["rejected", "too large"])
def test_a_bad_event_is_never_taken_for_delivered(verdict: Verdict) -> None:
    delivery = Delivery([1], ROOMY)
    delivery.answer(verdict)
    assert delivery.unsettled() == ["refused without a reason"]


def test_some_to_be_sent_again_go_before_what_is_behind_them() -> None:
    delivery = Delivery([1] * 6, SinkLimits(events=3, bytes=100, event_bytes=100))
    step = delivery.answer(Partly(retry=frozenset({0, 2}), reason="429", after=3.0))
    assert step == Again("throttled", "429", 3.0)
    assert sent(delivery) == [0, 2]
    delivery.answer(Delivered())
    assert sent(delivery) == [3, 4, 5]
