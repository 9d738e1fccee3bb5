"""Looking into the cache: what is explained, what is counted, and that looking changes nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import aiohttp
import pytest
import valkey

from sark.keyspace import Keyspace
from tests.support.polling import until
from tests.support.service import SarkService, assert_problem, http_client

DENYING = 'package sark.authz\ndecision := {"allow": false, "reason": "no more"}\n'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    directory = tmp_path_factory.mktemp("service")
    with SarkService(
        directory,
        SARK_NEAR_CACHE_ENTRIES=1000,
        SARK_LIMIT_PER_MINUTE=0,
        SARK_POLICY_WATCH_INTERVAL=0,
        SARK_CACHE_KEY="compact",
    ) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def question(user: str, **members: Any) -> dict[str, Any]:
    return {"user_id": user, "action": "x:read", "resource": "r", **members}


async def ask(http: aiohttp.ClientSession, user: str, **members: Any) -> dict[str, Any]:
    async with http.post("/v1/authorize", json=question(user, **members)) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
    return answer


async def ask_until_near(http: aiohttp.ClientSession, user: str) -> dict[str, Any]:
    """Ask until the near cache answers; a user's first question creates its generation."""
    answer = await ask(http, user)

    async def is_near() -> bool:
        return bool((await ask(http, user))["cached"] == "near")

    await until(is_near, within=10, what="the near cache answers")
    return answer


async def explain(
    http: aiohttp.ClientSession, service: SarkService, user: str, **members: Any
) -> dict[str, Any]:
    body = question(user, **members)
    async with http.post("/v1/cache/explain", json=body, headers=service.admin) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
    return found


async def post(http: aiohttp.ClientSession, service: SarkService, path: str) -> None:
    async with http.post(path, headers=service.admin) as response:
        assert response.status == 200, await response.text()


async def stats(http: aiohttp.ClientSession, service: SarkService) -> dict[str, Any]:
    async with http.get("/v1/cache/stats", headers=service.admin) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
    return found


def snapshot(client: valkey.Valkey) -> dict[bytes, Any]:
    keys = list(client.scan_iter("policy:*"))
    return {key: (client.get(key), cast("int", client.pttl(key)) > 0) for key in keys}


# Explain


