"""``sark serve`` forwards by itself: to a file unless told otherwise, and says so everywhere."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.polling import until
from tests.support.service import SarkService, http_client

REQUEST = {"user_id": "u", "action": "x:read", "resource": "r"}


async def decide(http: aiohttp.ClientSession) -> str:
    async with http.post("/v1/authorize", json=REQUEST) as response:
        return str((await response.json())["decision_id"])


async def read(http: aiohttp.ClientSession, path: str, **options: Any) -> Any:
    async with http.get(path, **options) as response:
        assert response.status == 200
        return await response.json()


def ids_in(file: Path) -> list[str]:
    if not file.exists():
        return []
    return [json.loads(line)["id"] for line in file.read_text().splitlines()]


async def test_events_reach_a_file_in_the_data_directory(tmp_path: Path) -> None:
    with SarkService(tmp_path, SARK_SIEM_FORWARD="true") as service:
        file = service.data_dir / "audit.jsonl"
        assert f"audit        forwarded to main=file://{file}" in service.stdout
        async with http_client(service) as http:
            decided = [await decide(http) for _ in range(3)]
            await until(lambda: ids_in(file) == decided, within=10, what="the events are there")
            (report,) = (await read(http, "/v1/siem", headers=service.admin))["sinks"]
            assert report["address"] == f"file://{file}"
            assert report["account"]["accepted"]["events"] == 3
            assert (report["breaker"], report["forwarder"]["paused"]) == ("closed", {})
            ready = await read(http, "/health/ready")
            status = await read(http, "/v1/status", headers=service.admin)
            async with http.get("/metrics") as response:
                metrics = await response.text()
        assert 'sark_breaker_state{breaker="siem",state="closed"} 1.0' in metrics
        (check,) = [each for each in ready["checks"] if each["part"] == "sink main"]
        assert (check["ok"], check["required"]) == (True, False)
        assert [each["sink"] for each in status["sinks"]] == ["main"]
        assert service.stop() == 0


async def test_a_receiver_that_is_down_does_not_make_a_service_unready(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options: dict[str, Any] = {
        "SARK_SIEM_FORWARD": "true",
        "SARK_SIEM_SINKS": f"file://{tmp_path}/events.jsonl,web=webhook+http://127.0.0.1:{port}/",
        "SARK_SIEM_RETRY_CAP": 0.2,
    }
    with SarkService(tmp_path, **options) as service:
        async with http_client(service) as http:
            decided = await decide(http)
            await until(
                lambda: ids_in(tmp_path / "events.jsonl") == [decided],
                within=10,
                what="the other sink has the event",
            )

            async def is_told() -> bool:
                checks = (await read(http, "/health/ready"))["checks"]
                return any(each["part"] == "sink web" and not each["ok"] for each in checks)

            await until(is_told, within=10, what="the sink that is down is told")
            reports = (await read(http, "/v1/siem", headers=service.admin))["sinks"]
            web = next(each for each in reports if each["sink"] == "web")
            held = web["account"]["queued"]["events"] + web["account"]["in_flight"]["events"]
            assert (held, web["account"]["failed"]["events"]) == (1, 0)
            assert web["forwarder"]["failing"]
        assert service.stop() == 0
    logged = [line for line in service.logs if line.get("sink") == "web"]
    assert logged[0]["event"] == "audit events not forwarded, will be tried again"


async def test_a_breaker_that_is_reset_ends_the_waiting(tmp_path: Path) -> None:
    with SarkService(tmp_path, SARK_SIEM_FORWARD="true") as service:
        file = service.data_dir / "audit.jsonl"
        async with http_client(service) as http:

            async def force(what: str) -> None:
                async with http.post(f"/v1/breakers/siem/{what}", headers=service.admin) as answer:
                    assert answer.status == 200

            async def shows(state: str, failing: str) -> bool:
                (report,) = (await read(http, "/v1/siem", headers=service.admin))["sinks"]
                return report["breaker"] == state and failing in report["forwarder"]["failing"]

            async def is_held() -> bool:
                return await shows("forced_open", "")

            async def waits() -> bool:
                return await shows("forced_open", "is open")

            # Shorter than a lease the batch is held; longer, it goes back to the queue.
            for count, seconds in enumerate((20, 600), start=1):
                await force(f"force-open?seconds={seconds}")
                await until(is_held, within=10, what="the breaker is known to be open")
                await decide(http)
                await until(waits, within=10, what="the forwarder waits for it")
                await force("reset")
                await until(
                    lambda wanted=count: len(ids_in(file)) == wanted,
                    within=5,
                    what="the event is there",
                )


@pytest.mark.heavy
async def test_a_service_that_does_not_forward_says_who_does(tmp_path: Path) -> None:
    with SarkService(tmp_path) as service:
        assert "`sark worker` forwards" in service.stdout
        async with http_client(service) as http:
            await decide(http)
            (report,) = (await read(http, "/v1/siem", headers=service.admin))["sinks"]
        assert report["forwarder"] is None
        assert report["account"]["queued"]["events"] == 1
