"""Sinks as a configuration makes them, and events to send with them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from sark.settings._sinks import parse_sinks
from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.kind import SinkOptions
from sark.siem.sinks.registry import make_sink, plan_sink

__all__ = ["entries", "entry", "opened_sink", "sink_at"]


def sink_at(address: str, token: str | None = None, common: SinkOptions | None = None) -> Sink:
    """Make a sink from its address."""
    (parsed,) = parse_sinks(address)
    secret = None if token is None else SecretStr(token)
    return make_sink(plan_sink(parsed, secret, common or SinkOptions()))


@asynccontextmanager
async def opened_sink(
    address: str, token: str | None = None, common: SinkOptions | None = None
) -> AsyncIterator[Sink]:
    """Make a sink, open it, and close it in the end."""
    sink = sink_at(address, token, common)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def entry(number: int, body: object | None = None) -> Entry:
    """Make an event; its body is JSON."""
    name = f"01890a5d-ac96-774b-bcce-{number:012d}"
    content = {"id": name, "text": f'q"{number}\\é'} if body is None else body
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Entry(id=name, time=1_700_000_000.123 + number, body=text.encode())


def entries(count: int) -> list[Entry]:
    """Make different events."""
    return [entry(number) for number in range(count)]
