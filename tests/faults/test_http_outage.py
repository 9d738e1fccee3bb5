"""The service while its Valkey is killed, hangs, or comes back."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from valkey.exceptions import ConnectionError as ConnectionFailed

from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import QUEUE, SarkService, assert_problem, http_client

REQUEST = {"user_id": "u", "action": "x:read", "resource": "r"}
ADMIN = "admin-token-8e2f6b0c9d174a35"
# A budget is 250 ms; the rest is patience with a machine that does other things as well.
SLOWEST_SECONDS = 1.5
HEALS_SECONDS = 10.0

Break = Callable[[ValkeyServer], None]
FAULTS: dict[str, tuple[Break, Break]] = {
    "killed": (ValkeyServer.kill, lambda valkey: ignore(valkey.start())),
    "hanging": (ValkeyServer.pause, ValkeyServer.resume),
}


def ignore(_: object) -> None:
    """Take a result that nobody needs."""


@pytest.fixture
def valkey(private_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return private_server({"appendonly": "yes"})


@pytest.fixture
def service(valkey: ValkeyServer, tmp_path: Path) -> Iterator[SarkService]:
    with SarkService(tmp_path, VALKEY_URL=valkey.url, SARK_ADMIN_TOKEN=ADMIN) as running:
        yield running


@pytest.fixture
async def http(service: SarkService) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(service) as session:
        yield session


@contextmanager
def prompt() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SLOWEST_SECONDS


async def status_of(http: aiohttp.ClientSession, path: str) -> int:
    with prompt():
        async with http.get(path) as response:
            await response.read()
            return response.status


async def samples(http: aiohttp.ClientSession) -> dict[str, float]:
    with prompt():
        async with http.get("/metrics") as response:
            assert response.status == 200
            text = await response.text()
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def ask(http: aiohttp.ClientSession, user: str = "u") -> int:
    return (await answer(http, user))[0]


async def answer(http: aiohttp.ClientSession, user: str = "u") -> tuple[int, dict[str, Any]]:
    async with http.post("/v1/authorize", json={**REQUEST, "user_id": user}) as response:
        return response.status, await response.json(content_type=None)


def recorded(valkey: ValkeyServer) -> list[str]:
    """Read the ids of the audit events in the queue."""
    with valkey.client() as client:
        return [json.loads(event)["id"] for event in client.lrange(QUEUE, 0, -1)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_outage_is_answered_shown_and_healed(
    valkey: ValkeyServer, service: SarkService, http: aiohttp.ClientSession, fault: str
) -> None:
    break_it, mend_it = FAULTS[fault]
    assert await ask(http) == 200
    assert await status_of(http, "/health/ready") == 200
    assert (await samples(http))["sark_store_up,state"] == 1

    break_it(valkey)
    given = list[str]()
    for _ in range(5):
        with prompt():
            code, body = await answer(http)
        assert (code, body["allow"], body["cached"], body["ttl"]) == (200, True, False, 0)
        given.append(body["decision_id"])
    # Once it is known to be down, nobody waits for it.
    started = time.monotonic()
    answers = await asyncio.gather(*(answer(http, f"u{n}") for n in range(50)))
    assert time.monotonic() - started < SLOWEST_SECONDS
    assert Counter(status for status, _ in answers) == {200: 50}
    given += [body["decision_id"] for _, body in answers]
    with prompt():
        questions = [{"action": "x:read", "resource": f"r{n}"} for n in range(20)]
        batch = {"user_id": "u", "questions": questions}
        async with http.post("/v1/authorize/batch", json=batch) as response:
            assert response.status == 200
            given += [each["decision_id"] for each in (await response.json())["answers"]]

    assert await status_of(http, "/health/live") == 200
    await assert_not_ready(http, str(valkey.port))
    found = await samples(http)
    assert found["sark_store_up,state"] == 0
    assert found["sark_store_guard_opened_total,state"] == 1
    assert math.isnan(found["sark_audit_queue_events"])
    assert found["sark_spill_events,main"] >= len(given)
    assert found["sark_spill_bytes,main"] > 100 * len(given)
    assert found["sark_spill_account_events,spilled,main"] == found["sark_spill_events,main"]
    status = await admin_status(http)
    assert status["queue"] is None
    assert status["servers"][0]["guard_open"] is True
    assert status["servers"][0]["failure"]

    mend_it(valkey)

    async def ready() -> bool:
        return await status_of(http, "/health/ready") == 200

    await until(ready, within=HEALS_SECONDS, what="the service is ready again")
    assert await ask(http, "after") == 200

    def replayed() -> bool:
        return set(given) <= {*recorded(valkey)}

    await until(replayed, within=HEALS_SECONDS, what="what was spilled is in the queue")
    found = await samples(http)
    assert found["sark_store_up,state"] == 1
    assert found["sark_spill_events,main"] == 0
    assert (await admin_status(http))["servers"][0]["failure"] == ""
    assert service.process.poll() is None


async def assert_not_ready(http: aiohttp.ClientSession, address: str) -> None:
    with prompt():
        async with http.get("/health/ready") as response:
            assert response.status == 503
            text, report = await response.text(), await response.json()
    assert report["ready"] is False
    parts = {check["part"]: check["ok"] for check in report["checks"] if check["required"]}
    assert parts == {"valkey state": False, "audit queue": True, "evaluator": True}
    (detail,) = [each["detail"] for each in report["checks"] if each["part"] == "audit queue"]
    assert detail.endswith("bytes are spilled")
    # Anybody may ask; where the server is and how it fails stands in the log.
    assert address not in text


async def admin_status(http: aiohttp.ClientSession) -> dict[str, Any]:
    with prompt():
        async with http.get("/v1/status", headers={"Authorization": f"Bearer {ADMIN}"}) as response:
            assert response.status == 200
            status: dict[str, Any] = await response.json()
            return status


async def test_the_first_status_of_a_hanging_server_is_prompt(
    valkey: ValkeyServer, http: aiohttp.ClientSession
) -> None:
    """Nobody has found out yet that it hangs; the budget alone bounds the wait."""
    with valkey.paused():
        status = await admin_status(http)
    assert status["queue"] is None
    assert status["readiness"]["ready"] is False


async def test_refusals_are_recorded_before_they_are_given(
    valkey: ValkeyServer, http: aiohttp.ClientSession
) -> None:
    valkey.kill()
    with prompt():
        async with http.get("/v1/status", headers={"Authorization": "Bearer x"}) as response:
            problem = await assert_problem(response, 401, "unauthenticated")
    valkey.start()

    def is_recorded() -> bool:
        return problem["decision_id"] in recorded(valkey)

    await until(is_recorded, within=HEALS_SECONDS, what="the refusal is in the queue")


async def test_without_a_spill_store_an_outage_is_refused(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    given: dict[str, object] = {"SARK_ADMIN_TOKEN": ADMIN, "SARK_SPILL_MAX_BYTES": 0}
    with SarkService(tmp_path, **given, VALKEY_URL=valkey.url) as service:  # type: ignore[arg-type]
        async with http_client(service) as http:
            assert await ask(http) == 200
            valkey.kill()
            for _ in range(5):
                with prompt():
                    async with http.post("/v1/authorize", json=REQUEST) as response:
                        problem = await assert_problem(response, 503, "store-unavailable")
                        assert int(response.headers["Retry-After"]) == problem["retry_after"] >= 1
                assert str(valkey.port) not in str(problem)
            with prompt():
                async with http.get(
                    "/v1/status", headers={"Authorization": "Bearer x"}
                ) as response:
                    await assert_problem(response, 503, "audit-unavailable")
            report = await (await http.get("/health/ready")).json()
            details = {check["part"]: check["detail"] for check in report["checks"]}
            assert details["limits"].endswith("; authorize answers 503")
            assert "spilled" not in details["audit queue"]


async def test_what_was_spilled_outlives_the_process(valkey: ValkeyServer, tmp_path: Path) -> None:
    """The service is killed while its Valkey is down; the next one brings its events in."""
    with SarkService(tmp_path, VALKEY_URL=valkey.url) as service:
        async with http_client(service) as http:
            valkey.kill()
            given = [(await answer(http, f"u{n}"))[1]["decision_id"] for n in range(10)]
        service.process.kill()
        service.process.wait()
    valkey.start()
    with SarkService(tmp_path, VALKEY_URL=valkey.url):

        def are_recorded() -> bool:
            return set(given) <= {*recorded(valkey)}

        await until(are_recorded, within=HEALS_SECONDS, what="the events are in the queue")


async def test_answers_and_events_agree_across_a_kill(
    valkey: ValkeyServer, service: SarkService, http: aiohttp.ClientSession
) -> None:
    """Every answer that left has its event, though the server was killed among the requests."""
    with valkey.client() as client:
        client.config_set("appendfsync", "always")
    answered: list[str] = []
    statuses: Counter[int] = Counter()
    stop = asyncio.Event()

    async def keep_asking(number: int) -> None:
        while not stop.is_set():
            body = {**REQUEST, "user_id": f"user-{number}"}
            async with http.post("/v1/authorize", json=body) as response:
                statuses[response.status] += 1
                document = await response.json(content_type=None)
                if response.status == 200:
                    answered.append(document["decision_id"])
                else:
                    await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(keep_asking(number)) for number in range(10)]
    await until(lambda: statuses[200] > 100, within=10, what="requests are answered")
    valkey.kill()
    away = statuses[200] + 100
    await until(lambda: statuses[200] > away, within=10, what="requests are answered meanwhile")
    valkey.start()
    healed = statuses[200] + 50
    await until(lambda: statuses[200] > healed, within=10, what="requests are answered again")
    stop.set()
    await asyncio.gather(*tasks)
    assert statuses.keys() <= {200, 429}

    def all_recorded() -> bool:
        return set(answered) <= {*recorded(valkey)}

    await until(all_recorded, within=HEALS_SECONDS, what="every answer's event is in the queue")


async def test_a_long_outage_does_not_flood_the_log(
    valkey: ValkeyServer, service: SarkService, http: aiohttp.ClientSession
) -> None:
    valkey.kill()
    started = time.monotonic()
    for _ in range(20):
        await asyncio.gather(*(ask(http, f"u{n}") for n in range(25)))
    seconds = time.monotonic() - started
    logs = service.logs
    by_event = Counter((line["event"], line.get("reason", "")) for line in logs)
    assert [count for (event, _), count in by_event.items() if event == "valkey is down"] == [1]
    # One line a second of each kind, and what it leaves out is counted.
    assert max(by_event.values()) <= 1 + seconds
    assert len(logs) <= (1 + seconds) * len(by_event)
    assert len(by_event) <= 6
    assert valkey.password not in service.stderr


async def test_it_starts_without_its_valkey_and_heals(valkey: ValkeyServer, tmp_path: Path) -> None:
    valkey.kill()
    with SarkService(tmp_path, VALKEY_URL=valkey.url) as service:
        async with http_client(service) as http:
            status, found = await answer(http)
            assert (status, found["cached"]) == (200, False)
            assert await status_of(http, "/health/ready") == 503
            valkey.start()

            async def cached() -> bool:
                return bool((await answer(http))[1].get("cached"))

            await until(cached, within=HEALS_SECONDS, what="answers are cached")
            await until(
                lambda: found["decision_id"] in recorded(valkey),
                within=HEALS_SECONDS,
                what="what was spilled is in the queue",
            )


async def test_it_ends_in_order_while_its_valkey_hangs(
    valkey: ValkeyServer, service: SarkService, http: aiohttp.ClientSession
) -> None:
    with valkey.paused():
        asked = asyncio.create_task(ask(http))
        await asyncio.sleep(0)
        assert await asked == 200
        assert service.stop() == 0
    assert "Traceback" not in service.stderr


async def test_a_killed_embedded_server_is_told(tmp_path: Path) -> None:
    """The service does not end with it, answers by itself, and still ends in order."""
    with SarkService(tmp_path) as service:
        async with http_client(service) as http:
            assert await ask(http) == 200

            async def told() -> bool:
                asked, ready = await asyncio.gather(ask(http), status_of(http, "/health/ready"))
                assert asked == 200
                if ready == 200:  # not killed yet, or started again meanwhile
                    with service.valkey() as client, suppress(ConnectionFailed):
                        os.kill(client.info("server")["process_id"], signal.SIGKILL)  # type: ignore[index]
                return ready == 503

            await until(told, within=10, what="the service says so")
            assert await status_of(http, "/health/live") == 200
        assert service.stop() == 0
        assert "Traceback" not in service.stderr
