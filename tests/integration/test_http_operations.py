"""Routes for operators and readers: health, metrics, OpenAPI."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families

from sark.gateway import Answer, Request
from sark.http.sessions import NewSession, RefreshRequest
from tests.support.service import SarkService, assert_problem, http_client

ROUTES = {
    "/v1/authorize": {"post"},
    "/v1/authorize/batch": {"post"},
    "/health/live": {"get"},
    "/health/ready": {"get"},
    "/metrics": {"get"},
    "/v1/status": {"get"},
    "/v1/policies/reload": {"post"},
    "/v1/policies/{name}/invalidate": {"post"},
    "/v1/users/{user_id}/invalidate": {"post"},
    "/v1/cache/invalidate": {"post"},
    "/v1/cache/stats": {"get"},
    "/v1/cache/explain": {"post"},
    "/v1/sessions": {"post"},
    "/v1/sessions/refresh": {"post"},
    "/v1/sessions/current": {"get", "delete"},
    "/v1/sessions/stats": {"get"},
    "/v1/users/{user_id}/sessions": {"get", "delete"},
    "/v1/users/{user_id}/sessions/{session_id}": {"get", "delete"},
    "/.well-known/jwks.json": {"get"},
    "/v1/limits": {"get"},
    "/v1/limits/top": {"get"},
    "/v1/limits/show": {"post"},
    "/v1/limits/reset": {"post"},
    "/v1/limits/reload": {"post"},
    "/v1/breakers": {"get"},
    "/v1/breakers/{name}": {"get"},
    "/v1/breakers/{name}/force-open": {"post"},
    "/v1/breakers/{name}/force-closed": {"post"},
    "/v1/breakers/{name}/reset": {"post"},
    "/v1/cache/warm": {"post"},
    "/v1/siem": {"get"},
    "/v1/siem/{sink}/events": {"get"},
    "/v1/siem/{sink}/failed": {"get"},
    "/v1/siem/{sink}/replay": {"post"},
    "/v1/siem/{sink}/purge": {"post"},
    "/v1/siem/{sink}/test": {"post"},
}
AUTHORIZE_STATUSES = {"200", "400", "401", "403", "413", "415", "422", "429", "503"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(directory, SARK_LIMIT_PER_MINUTE=3) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


async def get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
        return await response.json()


async def samples(http: aiohttp.ClientSession) -> dict[tuple[str, frozenset[str]], float]:
    """Scrape, with the parser that Prometheus's own client ships."""
    async with http.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_live(http: aiohttp.ClientSession) -> None:
    assert await get(http, "/health/live") == {"status": "ok"}


async def test_ready_lists_the_parts(http: aiohttp.ClientSession) -> None:
    report = await get(http, "/health/ready")
    assert report["ready"] is True
    checks = {check.pop("part"): check for check in report["checks"]}
    assert checks.keys() == {"valkey state", "audit queue", "evaluator", "limits"}
    assert all(check["ok"] for check in checks.values())
    assert [part for part, check in checks.items() if not check["required"]] == ["limits"]
    assert "policies: authz, silent, broken" in checks["evaluator"]["detail"]


