"""``POST /v1/authorize``: the answers, and everything that is no valid request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import aiohttp
import pytest

from tests.support.polling import until
from tests.support.service import SarkService, assert_problem, http_client

AUTHORIZE = "/v1/authorize"
JSON = {"Content-Type": "application/json"}
_numbers = count()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SarkService]:
    with SarkService(tmp_path_factory.mktemp("service")) as running:
        yield running
        assert not [line for line in running.logs if line["level"] == "error"]


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


def valid(**fields: Any) -> dict[str, Any]:
    """Make a request of a user of its own, so that limits stay out of the way."""
    return {"user_id": f"u{next(_numbers)}", "action": "x:read", "resource": "r", **fields}


async def ask(http: aiohttp.ClientSession, **fields: Any) -> dict[str, Any]:
    async with http.post(AUTHORIZE, json=valid(**fields)) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "application/json"
        answer: dict[str, Any] = await response.json()
        return answer


# Answers


async def test_an_answer_has_exactly_the_documented_members(http: aiohttp.ClientSession) -> None:
    answer = await ask(http)
    limit = {
        "kind": "user",
        "limit": 1000,
        "remaining": 999,
        "reset": 60,
        "window": 60,
        "policy": "user",
    }
    assert answer.pop("decision_id")
    assert 3240 <= answer.pop("ttl") <= 3600
    assert answer == {
        "allow": True,
        "reason": "readers may read",
        "policy": "authz",
        "cached": False,
        "limits": [limit],
    }


async def test_a_denial_is_an_answer(http: aiohttp.ClientSession) -> None:
    answer = await ask(http, action="x:destroy")
    assert answer["allow"] is False
    assert answer["reason"] == "nothing permits this"


async def test_the_second_answer_is_cached_and_its_own(http: aiohttp.ClientSession) -> None:
    request = valid()
    first, second = await ask(http, **request), await ask(http, **request)
    assert (first["cached"], second["cached"]) == (False, "valkey")
    assert first["decision_id"] != second["decision_id"]
    assert second["limits"][0]["remaining"] == 998


async def test_context_is_part_of_the_question(http: aiohttp.ClientSession) -> None:
    user = valid()["user_id"]
    for allow in (True, False, True):
        answer = await ask(http, user_id=user, action="context", context={"allow": allow})
        assert answer["allow"] is allow


# Kept shorter than allowed is right, longer never.
@pytest.mark.parametrize(("action", "ttl"), [("short", 7), ("fresh", 0), ("user:grant", 300)])
async def test_ttl_is_the_policys_or_the_actions(
    http: aiohttp.ClientSession, action: str, ttl: int
) -> None:
    assert int(ttl * 0.9) <= (await ask(http, action=action))["ttl"] <= ttl


async def test_what_is_not_cacheable_is_evaluated_again(http: aiohttp.ClientSession) -> None:
    request = valid(action="fresh")
    assert [(await ask(http, **request))["cached"] for _ in range(3)] == [False] * 3


async def test_another_policy_decides_when_it_is_named(http: aiohttp.ClientSession) -> None:
    answer = await ask(http, policy="silent", action="speak")
    assert (answer["policy"], answer["reason"]) == ("silent", "spoken to")


@pytest.mark.parametrize(
    ("policy", "reason"), [("silent", "undefined"), ("broken", "evaluation_failed")]
)
async def test_no_decision_is_a_denial_that_is_not_kept(
    http: aiohttp.ClientSession, policy: str, reason: str
) -> None:
    request = valid(policy=policy)
    for _ in range(2):
        answer = await ask(http, **request)
        assert (answer["allow"], answer["reason"]) == (False, reason)
        assert (answer["cached"], answer["ttl"]) == (False, 0)


async def test_ids_may_be_as_long_as_documented(http: aiohttp.ClientSession) -> None:
    ids = {name: name[0] + "é" * 127 + "z" for name in ("user_id", "resource", "api_key_id")}
    answer = await ask(http, **ids, action="x" * 251 + ":read")
    assert answer["allow"] is True


@pytest.mark.parametrize(
    "odd",
    ["a:b", "a b", "{a}", "*", "a\nb", "\x00", "\U0001d4b3", "e\u0301", "../..", '"', "\\", "%00"],
)
async def test_ids_may_hold_any_character(http: aiohttp.ClientSession, odd: str) -> None:
    answer = await ask(http, user_id=f"{odd}{next(_numbers)}", resource=odd, api_key_id=odd + "k")
    assert answer["allow"] is True
    assert answer["limits"][0]["remaining"] == 999


async def test_context_may_be_as_deep_as_documented(http: aiohttp.ClientSession) -> None:
    context: Any = 1
    for _ in range(8):
        context = {"a": context}
    assert (await ask(http, context=context))["allow"] is True


async def test_optional_fields_may_be_null(http: aiohttp.ClientSession) -> None:
    answer = await ask(http, ip=None, api_key_id=None, policy=None)
    assert [limit["kind"] for limit in answer["limits"]] == ["user"]


async def test_ipv4_in_ipv6_is_the_same_address(http: aiohttp.ClientSession) -> None:
    spellings = ("198.51.100.7", "::ffff:198.51.100.7", "::ffff:c633:6407")
    answers = [await ask(http, ip=ip) for ip in spellings]
    assert [a["limits"][1]["remaining"] for a in answers] == [999, 998, 997]


async def test_spellings_of_an_ipv6_address_are_one(http: aiohttp.ClientSession) -> None:
    spellings = ("2001:db8::1", "2001:DB8:0:0:0:0:0:1", "2001:0db8::0001")
    answers = [await ask(http, ip=ip) for ip in spellings]
    assert [a["limits"][1]["remaining"] for a in answers] == [999, 998, 997]


async def test_the_last_of_duplicate_members_counts(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    first, last = valid()["user_id"], valid()["user_id"]
    body = f'{{"user_id":"{first}","user_id":"{last}","action":"x:read","resource":"r"}}'
    async with http.post(AUTHORIZE, data=body, headers=JSON) as response:
        decision = (await response.json())["decision_id"]
    (event,) = [event for event in service.events() if event["id"] == decision]
    assert event["user_id"] == last


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json ;a=b"]
)
async def test_media_types_with_parameters(http: aiohttp.ClientSession, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    async with http.post(AUTHORIZE, data=json.dumps(valid()), headers=headers) as response:
        assert response.status == 200


async def test_chunked_bodies_are_read(http: aiohttp.ClientSession) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in json.dumps(valid()).encode():
            yield bytes([byte])

    async with http.post(AUTHORIZE, data=chunks(), headers=JSON) as response:
        assert response.status == 200


# What is not JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"user_id=a",
        b'{"user_id":"a",}',
        b"{'user_id':'a'}",
        b'{"user_id":"a","action":"x:read","resource":"r"} {}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"user_id":"\xff\xff\xff\xff\xff\xff"}',
        b'{"user_id":"\\ud800","action":"x:read","resource":"r"}',
        b'{"user_id":"a","action":"x:read","resource":"r","context":{"\\udc00":1, "a": 1}}',
        b'{"user_id":"a","action":"x:read","resource":"r","context":{"a":NaN}}',
        b'{"user_id":"a","action":"x:read","resource":"r","context":{"a":-Infinity}}',
        b'{"user_id":"a","action":"x:read","resource":"r","context":' + b'{"a":' * 10_000,
        b'{"user_id":"a","action":"x:read","resource":"r","context":{"a":' + b"[" * 10_000,
    ],
    ids=lambda body: repr(body[-24:]),
)
async def test_what_is_not_json_is_malformed(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post(AUTHORIZE, data=body, headers=JSON) as response:
        problem = await assert_problem(response, 400, "malformed")
    assert problem["detail"].startswith("the body is not JSON: ")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"user_id":"\xff"}', "not UTF-8"),
        (b'{"context":' + b'{"a":' * 10_000, "nested too deeply"),
    ],
)
async def test_malformed_says_why(http: aiohttp.ClientSession, body: bytes, why: str) -> None:
    async with http.post(AUTHORIZE, data=body, headers=JSON) as response:
        assert why in (await assert_problem(response, 400, "malformed"))["detail"]


@pytest.mark.parametrize("body", ["[]", "null", "1", '"text"', "true", "[" * 10_000])
async def test_json_that_is_no_object(http: aiohttp.ClientSession, body: str) -> None:
    async with http.post(AUTHORIZE, data=body, headers=JSON) as response:
        await assert_problem(response, 422, "invalid-request")


# What is JSON, but no request


async def refused(http: aiohttp.ClientSession, body: Any, field: str) -> str:
    async with http.post(AUTHORIZE, json=body) as response:
        problem = await assert_problem(response, 422, "invalid-request", field=field)
    return str(problem["detail"])


@pytest.mark.parametrize("field", ["user_id", "action", "resource"])
async def test_a_missing_field_is_named(http: aiohttp.ClientSession, field: str) -> None:
    body = valid()
    del body[field]
    await refused(http, body, field)


@pytest.mark.parametrize(
    "name", ["extra", "User_id", "a.b", "a`b", "x` - at `$.user_id", "a\nb", "", "é" * 300]
)
async def test_an_unknown_field_is_named(http: aiohttp.ClientSession, name: str) -> None:
    await refused(http, valid(**{name: 1}), name)


VALUES: tuple[object, ...] = (1, 1.5, True, None, [], {}, "text")
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("user_id", "action", "resource"), (str,)),
    **dict.fromkeys(("ip", "api_key_id", "policy"), (str, type(None))),
    "context": (dict,),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(f, value) for f, right in TYPES.items() for value in VALUES if type(value) not in right],
)
async def test_a_field_of_the_wrong_type_is_named(
    http: aiohttp.ClientSession, field: str, value: object
) -> None:
    await refused(http, valid(**{field: value}), field)


@pytest.mark.parametrize("field", ["user_id", "action", "resource", "api_key_id"])
@pytest.mark.parametrize("value", ["", "x" * 257, "é" * 129, "\U0001f511" * 65, "x" * 300], ids=len)
async def test_an_id_out_of_bounds_is_named(
    http: aiohttp.ClientSession, field: str, value: str
) -> None:
    detail = await refused(http, valid(**{field: value}), field)
    assert "256" in detail or "empty" in detail


@pytest.mark.parametrize(
    "ip", ["", "localhost", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.4/8", "::1%eth0", "::g", " "]
)
async def test_what_is_no_address_is_refused(http: aiohttp.ClientSession, ip: str) -> None:
    await refused(http, valid(ip=ip), "ip")


@pytest.mark.parametrize("policy", ["nope", "AUTHZ", "authz ", "x" * 5000, "a:b"])
async def test_an_unknown_policy_is_refused(http: aiohttp.ClientSession, policy: str) -> None:
    detail = await refused(http, valid(policy=policy), "policy")
    assert "authz, silent, broken" in detail
    assert len(detail) < 200


async def test_a_context_that_is_too_deep_is_refused(http: aiohttp.ClientSession) -> None:
    context: Any = {}
    for _ in range(8):
        context = {"a": context}
    await refused(http, valid(context=context), "context" + ".a" * 8)


async def test_a_context_that_is_too_large_is_refused(http: aiohttp.ClientSession) -> None:
    largest = 16_384 - len('{"a":""}')
    assert (await ask(http, context={"a": "x" * largest}))["allow"] is True
    detail = await refused(http, valid(context={"a": "x" * (largest + 1)}), "context")
    assert "16385 bytes" in detail


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000])
async def test_numbers_without_a_value_are_refused(
    http: aiohttp.ClientSession, number: str
) -> None:
    body = json.dumps(valid(context={"n": 0})).replace('"n": 0', f'"n": {number}')
    async with http.post(AUTHORIZE, data=body, headers=JSON) as response:
        await assert_problem(response, 422, "invalid-request", field="context")


@pytest.mark.parametrize("number", ["1e308", "5e-324", "-0.0", "9" * 19, "9" * 40, "1" + "0" * 400])
async def test_extreme_numbers_get_an_answer(http: aiohttp.ClientSession, number: str) -> None:
    body = json.dumps(valid(context={"n": 0})).replace('"n": 0', f'"n": {number}')
    async with http.post(AUTHORIZE, data=body, headers=JSON) as response:
        assert response.status == 200, await response.text()


# What is not even read


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"],
)
async def test_another_media_type_is_refused(http: aiohttp.ClientSession, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    async with http.post(AUTHORIZE, data=json.dumps(valid()), headers=headers) as response:
        problem = await assert_problem(response, 415, "unsupported-media")
    assert media_type in problem["detail"]


async def test_a_missing_media_type_is_refused(http: aiohttp.ClientSession) -> None:
    body = json.dumps(valid()).encode()
    skip = ("Content-Type",)
    async with http.post(AUTHORIZE, data=body, skip_auto_headers=skip) as response:
        await assert_problem(response, 415, "unsupported-media")


async def test_a_body_of_exactly_the_limit_is_read(http: aiohttp.ClientSession) -> None:
    body = json.dumps(valid()).ljust(65_536)
    async with http.post(AUTHORIZE, data=body, headers=JSON) as response:
        assert response.status == 200
    async with http.post(AUTHORIZE, data=body + " ", headers=JSON) as response:
        problem = await assert_problem(response, 413, "body-too-large")
    assert "65536" in problem["detail"]


async def test_a_chunked_body_over_the_limit_is_refused(http: aiohttp.ClientSession) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1000

    async with http.post(AUTHORIZE, data=chunks(), headers=JSON) as response:
        await assert_problem(response, 413, "body-too-large")


async def test_a_declared_length_is_refused_before_the_body_is_sent(service: SarkService) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(
        b"POST /v1/authorize HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"
        b"Content-Length: 99999999\r\n\r\n"
    )
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(http: aiohttp.ClientSession, method: str) -> None:
    async with http.request(method, AUTHORIZE) as response:
        assert response.headers["Allow"] == "POST"
        if method == "HEAD":
            assert response.status == 405
        else:
            await assert_problem(response, 405)


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/authorize/", "/v2/authorize", "/health", "/health/live/", "/redoc"]
)
async def test_unknown_routes(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path, allow_redirects=False) as response:
        await assert_problem(response, 404)


# Clients that misbehave


async def test_a_caller_that_hangs_up_is_no_error(service: SarkService) -> None:
    before = len(service.logs)
    for body in (b"", b'{"user_id":'):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            b"POST /v1/authorize HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n" + body
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    async with http_client(service) as http:
        await ask(http)
    assert [line for line in service.logs[before:] if line["level"] != "info"] == []


async def test_a_slow_caller_holds_up_nobody(service: SarkService) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"POST /v1/authorize HTTP/1.1\r\nHost: s\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    async with asyncio.timeout(5), http_client(service) as http:
        await asyncio.gather(*(ask(http) for _ in range(50)))
    writer.close()
    await writer.wait_closed()


# The audit


async def test_every_answer_has_its_event(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    before = len(service.events())
    requests = [valid(api_key_id="k", ip="192.0.2.1", context={"n": n}) for n in range(100)]
    answers = await asyncio.gather(*(ask(http, **request) for request in requests))
    events = {event["id"]: event for event in service.events()[before:]}
    assert len(events) == 100
    for request, answer in zip(requests, answers, strict=True):
        event = events[answer["decision_id"]]
        assert {name: event[name] for name in request} == request
        assert {name: event[name] for name in ("allow", "reason", "policy")} == {
            name: answer[name] for name in ("allow", "reason", "policy")
        }
        assert (event["type"], event["v"]) == ("decision", 1)


async def test_malformed_requests_have_none_and_charge_nothing(
    service: SarkService, http: aiohttp.ClientSession
) -> None:
    before, request = len(service.events()), valid()
    for bad in ({"ip": "x"}, {"policy": "x"}, {"extra": 1}, {"context": {"a": "x" * 20_000}}):
        async with http.post(AUTHORIZE, json=request | bad) as response:
            assert response.status == 422
    assert len(service.events()) == before
    assert (await ask(http, **request))["limits"][0]["remaining"] == 999


async def test_a_request_survives_the_callers_silence(service: SarkService) -> None:
    """Whoever hangs up after sending a whole request leaves an event of the answer, or none."""
    user, before = valid()["user_id"], len(service.events())
    body = json.dumps(valid(user_id=user)).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(
        b"POST /v1/authorize HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await writer.drain()
    writer.close()
    await until(lambda: len(service.events()) > before, within=5, what="the event is queued")
    assert [event["user_id"] for event in service.events()[before:]] == [user]
