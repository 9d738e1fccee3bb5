"""The syslog sink with rsyslog, which is stopped, paused and killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from sark.settings import load
from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.registry import make_sink, plan_sinks
from sark.siem.sinks.verdict import Delivered, Unavailable
from tests.support.polling import until
from tests.support.receivers import Rsyslog, syslog_receiver

pytestmark = pytest.mark.heavy

WITHIN = 20.0
BATCH = 200
RESTARTS = 6


@asynccontextmanager
async def opened(receiver: Rsyslog, options: str, *, within: float = 10.0) -> AsyncIterator[Sink]:
    address = f"syslog+{options.format(port=receiver.port)}"
    environ = {"SARK_SIEM_SINKS": address, "SARK_SIEM_TIMEOUT": str(within)}
    (plan,) = plan_sinks(load(environ))
    sink = make_sink(plan)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def batch(first: int, count: int = BATCH, size: int = 100) -> list[Entry]:
    return [
        Entry(f"e{n}", 1.7e9 + n, f"CEF:0|SARK|Zoë|n={n} {'x' * size}".encode())
        for n in range(first, first + count)
    ]


def arrived_ids(receiver: Rsyslog) -> list[str]:
    return [message["data"].split('"')[1] for message in receiver.arrived]


@pytest.mark.parametrize("confirm", ["true", "false"])
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_rsyslog_understands_every_message(tmp_path: Path, scheme: str, confirm: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca")
    trust = f"&ca={tmp_path / 'ca'}" if scheme == "tls" else ""
    options = f"{scheme}://127.0.0.1:{{port}}?confirm={confirm}&facility=local5{trust}"
    with syslog_receiver(authority if scheme == "tls" else None) as receiver:
        async with opened(receiver, options) as sink:
            for first in range(0, 5 * BATCH, BATCH):
                assert await sink.send(batch(first)) == Delivered()
        await until(
            lambda: len(receiver.arrived) == 5 * BATCH, within=WITHIN, what="all have arrived"
        )
        arrived = receiver.arrived
    if confirm == "false":
        # With a connection for each batch, rsyslog may take them up in another order.
        assert [found["data"] for found in arrived] == [
            f'[sark@32473 eventId="e{n}"]' for n in range(5 * BATCH)
        ]
    oldest = min(arrived, key=lambda found: str(found["timestamp"]))
    assert oldest["message"].lstrip("\ufeff ").startswith("CEF:0|SARK|Zoë|n=0 ")
    assert (oldest["facility"], oldest["severity"], oldest["app"]) == ("local5", "info", "sark")
    assert oldest["timestamp"].startswith("2023-11-14T22:13:20")


async def test_what_is_confirmed_survives_restarts_of_rsyslog() -> None:
    delivered: set[str] = set()
    refused = 0
    with syslog_receiver() as receiver:
        async with opened(receiver, "tcp://127.0.0.1:{port}?confirm=true") as sink:

            async def send_on() -> None:
                nonlocal refused
                first = 0
                while True:
                    verdict = await sink.send(batch(first))
                    if verdict == Delivered():
                        delivered.update(entry.id for entry in batch(first))
                        first += BATCH
                    else:
                        assert isinstance(verdict, Unavailable)
                        refused += 1
                        await asyncio.sleep(0.01)

            sending = asyncio.create_task(send_on())
            for restart in range(1, RESTARTS + 1):
                wanted = restart * 5 * BATCH
                await until(lambda: len(delivered) >= wanted, within=WITHIN, what="they go on")  # noqa: B023
                await asyncio.to_thread(receiver.stop)
                await asyncio.to_thread(receiver.start)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await until(
            lambda: delivered <= set(arrived_ids(receiver)), within=WITHIN, what="all are there"
        )
    assert refused > 0


async def test_a_pause_delays_and_a_kill_loses_nothing_that_is_confirmed() -> None:
    with syslog_receiver() as receiver:
        async with opened(receiver, "tcp://127.0.0.1:{port}?confirm=true", within=1.0) as sink:
            with receiver.paused():
                assert isinstance(await sink.send(batch(0)), Unavailable)
            assert await sink.send(batch(BATCH)) == Delivered()
            # Read is not yet written: a kill takes what rsyslog has in its memory.
            written = {entry.id for entry in batch(BATCH)}
            await until(
                lambda: set(arrived_ids(receiver)) >= written, within=WITHIN, what="it is written"
            )
            with receiver.paused():
                sending = asyncio.create_task(sink.send(batch(2 * BATCH)))
                await asyncio.sleep(0.2)
                receiver.kill()
                assert isinstance(await sending, Unavailable)
                receiver.start()
            assert await sink.send(batch(2 * BATCH)) == Delivered()
        expected = {entry.id for entry in batch(BATCH, 2 * BATCH)}
        await until(
            lambda: set(arrived_ids(receiver)) >= expected, within=WITHIN, what="both are there"
        )


async def test_a_message_that_is_too_long_for_rsyslog_is_not_sent_to_it() -> None:
    with syslog_receiver() as receiver:
        async with opened(receiver, "tcp://127.0.0.1:{port}?message_bytes=65536") as sink:
            largest = Entry("e1", 1.7e9, json.dumps("x" * (sink.limits.event_bytes - 2)).encode())
            assert await sink.send([largest]) == Delivered()
        await until(lambda: len(receiver.arrived) == 1, within=WITHIN, what="it arrived")
        assert receiver.arrived[0]["message"].strip() == largest.body.decode()
