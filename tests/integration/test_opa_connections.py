"""The ways to reach OPA: kept-alive TCP, unix socket, TLS, mTLS; bounds and cancellation."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from sark.errors import ConfigurationError, EvaluationError
from sark.policy.evaluators.base import Evaluation
from sark.policy.evaluators.opa import OpaHttp
from sark.policy.evaluators.opa_transport import OpaEndpoint
from sark.settings import load
from tests.support.opa import OpaServer, says, slow
from tests.support.polling import until

INPUT = b'{"action":"a","context":{},"resource":"r","user_id":"u"}'


@pytest.fixture
async def server() -> AsyncIterator[OpaServer]:
    async with OpaServer() as server:
        yield server


# The pool


async def test_connections_are_kept_and_reused(server: OpaServer) -> None:
    async with OpaHttp(OpaEndpoint(server.url)) as opa:
        for _ in range(20):
            await opa.evaluate("full", INPUT)
        assert await opa.ready() is None
    assert server.connections == 1


@pytest.mark.parametrize("most", [1, 7])
async def test_never_more_than_so_many_at_a_time(server: OpaServer, most: int) -> None:
    server.always = slow(0.005)
    async with OpaHttp(OpaEndpoint(server.url), timeout=20, max_concurrent=most) as opa:
        evaluations = await asyncio.gather(*(opa.evaluate("full", INPUT) for _ in range(60)))
    assert all(evaluation.decision for evaluation in evaluations)
    assert server.most_under_way == most
    assert server.connections == most


async def test_a_connection_that_opa_closed_while_idle_is_replaced(server: OpaServer) -> None:
    async with OpaHttp(OpaEndpoint(server.url)) as opa:
        for _ in range(3):
            await server.stop()
            await server.start()
            assert (await opa.evaluate("full", INPUT)).decision is not None


async def test_a_path_below_the_host_is_kept(server: OpaServer) -> None:
    async with OpaHttp(OpaEndpoint(server.url)) as opa:
        await opa.evaluate("full", INPUT)
    with pytest.raises(ConfigurationError, match="404"):
        await OpaHttp(OpaEndpoint(f"{server.url}/opa/")).start()
    assert server.seen[-1].path.startswith("/opa/v1/data/sark/")


async def test_no_proxy_and_no_password_file_is_used(
    server: OpaServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login u password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with OpaHttp(OpaEndpoint(server.url)) as opa:
        await opa.evaluate("full", INPUT)
    assert "Authorization" not in server.seen[-1].headers


async def test_cookies_are_not_kept(server: OpaServer) -> None:
    server.always = says(b'{"result":{"allow":true}}', **{"Set-Cookie": "a=b"})
    # Cookies of bare addresses are never kept.
    async with OpaHttp(OpaEndpoint(server.url.replace("127.0.0.1", "localhost"))) as opa:
        await opa.evaluate("full", INPUT)
        await opa.evaluate("full", INPUT)
    assert all("Cookie" not in seen.headers for seen in server.seen)


# Cancellation


async def test_a_cancelled_call_leaves_its_answer_to_nobody(server: OpaServer) -> None:
    chance = random.Random(7)
    async with OpaHttp(OpaEndpoint(server.url), timeout=20, max_concurrent=3) as opa:

        async def ask(number: int) -> None:
            given = INPUT.replace(b'"u"', b'"u%d"' % number)
            evaluation = await opa.evaluate("echo", given)
            assert evaluation.decision is not None
            assert f'"u{number}"' in evaluation.decision.reason

        tasks = [asyncio.create_task(ask(number)) for number in range(150)]
        for task in tasks:
            if chance.random() < 0.4:
                asyncio.get_running_loop().call_later(chance.random() * 0.2, task.cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [each for each in results if isinstance(each, Exception)]
        assert failed == []
        assert any(isinstance(each, asyncio.CancelledError) for each in results)
        assert opa.breaker == "closed"
        await ask(1000)
    assert server.most_under_way <= 3
    await until(lambda: server.open_connections == 0, within=5, what="every connection is closed")


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.05])
async def test_cancelled_at_any_point(server: OpaServer, delay: float) -> None:
    server.always = slow(0.02)
    async with OpaHttp(OpaEndpoint(server.url), timeout=20, max_concurrent=1) as opa:
        for _ in range(10):
            task = asyncio.create_task(opa.evaluate("full", INPUT))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await opa.evaluate("full", INPUT)).decision is not None


async def test_closing_ends_what_is_under_way(server: OpaServer) -> None:
    server.faults = []
    opa = OpaHttp(OpaEndpoint(server.url), timeout=20)
    await opa.start()
    server.always = slow(30)
    tasks = [asyncio.create_task(opa.evaluate("full", INPUT)) for _ in range(3)]
    await until(lambda: len(server.seen) == 4, within=5, what="all are under way")
    await opa.close()
    await opa.close()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert all(isinstance(result, EvaluationError) for result in results)


# Unix socket


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "opa.sock"
    async with OpaServer(socket_path=path) as server:
        settings = load({"OPA_URL": f"unix://{path}"})
        async with OpaHttp(OpaEndpoint.of(settings)) as opa:
            for _ in range(5):
                assert (await opa.evaluate("full", INPUT)).decision is not None
            assert await opa.ready() is None
            assert server.connections == 1


async def test_a_socket_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "opa.sock"
    opa = OpaHttp(OpaEndpoint(f"unix://{path}"), timeout=0.5)
    try:
        assert await opa.start() == "OPA: no such file or directory"
        async with OpaServer(socket_path=path):
            assert await opa.ready() is None
    finally:
        await opa.close()


# TLS


class Authority:
    """A throw-away certificate authority and its files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self.ca.cert_pem.write_to_path(self.file)
        issued = self.ca.issue_cert("client@example.org")
        self.cert, self.key = folder / f"{name}-cert.pem", folder / f"{name}-key.pem"
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(self.cert, append=number > 0)
        issued.private_key_pem.write_to_path(self.key)

    def serve(self, name: str = "127.0.0.1", clients_of: Authority | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(context)
        if clients_of is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            clients_of.ca.configure_trust(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], Authority]:
    return lambda name: Authority(tmp_path, name)


