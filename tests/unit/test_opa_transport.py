"""Errors of the HTTP client, retries and endpoints: the parts that need no server."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp import client_exceptions
from pydantic import SecretStr

from sark.errors import ConfigurationError
from sark.policy.evaluators.opa import FIRST_RETRY_SECONDS, MOST_RETRIES, retry_pauses
from sark.policy.evaluators.opa_transport import OpaEndpoint, OpaUnreachableError, unreachable
from sark.settings import load

FALLBACK = "OPA: the connection failed"
# Errors without a reason of their own: what they may hold is not shown.
UNSPECIFIC = {
    "ClientConnectionError",
    "ClientConnectionResetError",
    "ClientConnectorError",
    "ClientError",
    "ClientOSError",
    "ClientProxyConnectionError",
    "ConnectionTimeoutError",
    "NonHttpUrlClientError",
    "NonHttpUrlRedirectClientError",
    "RedirectClientError",
    "ServerConnectionError",
    "ServerFingerprintMismatch",
    "ServerTimeoutError",
    "SocketTimeoutError",
    "UnixClientConnectorError",
    "UploadAbortedError",
}


def descendants(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for child in kind.__subclasses__():
        yield from descendants(child)


def test_every_error_of_the_client_is_known() -> None:
    """A release that adds one fails here, so that somebody decides what it means."""
    kinds = {
        kind
        for kind in descendants(aiohttp.ClientError)
        if kind.__module__ == client_exceptions.__name__
    }
    unspecific = {
        kind.__name__ for kind in kinds if str(unreachable(kind.__new__(kind))) == FALLBACK
    }
    assert unspecific == UNSPECIFIC
    assert len(kinds) > len(UNSPECIFIC)


@pytest.mark.parametrize(
    ("error", "text", "is_transient"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "s3cret"), "connection refused", True),
        (FileNotFoundError(errno.ENOENT, "s3cret"), "no such file or directory", True),
        (aiohttp.ClientOSError(errno.EPIPE, "s3cret"), "broken pipe", True),
        (aiohttp.ServerDisconnectedError("s3cret"), "it closed the connection", True),
        (aiohttp.ClientPayloadError("s3cret"), "it closed the connection", True),
        (ssl.SSLError(1, "s3cret"), "TLS failed", True),
        (aiohttp.InvalidURL("s3cret"), "its URL is unusable", False),
        (OSError("s3cret"), "the connection failed", True),
    ],
)
def test_reasons_are_our_own_words(error: BaseException, text: str, is_transient: bool) -> None:
    found = unreachable(error)
    assert isinstance(found, OpaUnreachableError)
    assert str(found) == f"OPA: {text}"
    assert found.is_transient is is_transient


def test_pauses_between_tries_double_and_are_jittered() -> None:
    runs = [list(retry_pauses(MOST_RETRIES)) for _ in range(20)]
    for pauses in runs:
        assert len(pauses) == MOST_RETRIES
        for number, pause in enumerate(pauses):
            full = FIRST_RETRY_SECONDS * 2**number
            assert full / 2 <= pause <= full
    assert len({pauses[0] for pauses in runs}) > 10
    assert list(retry_pauses(0)) == []


@pytest.mark.parametrize(
    ("url", "socket", "base"),
    [
        ("http://opa:8181", None, "http://opa:8181"),
        ("https://opa/base/", None, "https://opa/base"),
        ("unix:///run/opa.sock", "/run/opa.sock", "http://opa"),
    ],
)
def test_endpoints(url: str, socket: str | None, base: str) -> None:
    endpoint = OpaEndpoint(url)
    assert (endpoint.socket, endpoint.base) == (socket, base)


def test_settings_lead_to_the_endpoint() -> None:
    environ = {
        "OPA_URL": "https://opa",
        "OPA_TOKEN": "s3cret",
        "OPA_CA_FILE": "ca",
        "OPA_CLIENT_CERT_FILE": "cert",
        "OPA_CLIENT_KEY_FILE": "key",
    }
    endpoint = OpaEndpoint.of(load(environ))
    assert endpoint.token == SecretStr("s3cret")
    files = (endpoint.ca_file, endpoint.client_cert_file, endpoint.client_key_file)
    assert [os.fspath(file) for file in files if file] == ["ca", "cert", "key"]
    assert "s3cret" not in repr(endpoint)
    with pytest.raises(ConfigurationError, match="OPA_URL is not set"):
        OpaEndpoint.of(load({}))