async def test_a_question_that_nobody_asked(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    found = await explain(http, service, "new", context={"b": 1, "a": [True]})
    assert found["input"] == (
        '{"action":"x:read","context":{"a":[true],"b":1},"resource":"r","user_id":"new"}'
    )
    assert (found["sensitivity"], found["tier_seconds"], found["cacheable"]) == ("low", 3600, True)
    assert found["cached"]["state"] == found["near"]["state"] == "absent"
    assert found["answered_from"] == "evaluated"
    user = found["generations"][2]
    assert (user["key"], user["token"], user["written"]) == ("policy:user_version:new", None, None)
    assert found["expected"] is None
    assert "a generation token is missing" in found["why"]


async def test_looking_changes_nothing(http: aiohttp.ClientSession, service: SarkService) -> None:
    await ask(http, "seen")
    with service.valkey() as client:
        before, near = snapshot(client), (await stats(http, service))["near"]
        for user in ("seen", "unseen"):
            await explain(http, service, user)
        after = (await stats(http, service))["near"]
        assert snapshot(client) == before
    assert {**after, "lag_ms": 0} == {**near, "lag_ms": 0}


async def test_a_decision_that_is_held_everywhere(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    answer = await ask_until_near(http, "held")
    found = await explain(http, service, "held")
    assert (found["answered_from"], found["near"]["state"]) == ("near", "valid")
    cached = found["cached"]
    assert (cached["state"], cached["compressed"]) == ("valid", False)
    assert (cached["allow"], cached["reason"]) == (answer["allow"], answer["reason"])
    assert 3_500_000 < cached["ttl_ms"] <= 3_600_000
    assert cached["stamp"] == found["expected"]
    with service.valkey() as client:
        value = cast("bytes", client.get(found["key"]))
        assert cached["bytes"] == len(value)
        v = json.loads(value)["v"]
        assert (v[0], v[11:]) == ("2", found["expected"])
        assert cached["evaluated"].startswith("20")
        info = cast("dict[str, Any]", client.info("server"))
        assert found["run_id"] == info["run_id"]
        for generation in found["generations"]:
            token = cast("bytes", client.get(generation["key"])).decode()
            assert generation["token"] == token
            assert generation["written"].startswith("20")
    assert [generation["scope"] for generation in found["generations"]] == ["all", "policy", "user"]
    assert found["revision"] == (await stats(http, service))["revision"]
    assert (await ask(http, "held"))["cached"] == "near"


async def test_high_sensitivity_is_answered_by_valkey(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    await ask(http, "high", action="short")
    found = await explain(http, service, "high", action="short")
    assert (found["answered_from"], found["near"]["state"]) == ("valkey", "absent")
    assert found["sensitivity"] == "high"
    assert found["cached"]["ttl_ms"] <= 7000


async def test_consistency_counts(http: aiohttp.ClientSession, service: SarkService) -> None:
    await ask_until_near(http, "wishes")
    async with http.post("/v1/users/wishes2/invalidate", headers=service.admin) as response:
        others = (await response.json())["freshness"]
    for wishes, place, why in (
        ({"consistency": "fast"}, "near", "expected stamp"),
        ({"freshness": others}, "valkey", "expected stamp"),
        ({"consistency": "full"}, "evaluated", "asks for an evaluation"),
        ({"freshness": "made-up"}, "evaluated", "not signed"),
    ):
        found = await explain(http, service, "wishes", **wishes)
        assert found["answered_from"] == place
        assert why in found["why"]
    for wish in ("FULL", ""):
        body = question("wishes", consistency=wish)
        for path, headers in (("/v1/cache/explain", service.admin), ("/v1/authorize", {})):
            async with http.post(path, json=body, headers=headers) as response:
                problem = await assert_problem(
                    response, 422, "invalid-request", field="consistency"
                )
                assert problem["detail"] == f"got {wish!r}, expected one of: fast, fresh, full"


async def test_a_revoked_decision_names_who_may_have_revoked_it(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    await ask(http, "revoked")
    await post(http, service, "/v1/users/revoked/invalidate")
    found = await explain(http, service, "revoked")
    assert (found["answered_from"], found["cached"]["state"]) == ("evaluated", "stale")
    assert found["cached"]["stamp"] != found["expected"]
    assert (found["changed"], found["may_have_changed"]) == (["user"], [])
    assert found["near"]["state"] in {"absent", "outdated", "stale"}
    assert (await ask(http, "revoked"))["cached"] is False


async def test_other_policies_are_told_for_sure(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    path = service.policy_dir / "authz.rego"
    text = path.read_text()
    await ask(http, "policies")
    path.write_text(DENYING)
    await post(http, service, "/v1/policies/reload")
    try:
        found = await explain(http, service, "policies")
        assert (found["answered_from"], found["cached"]["state"]) == ("evaluated", "stale")
        assert (found["changed"], found["may_have_changed"]) == (["revision"], [])
    finally:
        path.write_text(text)
        await post(http, service, "/v1/policies/reload")
    found = await explain(http, service, "policies")
    assert found["cached"]["state"] == "valid", "the same policies, the same decisions"


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (b"\xff", "corrupt"),
        (b"[]", "corrupt"),
        (b"\x28\xb5\x2f\xfd\xff", "corrupt"),
        (b'{"v":99,"allowed":1}', "other_version"),
        (b'{"v":"1x","allow":true,"reason":""}', "other_version"),
        (b'{"v":"20000000001x","allow":true,"reason":""}', "stale"),
        (b'{"v":"20000000001"}', "withdrawn"),
    ],
)
async def test_foreign_values(
    http: aiohttp.ClientSession, service: SarkService, value: bytes, state: str
) -> None:
    user = f"foreign-{value.hex()}"
    await ask(http, user, action="short")
    found = await explain(http, service, user, action="short")
    with service.valkey() as client:
        client.set(found["key"], value)
        found = await explain(http, service, user, action="short")
        client.delete(found["key"])
    assert (found["cached"]["state"], found["answered_from"]) == (state, "evaluated")
    assert found["cached"]["ttl_ms"] is None
    assert found["cached"]["bytes"] == len(value)


async def test_a_compressed_decision(http: aiohttp.ClientSession, service: SarkService) -> None:
    path = service.policy_dir / "authz.rego"
    text = path.read_text()
    path.write_text(DENYING.replace("no more", "no more, " * 80))
    await post(http, service, "/v1/policies/reload")
    try:
        await ask(http, "long")
        found = await explain(http, service, "long")
    finally:
        path.write_text(text)
        await post(http, service, "/v1/policies/reload")
    assert found["cached"]["compressed"] is True
    assert found["cached"]["bytes"] < 500
    assert found["cached"]["state"] == "valid"


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"policy": "other"}, "policy"),
        ({"user_id": ""}, "user_id"),
        ({"ip": "x"}, "ip"),
        ({"consistency": "soon"}, "consistency"),
        ({"context": []}, "context"),
    ],
)
async def test_what_cannot_be_asked_cannot_be_explained(
    http: aiohttp.ClientSession, service: SarkService, members: dict[str, Any], field: str
) -> None:
    body = {**question("x"), **members}
    async with http.post("/v1/cache/explain", json=body, headers=service.admin) as response:
        await assert_problem(response, 422, "invalid-request", field=field)


