"""Turning the events of a lease into what their sink sends.

That is work for the processor, a dozen milliseconds for a full batch, beside requests that wait for
the same event loop. So it is done in slices, and whoever else is ready runs between two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

from sark.errors import UnreadableEventError
from sark.siem.formats import Format
from sark.siem.record import decode
from sark.siem.sinks.base import Entry

__all__ = ["Encoded", "Encoder", "encode_events", "encoder_of"]

SLICE_SECONDS = 0.002
LOOKS_AT_CLOCK_EVERY = 32
"""Events between two looks at the clock."""

Encoded = Entry | str
"""What to send, or why the event can't be sent."""


class Encoder(Protocol):
    """Writes one queued event in the format of a sink."""

    def __call__(self, event: bytes, /) -> Entry:
        """Decode an event and encode it again.

        Raises:
            UnreadableEventError: It isn't an event.
        """
        ...


def encoder_of(form: Format) -> Encoder:
    """Make what writes events in a format."""

    def encode(event: bytes) -> Entry:
        record = decode(event)
        return Entry(record.id, record.time.timestamp(), form.encode(record, event))

    return encode


async def encode_events(events: Sequence[bytes], encode: Encoder) -> list[Encoded]:
    """Encode events in order; each gives an entry, or the reason for which it is a dead letter."""
    encoded: list[Encoded] = []
    started = perf_counter()
    for number, event in enumerate(events, 1):
        encoded.append(_encode(event, encode))
        if number % LOOKS_AT_CLOCK_EVERY == 0 and perf_counter() - started > SLICE_SECONDS:
            await asyncio.sleep(0)
            started = perf_counter()
    return encoded


def _encode(event: bytes, encode: Encoder) -> Encoded:
    try:
        return encode(event)
    except UnreadableEventError as error:
        return f"not readable: {error}"
    except Exception as error:  # noqa: BLE001 - one odd event must not hold up all behind it
        # The dead letter keeps the event, so it can be replayed once the format copes with it.
        return f"cannot be written in this format: {type(error).__name__}"
