"""Encoding a batch beside others that want to run, and whatever its events are."""

from __future__ import annotations

import asyncio
import contextlib
from time import perf_counter

from sark.errors import UnreadableEventError
from sark.siem.event import encode_event
from sark.siem.formats import FORMAT_NAMES, format_of
from sark.siem.forwarder import encoder_of
from sark.siem.forwarder.encoding import LOOKS_AT_CLOCK_EVERY, SLICE_SECONDS, encode_events
from sark.siem.sinks.base import Entry
from tests.support.forwarders import event


async def test_others_run_between_two_slices() -> None:
    slices = 10
    turns = 0

    def slow(each: bytes) -> Entry:
        until = perf_counter() + 1.1 * SLICE_SECONDS / LOOKS_AT_CLOCK_EVERY
        while perf_counter() < until:
            pass
        return Entry("id", 0.0, each)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    encoded = await encode_events([b"{}"] * slices * LOOKS_AT_CLOCK_EVERY, slow)
    beside.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beside
    assert len(encoded) == slices * LOOKS_AT_CLOCK_EVERY
    assert turns >= slices


async def test_an_odd_event_is_told_and_holds_up_no_other() -> None:
    def encode(each: bytes) -> Entry:
        if each == b"unreadable":
            raise UnreadableEventError("not JSON")
        if each == b"odd":
            raise OverflowError("a bug, with a secret in its words")
        return Entry("id", 0.0, each)

    first, second, third = await encode_events([b"unreadable", b"odd", b"fine"], encode)
    assert first == "not readable: not JSON"
    assert second == "cannot be written in this format: OverflowError"
    assert third == Entry("id", 0.0, b"fine")


async def test_entries_carry_the_id_and_time_in_every_format() -> None:
    made = event(1)
    for name in FORMAT_NAMES:
        (entry,) = await encode_events([encode_event(made)], encoder_of(format_of(name)))
        assert isinstance(entry, Entry)
        assert (entry.id, entry.time) == (made.id, made.time.timestamp())
        assert made.id.encode() in entry.body
