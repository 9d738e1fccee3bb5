"""Whom the service takes a caller for, over real HTTP: seen in the audit events of its refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import SarkService, assert_problem, http_client

REQUEST = {"user_id": "u", "action": "x:read", "resource": "r"}
PEER = "127.0.0.1"
TOKEN = "caller-token-b7d1e80a49c62f35"
GIANT = ", ".join(["9.9.9.9"] * 1000)


class Recorder:
    """Sends requests without credential and tells whom the service recorded."""

    def __init__(self, service: SarkService) -> None:
        self.service = service

    async def addresses(self, requests: list[list[tuple[str, str]]]) -> list[str]:
        ids = []
        async with http_client(self.service) as http:
            for headers in requests:
                async with http.post("/v1/authorize", json=REQUEST, headers=headers) as response:
                    problem = await assert_problem(response, 401, "unauthenticated")
                ids.append(problem["decision_id"])
        recorded = {event["id"]: event["ip"] for event in self.service.events()}
        return [recorded[each] for each in ids]


@pytest.fixture(scope="module")
def behind_a_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """This test is the proxy."""
    with SarkService(
        tmp_path_factory.mktemp("service"),
        SARK_SERVICE_TOKEN=TOKEN,
        SARK_TRUSTED_PROXIES="127.0.0.0/8, 10.0.0.0/8",
    ) as running:
        yield Recorder(running)


async def test_the_client_is_who_the_proxy_says(behind_a_proxy: Recorder) -> None:
    name = "X-Forwarded-For"
    requests = {
        "192.0.2.1": [(name, "192.0.2.1")],
        "192.0.2.2": [(name, "9.9.9.9, 192.0.2.2")],
        "192.0.2.3": [(name, "9.9.9.9"), (name, "junk"), ("x-forwarded-FOR", "192.0.2.3")],
        "192.0.2.4": [(name, "9.9.9.9, 192.0.2.4, 10.0.0.7"), (name, "10.0.0.8:4711")],
        "192.0.2.5": [(name, GIANT), (name, "192.0.2.5")],
        "192.0.2.6": [*[(name, "9.9.9.9")] * 50, (name, "192.0.2.6")],
        "192.0.2.7": [("Forwarded", "for=9.9.9.9"), (name, "192.0.2.7")],
        "2001:db8::8": [(name, '"9.9.9.9'), (name, "[2001:DB8::8]:443")],
        PEER: [(name, "9.9.9.9, unknown")],
        "10.0.0.9": [(name, "9.9.9.9, 192.0.2.256, 10.0.0.9")],
    }
    assert await behind_a_proxy.addresses([*requests.values()]) == [*requests]
    # The same clients again, whatever they claim: no further events.
    before = len(behind_a_proxy.service.events())
    again = [[(name, f"198.51.100.{n}, 192.0.2.1")] for n in range(20)]
    assert {*await behind_a_proxy.addresses(again)} == {"192.0.2.1"}
    assert len(behind_a_proxy.service.events()) == before


async def test_forwarded_with_a_count(tmp_path: Path) -> None:
    with SarkService(
        tmp_path,
        SARK_SERVICE_TOKEN=TOKEN,
        SARK_TRUSTED_PROXY_COUNT=2,
        SARK_PROXY_HEADER="forwarded",
    ) as service:
        requests = {
            "2001:db8::1": [("Forwarded", 'for=9.9.9.9, for="[2001:db8::1]:80", for=192.0.2.1')],
            PEER: [("Forwarded", 'for=9.9.9.9;x="'), ("Forwarded", "for=192.0.2.2, for=_a")],
            "192.0.2.3": [("Forwarded", "for=192.0.2.3"), ("X-Forwarded-For", "9.9.9.9, 8.8.8.8")],
        }
        found = await Recorder(service).addresses([*requests.values()])
    # Hidden by the innermost proxy, so that nothing further is known: it stands for the client.
    assert found == [*requests]


async def test_by_default_no_proxy_is_believed(tmp_path: Path) -> None:
    with SarkService(tmp_path, SARK_SERVICE_TOKEN=TOKEN) as service:
        requests = [
            [("X-Forwarded-For", "9.9.9.9")],
            [("Forwarded", "for=9.9.9.9")],
            [("X-Real-IP", "9.9.9.9")],
            [("X-Forwarded-For", GIANT)],
        ]
        assert {*await Recorder(service).addresses(requests)} == {PEER}
        assert len(service.events()) == 1
