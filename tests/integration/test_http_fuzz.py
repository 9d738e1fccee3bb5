"""Whatever is posted, the answer is a documented one."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.service import SarkService

EXAMPLES = 300
PROBLEMS = {
    400: "urn:sark:problem:malformed",
    413: "urn:sark:problem:body-too-large",
    415: "urn:sark:problem:unsupported-media",
    422: "urn:sark:problem:invalid-request",
}
FIELDS = ("user_id", "action", "resource", "context", "ip", "api_key_id", "policy")

text = st.text(st.characters(exclude_categories=()), max_size=300)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
plausible = st.fixed_dictionaries(
    {"user_id": text, "action": text, "resource": text},
    optional={
        "context": st.dictionaries(text, json_values, max_size=5) | json_values,
        "ip": st.ip_addresses().map(str) | text,
        "api_key_id": text | json_values,
        "policy": st.sampled_from(["authz", "silent", "broken"]) | text,
    },
)
messy = st.dictionaries(st.sampled_from(FIELDS) | text, json_values, max_size=8)
documents = st.one_of(plausible, messy, json_values).map(lambda value: json.dumps(value).encode())
bodies = st.one_of(
    documents,
    st.tuples(documents, st.integers(0, 40)).map(lambda pair: pair[0][: -pair[1] or None]),
    st.binary(max_size=200),
)


@pytest.fixture(scope="module")
def connection(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[http.client.HTTPConnection]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(directory, SARK_LIMIT_PER_MINUTE=0) as service:
        found = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        yield found
        found.close()
        assert [line for line in service.logs if line["level"] == "error"] == []


def post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, str, Any]:
    connection.request("POST", "/v1/authorize", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    media_type = response.headers["Content-Type"]
    return response.status, media_type, json.loads(response.read())


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies)
@example(body=b'{"user_id":"a","action":"a","resource":"a","context":{"":[[[[[[[[[1]]]]]]]]]}}')
@example(body=b'{"user_id":"\\ud83d\\ude00","action":"\\u0000","resource":"\\uffff"}')
def test_every_body_gets_a_documented_answer(
    connection: http.client.HTTPConnection, body: bytes
) -> None:
    status, media_type, document = post(connection, body)
    if status == 200:
        assert media_type == "application/json"
        assert type(document["allow"]) is bool
        return
    assert media_type == "application/problem+json"
    assert document["type"] == PROBLEMS[status]
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]


@settings(max_examples=100)
@given(request=plausible)
def test_answers_and_refusals_follow_the_documented_bounds(
    connection: http.client.HTTPConnection, request: dict[str, Any]
) -> None:
    """A plausible request is refused exactly when a field is out of its bounds."""
    status, _, document = post(connection, json.dumps(request).encode())
    if status == 200:
        for name in ("user_id", "action", "resource"):
            assert 1 <= len(request[name].encode()) <= 256
    elif status == 422:
        assert document["field"].split(".")[0].split("[")[0] in request
