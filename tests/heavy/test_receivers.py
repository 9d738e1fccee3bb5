"""The receivers of the heavy tests take what their documentation says, and say what arrived."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Any

import aiohttp
import pytest
import trustme

from tests.support.envoy import Envoy
from tests.support.polling import until
from tests.support.receivers import (
    HEC_TOKEN,
    OtlpAgent,
    Tenzir,
    bulk_receiver,
    fluent_bit_receiver,
    hec_receiver,
    otlp_receiver,
    syslog_receiver,
)

pytestmark = pytest.mark.heavy

EVENTS = "services/collector/event"
CHANNEL = {"X-Splunk-Request-Channel": "8e69d7b3-f266-4e93-8747-cc5b7f809897"}
AUTHORIZATION = {"Authorization": f"Splunk {HEC_TOKEN}"}
RECORD = {"timeUnixNano": "1700000000000000000", "body": {"stringValue": "e1"}}
LOGS = {"resourceLogs": [{"scopeLogs": [{"logRecords": [RECORD]}]}]}
WITHIN = 10.0


async def post(
    port: int, path: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session:
        given = {"Content-Type": "application/json"} | (headers or {})
        url = f"http://127.0.0.1:{port}/{path}"
        async with session.post(url, data=body, headers=given) as answer:
            text = await answer.text()
    return answer.status, json.loads(text) if text.startswith("{") else text


def stacked(*ids: str) -> bytes:
    return b"".join(json.dumps({"event": {"id": each}}).encode() for each in ids)


async def arrive(receiver: Tenzir, expected: list[Any]) -> None:
    def arrived() -> list[Any]:
        return [found.get("message", found)["event"]["id"] for found in receiver.arrived]

    await until(lambda: arrived() == expected, within=WITHIN, what=f"{expected} arrived")


async def test_a_collector_takes_events_and_survives_its_end() -> None:
    with hec_receiver(max_request_size=1000) as receiver:
        taken = await post(receiver.port, EVENTS, stacked("a", "b"), AUTHORIZATION)
        refused = await post(receiver.port, EVENTS, stacked("c"))
        large = await post(receiver.port, EVENTS, stacked(*"d" * 100), AUTHORIZATION)
        await arrive(receiver, ["a", "b"])
        receiver.kill()
        receiver.start()
        await post(receiver.port, EVENTS, stacked("e"), AUTHORIZATION)
        await arrive(receiver, ["a", "b", "e"])
    assert taken == (200, {"text": "Success", "code": 0})
    assert (refused[0], large[0]) == (401, 413)


async def test_a_collector_that_falls_behind_is_busy() -> None:
    with hec_receiver(ack=True, most_pending=1, events_a_second=1) as receiver:
        headers = AUTHORIZATION | CHANNEL
        first = await post(receiver.port, EVENTS, stacked("a", "b", "c"), headers)
        second = await post(receiver.port, EVENTS, stacked("d"), headers)
        asked = json.dumps({"acks": [first[1]["ackId"]]}).encode()
        ack = await post(receiver.port, "services/collector/ack", asked, headers)
    assert first[0] == 200
    assert second == (503, {"text": "Server is busy", "code": 9})
    assert ack == (200, {"acks": {str(first[1]["ackId"]): False}})


async def test_fluent_bit_takes_events() -> None:
    with fluent_bit_receiver() as receiver:
        assert (await post(receiver.port, EVENTS, stacked("a", "b"), AUTHORIZATION))[0] == 200
        assert (await post(receiver.port, EVENTS, stacked("c")))[0] == 401
        await arrive(receiver, ["a", "b"])


async def test_the_bulk_api_takes_documents() -> None:
    lines = b'{"create":{"_index":"audit","_id":"a"}}\n{"x":1}\n'
    with bulk_receiver() as receiver:
        status, answer = await post(receiver.port, "_bulk", lines)
        await until(lambda: len(receiver.arrived) == 2, within=WITHIN, what="both lines arrived")
        assert receiver.arrived[0]["create"]["_id"] == "a"
    assert (status, answer["errors"]) == (200, False)


@pytest.mark.parametrize("kind", [otlp_receiver, OtlpAgent])
async def test_logs_are_taken(kind: Any) -> None:
    with kind() as receiver:
        status, _ = await post(receiver.port, "v1/logs", json.dumps(LOGS).encode())
        await until(lambda: len(receiver.arrived) == 1, within=WITHIN, what="the log arrived")
    assert status == 200


@pytest.mark.parametrize("tls", [False, True])
async def test_rsyslog_takes_counted_octets(tls: bool) -> None:
    authority = trustme.CA() if tls else None
    message = b'<13>1 2026-01-02T03:04:05Z h app 7 ID47 [x@32473 id="e1"] CEF:0|line 1\nline 2'
    with syslog_receiver(authority) as receiver:
        with socket.create_connection((receiver.host, receiver.port)) as plain:
            if authority is None:
                plain.sendall(b"%d %b" % (len(message), message))
            else:
                context = ssl.create_default_context()
                authority.configure_trust(context)
                with context.wrap_socket(plain, server_hostname=receiver.host) as secured:
                    secured.sendall(b"%d %b" % (len(message), message))
        await until(lambda: len(receiver.arrived) == 1, within=WITHIN, what="the message arrived")
        (arrived,) = receiver.arrived
    assert arrived["data"] == '[x@32473 id="e1"]'
    assert (arrived["app"], arrived["msgid"]) == ("app", "ID47")


async def test_the_fault_proxy_injects_what_it_is_told() -> None:
    async with aiohttp.ClientSession() as session:
        with hec_receiver() as receiver, Envoy(receiver.port) as proxy:

            async def statuses(count: int) -> list[int]:
                url = f"http://127.0.0.1:{proxy.port}/{EVENTS}"
                found = []
                for _ in range(count):
                    data = stacked("a")
                    async with session.post(url, data=data, headers=AUTHORIZATION) as answer:
                        found.append(answer.status)
                return found

            assert await statuses(3) == [200] * 3
            for status in (401, 413, 429, 500, 503):
                proxy.inject({status: 100})
                assert await statuses(2) == [status] * 2
            proxy.inject({429: 50, 503: 50})
            assert set(await statuses(100)) == {200, 429, 503}
            proxy.inject()
            assert await statuses(3) == [200] * 3
            await until(
                lambda: len(receiver.arrived) >= 6, within=WITHIN, what="what passed arrived"
            )
            assert proxy.injected >= 10
