"""Whatever is sent to the routes of sessions, the answer is a documented one and never a 500."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.http_sessions import SERVICE_TOKEN
from tests.support.service import SarkService

DOCUMENTED = {200, 201, 400, 401, 403, 404, 405, 409, 413, 415, 422}

text = st.text(st.characters(exclude_categories=()), max_size=300)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
logins = st.fixed_dictionaries(
    {"user_id": text},
    optional={
        "client_id": scalars,
        "tier": scalars,
        "ip": st.ip_addresses().map(str) | scalars,
        "user_agent": scalars,
        "more": scalars,
    },
)
trades = st.fixed_dictionaries(
    {"refresh_token": scalars}, optional={"ip": scalars, "user_agent": scalars}
)
bodies = st.one_of(
    logins.map(lambda value: json.dumps(value).encode()),
    trades.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=100),
)
# What may stand in a header: bytes, but no line breaks.
credentials = st.one_of(
    st.binary(max_size=60).map(
        lambda raw: b"Bearer " + raw.translate(None, bytes([*range(0x20), 0x7F]))
    ),
    st.lists(st.binary(max_size=60).map(lambda raw: quote(raw).encode()), max_size=5).map(
        lambda parts: b"Bearer " + b".".join(parts)
    ),
)
paths = st.lists(
    st.sampled_from(["v1", "users", "sessions", "current", "..", ".", "", "%2F", "%00", "%FF", "u"])
    | st.text(max_size=20).map(lambda part: quote(part, safe="")),
    max_size=8,
).map(lambda parts: "/v1/users/" + "/".join(parts))


@pytest.fixture(scope="module")
def connection(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[http.client.HTTPConnection]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(directory, SARK_SERVICE_TOKEN=SERVICE_TOKEN) as service:
        found = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        found.admin = service.admin["Authorization"]  # type: ignore[attr-defined]
        yield found
        found.close()
        assert [line for line in service.logs if line["level"] == "error"] == []


def send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    authorization: bytes | str,
    body: bytes | None = None,
) -> tuple[int, Any]:
    headers: dict[str, Any] = {"Authorization": authorization}
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    document = json.loads(response.read())
    assert response.status in DOCUMENTED, document
    good = response.status in {200, 201}
    expected = "application/json" if good else "application/problem+json"
    assert response.headers["Content-Type"] == expected
    if response.status == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    return response.status, document


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(["/v1/sessions", "/v1/sessions/refresh"]), body=bodies)
@example(path="/v1/sessions", body=b'{"user_id":"\\u0000"}')
@example(path="/v1/sessions", body=b'{"user_id":"\\ud800"}')
@example(path="/v1/sessions/refresh", body=b'{"refresh_token":"r1....."}')
def test_bodies(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    status, document = send(connection, "POST", path, f"Bearer {SERVICE_TOKEN}", body)
    if status == 201:
        assert 1 <= len(json.loads(body)["user_id"].encode()) <= 256
        assert document["user_id"] == json.loads(body)["user_id"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    route=st.sampled_from(
        [
            ("GET", "/v1/sessions/current"),
            ("DELETE", "/v1/sessions/current"),
            ("GET", "/v1/users/u/sessions"),
            ("POST", "/v1/sessions"),
            ("POST", "/v1/authorize"),
        ]
    ),
    credential=credentials,
)
def test_credentials(
    connection: http.client.HTTPConnection, route: tuple[str, str], credential: bytes
) -> None:
    body = b'{"action":"a","resource":"r"}' if route[0] == "POST" else None
    assert send(connection, *route, credential, body)[0] == 401


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(method=st.sampled_from(["GET", "DELETE"]), path=paths)
@example(method="GET", path="/v1/users/sessions")
@example(method="DELETE", path="/v1/users//sessions/")
@example(method="GET", path="/v1/users/x/sessions/%E2%80%AE")
def test_paths(connection: http.client.HTTPConnection, method: str, path: str) -> None:
    admin: str = connection.admin  # type: ignore[attr-defined]
    send(connection, method, path, admin)
