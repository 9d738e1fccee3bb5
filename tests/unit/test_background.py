"""Work beside everything else: a fault in it is told, and what has to go on goes on."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sark.parts.background import background
from sark.siem import lasting
from tests.support.polling import until


async def test_a_fault_is_told_when_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    async def faulty() -> None:
        raise RuntimeError("a mistake")

    async with background(faulty(), "sark-test"):
        await until(lambda: bool(caplog.records), within=5, what="it is logged")
        assert caplog.messages == ["sark-test has ended"]
        assert "a mistake" in caplog.text


async def test_lasting_work_begins_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting, "FAULT_SECONDS", 0.01)
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise RuntimeError("a mistake")
        await asyncio.Event().wait()

    async with background(lasting.lasting(work, "the work"), "sark-test"):
        await until(lambda: begun == 3, within=5, what="it has begun again, twice")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert set(caplog.messages) == {"the work failed, and begins again"}
