"""Trying a sink sends one event that nobody takes for an access."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sark.errors import SinkError
from sark.siem.sinks.base import Entry
from sark.siem.sinks.file import FileSink
from sark.siem.sinks.probe import probe_sink
from sark.siem.sinks.verdict import Delivered


def encode(event: bytes) -> Entry:
    return Entry(json.loads(event)["id"], 1.7e9, event)


async def test_one_marked_event_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "events"
    probe = await probe_sink("main", FileSink(path), encode)
    assert (probe.sink, probe.verdict, probe.is_delivered) == ("main", Delivered(), True)
    assert 0 < probe.seconds < 10
    (line,) = path.read_bytes().splitlines()
    assert line == probe.entry.body
    event = json.loads(line)
    assert event["id"] == probe.entry.id
    assert event["user_id"] == event["policy"] == event["action"] == "sark-test"
    assert (event["resource"], event["context"]) == ("sink:main", {"test": True})
    assert event["allow"] is False


async def test_a_sink_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SinkError):
        await probe_sink("main", FileSink(tmp_path), encode)
