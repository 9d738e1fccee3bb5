"""A request's headers take a bounded amount of memory, and nothing else is cut off."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from sark.http.header_limit import MAX_HEADER_BYTES
from tests.support.service import SarkService

CHUNK = 65_536


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    with SarkService(tmp_path_factory.mktemp("service")) as running:
        yield running


def flood(service: SarkService, start: bytes, endless: bytes) -> tuple[int, bytes]:
    """Send without end; returns how much was taken, and the answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(start)
        sent = len(start)
        try:
            while sent < 20 * MAX_HEADER_BYTES:
                connection.sendall(endless)
                sent += len(endless)
            answer = connection.recv(CHUNK)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
        return sent, answer


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ", b"A" * CHUNK),
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\n", b"X-A: 1\r\n" * (CHUNK // 8)),
        (b"GET /", b"A" * CHUNK),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: ",
            b"A" * CHUNK,
        ),
    ],
    ids=["one header", "many headers", "path", "trailer"],
)
def test_endless_headers_are_cut_off(service: SarkService, start: bytes, endless: bytes) -> None:
    sent, _ = flood(service, start, endless)
    # What the sockets' buffers hold was not taken by the service.
    assert sent < 4 * MAX_HEADER_BYTES + 16 * 2**20
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/health/live")
    assert connection.getresponse().status == 200
    connection.close()


def test_long_headers_and_many_requests_are_not(service: SarkService) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    body = json.dumps({"user_id": "u", "action": "x:read", "resource": "r", "context": {"a": "b"}})
    for _ in range(8):
        headers = {"Content-Type": "application/json", "X-Long": "A" * (MAX_HEADER_BYTES // 4)}
        connection.request("POST", "/v1/authorize", body, headers)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
    # A body that is refused for its size comes in whole, and is no header.
    for _ in range(3):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/authorize", b"x" * (MAX_HEADER_BYTES * 2), headers)
        response = connection.getresponse()
        assert response.status == 413
        response.read()
    connection.close()
