"""The syslog sink: nothing counts as delivered that TCP says has not arrived."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trustme

from sark.errors import ConfigurationError, SinkError
from sark.settings import load
from sark.siem.sinks.base import Entry, Sink
from sark.siem.sinks.registry import make_sink, plan_sinks
from sark.siem.sinks.verdict import Delivered, Unauthorized, Unavailable
from tests.support.polling import until
from tests.support.proxy import unused_address
from tests.support.syslog import SyslogServer, serve_once, split_frames

WITHIN = 5.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if asks:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def sink_at(address: str, *, timeout: float = WITHIN) -> Sink:
    environ = {"SARK_SIEM_SINKS": address, "SARK_SIEM_TIMEOUT": str(timeout)}
    (plan,) = plan_sinks(load(environ))
    return make_sink(plan)


@asynccontextmanager
async def opened(address: str, *, within: float = WITHIN) -> AsyncIterator[Sink]:
    sink = sink_at(address, timeout=within)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def batch(first: int, count: int, size: int = 20) -> list[Entry]:
    return [Entry(f"e{n}", 1.7e9 + n, b"x" * size) for n in range(first, first + count)]


def ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


async def arrive(server: SyslogServer, expected: list[str]) -> None:
    await until(lambda: server.ids == expected, within=WITHIN, what=f"{expected} arrived")


@pytest.mark.parametrize("confirm", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_batches_arrive_in_order(
    authority: trustme.CA, tmp_path: Path, tls: bool, confirm: bool
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca")
    async with SyslogServer(server_context(authority) if tls else None) as server:
        scheme, trust = ("tls", f"&ca={tmp_path / 'ca'}") if tls else ("tcp", "")
        options = f"?facility=local3&confirm={str(confirm).lower()}{trust}"
        async with opened(f"syslog+{scheme}://127.0.0.1:{server.port}{options}") as sink:
            for first in range(0, 3000, 1000):
                assert await sink.send(batch(first, 1000)) == Delivered()
        await arrive(server, ids(batch(0, 3000)))
        assert server.connections == (3 if confirm else 1)
        message = server.messages[0]
    assert (message.facility, message.severity, message.app) == (19, 6, "sark")


async def test_a_receiver_that_closed_is_connected_to_again() -> None:
    async with SyslogServer() as server, opened(f"syslog+tcp://127.0.0.1:{server.port}") as sink:
        for first in range(5):
            assert await sink.send(batch(first, 1)) == Delivered()
            await until(lambda: len(server.ids) > first, within=WITHIN, what="it arrived")  # noqa: B023
            await server.drop()
        assert server.ids == ids(batch(0, 5))
        assert server.connections == 5


async def test_a_receiver_that_is_away_is_found_again() -> None:
    async with SyslogServer() as server, opened(f"syslog+tcp://127.0.0.1:{server.port}") as sink:
        assert await sink.send(batch(0, 1)) == Delivered()
        await arrive(server, ["e0"])
        await server.stop()
        assert await sink.send(batch(1, 1)) == Unavailable("connection refused")
        await server.start()
        assert await sink.send(batch(1, 1)) == Delivered()
        await arrive(server, ["e0", "e1"])


async def test_nobody_is_there() -> None:
    host, port = unused_address()
    async with opened(f"syslog+tcp://{host}:{port}") as sink:
        assert await sink.send(batch(0, 1)) == Unavailable("connection refused")
    async with opened("syslog+tcp://nobody.invalid:514") as sink:
        assert await sink.send(batch(0, 1)) == Unavailable("its host name cannot be resolved")


async def test_a_receiver_that_hangs_takes_no_more_than_fits() -> None:
    large = batch(0, 5000, size=4000)
    async with SyslogServer() as server:
        server.hang()
        async with opened(f"syslog+tcp://127.0.0.1:{server.port}", within=0.3) as sink:
            assert await sink.send(large) == Unavailable("it does not take messages in time")
            server.resume()
            assert await sink.send(batch(9000, 1)) == Delivered()
            await until(lambda: server.ids[-1:] == ["e9000"], within=WITHIN, what="e9000 arrived")
        assert server.connections == 2


@pytest.mark.parametrize("tls", [False, True])
async def test_a_receiver_that_breaks_off_within_a_batch(
    authority: trustme.CA, tmp_path: Path, tls: bool
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca")
    async with SyslogServer(server_context(authority) if tls else None) as server:
        scheme, trust = ("tls", f"?ca={tmp_path / 'ca'}") if tls else ("tcp", "")
        async with opened(f"syslog+{scheme}://127.0.0.1:{server.port}{trust}") as sink:
            server.reads_at_most = 100_000
            assert isinstance(await sink.send(batch(0, 5000, size=4000)), Unavailable)
            server.reads_at_most = None
            assert await sink.send(batch(9000, 1)) == Delivered()
            await until(lambda: server.ids[-1:] == ["e9000"], within=WITHIN, what="e9000 arrived")


async def test_what_is_confirmed_was_read() -> None:
    chance = Random(7)
    outcomes: set[bool] = set()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with opened(f"syslog+tcp://127.0.0.1:{port}?confirm=true") as sink:
            for first in range(0, 4000, 100):
                # A batch has about 10,000 bytes: some of these are beyond its end.
                most = chance.randrange(1, 20_000)
                serving = asyncio.create_task(asyncio.to_thread(serve_once, listener, most=most))
                verdict = await sink.send(batch(first, 100))
                frames, _ = split_frames(await serving)
                has_all = len(frames) == 100
                assert isinstance(verdict, Delivered if has_all else Unavailable)
                outcomes.add(has_all)
    assert outcomes == {True, False}


async def test_what_a_receiver_left_unread_is_not_confirmed(
    authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, context = listener.getsockname()[1], server_context(authority)
        async with opened(
            f"syslog+tls://127.0.0.1:{port}?confirm=true&ca={tmp_path / 'ca'}"
        ) as sink:
            for most, expected in ((0, Unavailable), (None, Delivered)):
                serving = asyncio.create_task(
                    asyncio.to_thread(serve_once, listener, tls=context, most=most)
                )
                assert isinstance(await sink.send(batch(0, 1000)), expected)
                await serving


async def test_a_certificate_that_nobody_vouches_for_is_refused(authority: trustme.CA) -> None:
    async with (
        SyslogServer(server_context(authority)) as server,
        opened(f"syslog+tls://127.0.0.1:{server.port}") as sink,
    ):
        verdict = await sink.send(batch(0, 1))
        assert isinstance(verdict, Unavailable)
        assert verdict.reason.startswith("its certificate is refused: ")
        assert server.ids == []


async def test_a_receiver_may_ask_for_our_certificate(
    authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca")
    ours = authority.issue_cert("gateway")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    ours.private_key_pem.write_to_path(tmp_path / "key")
    context = server_context(authority, asks=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"syslog+tls://127.0.0.1:{listener.getsockname()[1]}?ca={tmp_path / 'ca'}"
        serving = asyncio.create_task(asyncio.to_thread(serve_once, listener, tls=context))
        async with opened(address) as sink:
            assert await sink.send(batch(0, 1)) == Unauthorized("it refuses our certificate")
        with pytest.raises(ssl.SSLError):
            await serving
        serving = asyncio.create_task(asyncio.to_thread(serve_once, listener, tls=context))
        async with opened(f"{address}&cert={tmp_path / 'cert'}&key={tmp_path / 'key'}") as sink:
            assert await sink.send(batch(1, 1)) == Delivered()
        assert len(split_frames(await serving)[0]) == 1


async def test_a_batch_that_was_given_up_does_not_mix_with_the_next() -> None:
    async with SyslogServer() as server, opened(f"syslog+tcp://127.0.0.1:{server.port}") as sink:
        server.hang()
        sending = asyncio.create_task(sink.send(batch(0, 5000, size=2000)))
        await until(lambda: server.connections == 1, within=WITHIN, what="it connected")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        server.resume()
        assert await sink.send(batch(9000, 1)) == Delivered()
        await until(lambda: server.ids[-1:] == ["e9000"], within=WITHIN, what="e9000 arrived")
        assert len(server.ids) == 5001


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("?ca=/tmp/ca", "got the option 'ca', expected a scheme with TLS"),
        ("?facility=loud", "got facility='loud', expected one of kern, user"),
        ("?message_bytes=100", "expected a whole number from 2048 to"),
        ("?data_id=a%20b", "got data_id='a b', expected name@number"),
        ("?format=xml", "got format='xml', expected one of cef, ocsf, ecs, sark"),
    ],
)
def test_options_that_cannot_work(options: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sink_at(f"syslog+tcp://host{options}")
    assert expected in str(caught.value)


async def test_certificates_have_to_be_there(tmp_path: Path) -> None:
    sink = sink_at(f"syslog+tls://host?ca={tmp_path / 'none'}")
    with pytest.raises(SinkError, match="No such file"):
        await sink.open()
    await sink.close()


def test_a_batch_fits_the_messages_of_the_receiver() -> None:
    assert sink_at("syslog+tcp://host").limits.event_bytes < 8192
    assert sink_at("syslog+tcp://host?message_bytes=65536").limits.event_bytes > 64_000