async def test_health_tells_no_addresses(service: SarkService, http: aiohttp.ClientSession) -> None:
    report = json.dumps(await get(http, "/health/ready"))
    assert str(service.directory) not in report
    assert "unix" not in report


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/v1/status"])
async def test_other_methods_are_refused(http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(path) as response:
        await assert_problem(response, 405)
        assert response.headers["Allow"] == "GET"


async def test_metrics_count_what_happened(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    before = await samples(http)

    async def grown(name: str, *labels: str) -> float:
        key = (name, frozenset(labels))
        return (await samples(http)).get(key, 0) - before.get(key, 0)

    for body in (
        *[{"user_id": "m", "action": "x:read", "resource": "r"}] * 5,  # the limit is 3
        {"user_id": "n", "action": "x", "resource": "r"},
        {"user_id": "o", "action": "x", "resource": "r", "policy": "broken"},
        {"user_id": ""},
    ):
        async with http.post("/v1/authorize", json=body) as response:
            await response.read()
    assert await grown("sark_decisions_total", "true", "authz", "evaluated") == 1
    assert await grown("sark_decisions_total", "true", "authz", "valkey") == 2
    assert await grown("sark_decisions_total", "false", "authz", "evaluated") == 1
    assert await grown("sark_decisions_total", "false", "broken", "failed") == 1
    assert await grown("sark_ratelimit_refused_total", "user") == 2
    assert await grown("sark_evaluation_failures_total", "broken") == 1
    assert await grown("sark_cache_lookups_total", "authz", "hit") == 2
    assert await grown("sark_cache_lookups_total", "authz", "absent") == 2
    assert await grown("sark_authorize_seconds_count", "evaluated") == 2
    # Decisions are appended by the queue; refusals are booked by their own script.
    assert await grown("sark_audit_events_accepted_total") == 5
    queued = (await samples(http))["sark_audit_queue_events", frozenset()]
    assert queued == len(service.events()) == 6 + before["sark_audit_queue_events", frozenset()]
    assert (await samples(http))["sark_store_up", frozenset({"state"})] == 1


async def test_metrics_have_the_prefix_and_no_labels_of_callers(
    http: aiohttp.ClientSession,
) -> None:
    marked = {"user_id": "marked-user", "action": "marked-action", "resource": "marked-resource"}
    for extra in ({}, {"policy": "marked-policy"}, {"marked": 1}):
        async with http.post("/v1/authorize", json={**marked, **extra}) as response:
            await response.read()
    found = await samples(http)
    assert all(name.startswith("sark_") for name, _ in found)
    assert "marked" not in str(found)


# OpenAPI


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_the_openapi_document_is_valid(http: aiohttp.ClientSession) -> None:
    document = await get(http, "/openapi.json")
    OpenAPI.model_validate(document)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known
    assert {path: set(item) for path, item in document["paths"].items()} == ROUTES


async def test_authorize_is_described_with_all_statuses(http: aiohttp.ClientSession) -> None:
    document = await get(http, "/openapi.json")
    post = document["paths"]["/v1/authorize"]["post"]
    assert post["responses"].keys() == AUTHORIZE_STATUSES
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for status, response in post["responses"].items():
        if status != "200":
            assert response["content"] == {"application/problem+json": problem}
    assert post["requestBody"]["required"] is True


async def test_the_schemas_are_those_of_the_code(http: aiohttp.ClientSession) -> None:
    schemas = (await get(http, "/openapi.json"))["components"]["schemas"]
    assert schemas["Request"]["properties"].keys() == set(Request.__struct_fields__)
    assert schemas["Request"]["required"] == ["action", "resource"]
    assert schemas["Request"]["additionalProperties"] is False
    assert schemas["Answer"]["properties"].keys() == set(Answer.__struct_fields__)
    user, null = schemas["Request"]["properties"]["user_id"]["anyOf"]
    assert (user["minLength"], user["maxLength"], null) == (1, 256, {"type": "null"})
    for name in ("action", "resource"):
        bounds = schemas["Request"]["properties"][name]
        assert (bounds["minLength"], bounds["maxLength"]) == (1, 256)


async def test_the_example_is_a_valid_request(http: aiohttp.ClientSession) -> None:
    document = await get(http, "/openapi.json")
    content = document["paths"]["/v1/authorize"]["post"]["requestBody"]["content"]
    msgspec.convert(content["application/json"]["example"], Request)


async def test_admin_routes_ask_for_a_token_in_the_browser(http: aiohttp.ClientSession) -> None:
    document = await get(http, "/openapi.json")
    assert document["paths"]["/v1/status"]["get"]["security"] == [{"bearer": []}]
    schemes = document["components"]["securitySchemes"]
    assert schemes.keys() == {"bearer", "service", "user"}
    for scheme in schemes.values():
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/sessions/refresh"])
async def test_the_examples_of_sessions_are_valid(http: aiohttp.ClientSession, path: str) -> None:
    document = await get(http, "/openapi.json")
    content = document["paths"][path]["post"]["requestBody"]["content"]
    kind = {"/v1/sessions": NewSession, "/v1/sessions/refresh": RefreshRequest}[path]
    msgspec.convert(content["application/json"]["example"], kind)


async def test_routes_of_sessions_are_described(http: aiohttp.ClientSession) -> None:
    paths = (await get(http, "/openapi.json"))["paths"]
    for path, item in paths.items():
        if not path.endswith("/sessions") and "/sessions/" not in path:
            continue
        for operation in item.values():
            assert operation["security"]
            assert operation["summary"]
            good, *errors = sorted(operation["responses"])
            assert good in {"200", "201"}
            assert {"401", "503"} <= set(errors)
            (media,) = operation["responses"][good]["content"].values()
            assert "$ref" in media["schema"]
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


async def test_docs_are_served(http: aiohttp.ClientSession) -> None:
    async with http.get("/docs") as response:
        assert response.status == 200
        assert "/openapi.json" in await response.text()