@pytest.fixture
def ours(authority: Callable[[str], Authority]) -> Authority:
    return authority("ours")


async def once(endpoint: OpaEndpoint) -> Evaluation:
    async with OpaHttp(endpoint) as opa:
        return await opa.evaluate("full", INPUT)


async def test_tls_with_our_authority(ours: Authority) -> None:
    async with OpaServer(tls=ours.serve(), token="s3cret") as server:
        endpoint = OpaEndpoint(server.url, SecretStr("s3cret"), ca_file=ours.file)
        assert (await once(endpoint)).decision is not None


async def test_an_unknown_authority_is_refused(
    ours: Authority, authority: Callable[[str], Authority]
) -> None:
    async with OpaServer(tls=ours.serve()) as server:
        for ca_file in (None, authority("theirs").file):
            with pytest.raises(ConfigurationError, match="OPA_URL: OPA: its certificate is refu"):
                await once(OpaEndpoint(server.url, ca_file=ca_file))
        assert server.seen == []


async def test_a_certificate_for_another_name_is_refused(ours: Authority) -> None:
    async with OpaServer(tls=ours.serve("opa.example")) as server:
        with pytest.raises(ConfigurationError, match="IP address mismatch"):
            await once(OpaEndpoint(server.url, ca_file=ours.file))
        assert server.seen == []


async def test_a_certificate_that_goes_bad_is_not_tried_again(ours: Authority) -> None:
    async with (
        OpaServer(tls=ours.serve()) as server,
        OpaHttp(OpaEndpoint(server.url, ca_file=ours.file)) as opa,
    ):
        await server.stop()
        server._tls = ours.serve("opa.example")
        await server.start()
        with pytest.raises(EvaluationError, match="its certificate is refused"):
            await opa.evaluate("full", INPUT)


async def test_mutual_tls(ours: Authority, authority: Callable[[str], Authority]) -> None:
    async with OpaServer(tls=ours.serve(clients_of=ours)) as server:
        assert (
            await once(
                OpaEndpoint(
                    server.url,
                    ca_file=ours.file,
                    client_cert_file=ours.cert,
                    client_key_file=ours.key,
                )
            )
        ).decision is not None
        seen = len(server.seen)
        theirs = authority("theirs")
        for cert, key in ((None, None), (theirs.cert, theirs.key)):
            endpoint = OpaEndpoint(
                server.url, ca_file=ours.file, client_cert_file=cert, client_key_file=key
            )
            with pytest.raises(EvaluationError):
                await once(endpoint)
        assert len(server.seen) == seen