@pytest.mark.parametrize(("method", "path"), [("GET", "stats"), ("POST", "explain")])
async def test_only_with_the_admin_token(
    http: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with http.request(method, f"/v1/cache/{path}", json=question("x")) as response:
        await assert_problem(response, 401, "unauthenticated")


# Statistics


async def test_statistics_tell_what_happened(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    await ask_until_near(http, "counted")
    before = await stats(http, service)
    await ask(http, "counted")
    await ask(http, "counted", action="short")
    await ask(http, "counted", action="short")
    await ask(http, "counted", policy="silent")
    await ask(http, "counted", policy="broken", resource="x")
    for path in ("/v1/users/counted/invalidate", "/v1/policies/silent/invalidate"):
        await post(http, service, path)

    async def enforced() -> bool:
        latency = (await stats(http, service))["enforced"]
        return bool(latency["count"] == before["enforced"]["count"] + 2)

    await until(enforced, within=10, what="both invalidations took effect")
    after = await stats(http, service)

    def grown(group: str, name: str) -> int:
        return int(after[group].get(name, 0) - before[group].get(name, 0))

    looked = {
        result: count - before["lookups"]["results"].get(result, 0)
        for result, count in after["lookups"]["results"].items()
    }
    assert {result: count for result, count in looked.items() if count} == {
        "absent": 3,
        "near": 1,
        "hit": 1,
    }
    results = after["lookups"]["results"]
    hits = results["near"] + results["hit"]
    assert after["lookups"]["hit_ratio"] == pytest.approx(hits / sum(results.values()))
    assert grown("lookups", "total") == 5
    assert grown("evaluations", "count") == 3
    assert grown("evaluations", "undefined") == 1
    assert grown("evaluations", "failures") == 1
    assert after["evaluations"]["under_way"] == 0
    assert [grown("invalidations", scope) for scope in ("all", "policy", "user")] == [0, 1, 1]
    near, latency = after["near"], after["enforced"]
    assert near["serving"] is True
    assert 0 <= near["lag_ms"] < 5000
    assert near["hits"] >= 1
    assert 0 <= latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    with service.valkey() as client:
        kept = len(list(client.scan_iter("policy:decision:*")))
    stored = after["stored"]
    assert (stored["decisions"], stored["estimated"]) == (kept, False)
    assert 100 < stored["average_bytes"] < 1000


async def test_many_keys_are_estimated_and_said_to_be(
    http: aiohttp.ClientSession, service: SarkService
) -> None:
    """30,000 decisions among 60,000 keys; a bounded number of them is looked at."""
    keys = Keyspace()
    with service.valkey() as client:
        pipe = client.pipeline(transaction=False)
        for number in range(30_000):
            pipe.set(keys.policy_decision(f"{number:032x}"), b"x" * 100, ex=60)
            pipe.set(f"other:{number}", b"x", ex=60)
        pipe.execute()  # type: ignore[no-untyped-call]
        try:
            stored = (await stats(http, service))["stored"]
        finally:
            client.eval("for i = 0, 29999 do redis.call('DEL', 'other:' .. i) end", 0)
            for number in range(30_000):
                pipe.delete(keys.policy_decision(f"{number:032x}"))
            pipe.execute()  # type: ignore[no-untyped-call]
    assert stored["estimated"] is True
    assert stored["sampled_keys"] < 20_000
    assert stored["decisions"] == pytest.approx(30_000, rel=0.1)