async def test_certificates_are_read_again_when_their_files_change(
    ours: Authority, authority: Callable[[str], Authority], caplog: pytest.LogCaptureFixture
) -> None:
    """As with certificates that live for hours: both sides get others while this process runs."""
    caplog.set_level(logging.INFO, "sark.policy.opa")
    async with OpaServer(tls=ours.serve(clients_of=ours)) as server:
        endpoint = OpaEndpoint(
            server.url, ca_file=ours.file, client_cert_file=ours.cert, client_key_file=ours.key
        )
        async with OpaHttp(endpoint) as opa:
            assert (await opa.evaluate("full", INPUT)).decision is not None
            await opa.renew()
            assert caplog.messages == []
            theirs = authority("theirs")
            await server.stop()
            server._tls = theirs.serve(clients_of=theirs)
            await server.start()
            with pytest.raises(EvaluationError):
                await opa.evaluate("full", INPUT)
            # Half of it is there.
            theirs.cert.replace(ours.cert)
            await opa.renew()
            await opa.renew()
            assert len(caplog.messages) == 1
            assert "the earlier certificates for OPA stay in use: OPA_CLIENT_" in caplog.text
            theirs.key.replace(ours.key)
            theirs.file.replace(ours.file)
            await opa.renew()
            assert caplog.messages[1:] == ["the certificates for OPA were read again"]
            assert (await opa.evaluate("full", INPUT)).decision is not None
            assert await opa.ready() is None


async def test_a_connection_made_with_earlier_certificates_is_not_used_again(
    ours: Authority,
) -> None:
    async with (
        OpaServer(tls=ours.serve()) as server,
        OpaHttp(OpaEndpoint(server.url, ca_file=ours.file)) as opa,
    ):
        for _ in range(3):
            await opa.evaluate("full", INPUT)
        assert server.connections == 1
        ours.file.touch()
        await opa.renew()
        for _ in range(3):
            await opa.evaluate("full", INPUT)
        assert server.connections == 2


async def test_the_watch_renews_certificates(ours: Authority) -> None:
    async with (
        OpaServer(tls=ours.serve()) as server,
        OpaHttp(OpaEndpoint(server.url, ca_file=ours.file)) as opa,
    ):
        watching = asyncio.create_task(opa.watch(0.02))
        ours.file.touch()
        await until(lambda: server.connections == 2, within=5, what="it connects anew")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_plain_http_where_tls_is_expected_and_the_reverse(ours: Authority) -> None:
    async with OpaServer(tls=ours.serve()) as server:
        with pytest.raises(EvaluationError):
            await once(OpaEndpoint(server.url.replace("https", "http")))
    async with OpaServer() as server:
        with pytest.raises(EvaluationError):
            await once(OpaEndpoint(server.url.replace("http", "https"), ca_file=ours.file))


@pytest.mark.parametrize("content", [None, "", "no PEM", "directory"])
async def test_unusable_files_stop_the_start(
    ours: Authority, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "file"
    if content == "directory":
        file.mkdir()
    elif content is not None:
        file.write_text(content)
    for endpoint, variable in (
        (OpaEndpoint("https://127.0.0.1:1", ca_file=file), "OPA_CA_FILE"),
        (
            OpaEndpoint(
                "https://127.0.0.1:1",
                ca_file=ours.file,
                client_cert_file=file,
                client_key_file=ours.key,
            ),
            "OPA_CLIENT_CERT_FILE",
        ),
        (
            OpaEndpoint(
                "https://127.0.0.1:1",
                ca_file=ours.file,
                client_cert_file=ours.cert,
                client_key_file=file,
            ),
            "OPA_CLIENT_CERT_FILE",
        ),
    ):
        with pytest.raises(ConfigurationError) as caught:
            await OpaHttp(endpoint).start()
        assert str(caught.value).startswith(f"{variable}: ")
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


async def test_an_encrypted_key_is_refused_without_asking(ours: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(ours.key.read_bytes(), None)
    encrypted = key.private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"s3cret")
    )
    file = tmp_path / "encrypted.pem"
    file.write_bytes(encrypted)
    endpoint = OpaEndpoint("https://127.0.0.1:1", client_cert_file=ours.cert, client_key_file=file)
    with pytest.raises(ConfigurationError, match="no usable PEM file"):
        await OpaHttp(endpoint).start()


@pytest.mark.parametrize("token", ["a b", "a\r\nX: y", "é", ""])
async def test_an_unusable_token_stops_the_start(token: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^OPA_TOKEN: expected printable ASCII"):
        await OpaHttp(OpaEndpoint("http://127.0.0.1:1", SecretStr(token))).start()


async def test_an_unknown_host_is_not_up() -> None:
    opa = OpaHttp(OpaEndpoint("http://no-such-host.invalid:8181"), timeout=3)
    try:
        assert await opa.start() in (
            "OPA: its host name can't be resolved",
            "OPA: no answer within 3 s",
        )
    finally:
        await opa.close()


async def test_something_else_than_http_stops_the_start() -> None:
    asked = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(1)
        writer.write(b"-ERR unknown command s3cret\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ConfigurationError, match=r"^OPA_URL: OPA: its answer is not HTTP$"):
            await OpaHttp(OpaEndpoint(f"http://127.0.0.1:{port}")).start()
    assert asked == 1, "it is not tried again"
