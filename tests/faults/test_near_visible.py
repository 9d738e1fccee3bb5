"""A near cache that does not serve is seen, whoever asks what: its reason, and that it heals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sark.events import Hub, Looked, NearCacheChanged
from sark.gateway import Gateway
from sark.ops.cache_stats import CacheCounts
from sark.policy.near import NearCache
from sark.policy.near_feed import NearFeed
from tests.support.gateways import ask, open_store, question
from tests.support.near import BOUND_SECONDS, Numbered, near_gateway, near_of, open_near, warm
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import CHECKOUT, SarkService, http_client

SECRET = "pw-5f2c9d"


@pytest.fixture
def without_tracking(server: ValkeyServer) -> Iterator[str]:
    """Give the URL of a user who may do everything but follow changes."""
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "app", "on", f">{SECRET}", "~*", "&*", "+@all", "-client|tracking"
        )
        yield f"valkey://app:{SECRET}@{server.host}:{server.port}/0"
        client.execute_command("ACL", "DELUSER", "app")


async def test_a_service_that_may_not_follow_changes_says_so(
    without_tracking: str, tmp_path: Path
) -> None:
    with SarkService(
        tmp_path,
        VALKEY_URL=without_tracking,
        SARK_KEY_DIR=tmp_path / "keys",
        SARK_ADMIN_TOKEN="admin-token-7f3b0c92d1e84a65",
        SARK_NEAR_CACHE_ENTRIES=1000,
    ) as service:
        async with http_client(service) as http:
            admin = {"authorization": "Bearer admin-token-7f3b0c92d1e84a65"}

            async def near() -> dict[str, Any]:
                async with http.get("/v1/cache/stats", headers=admin) as response:
                    found: dict[str, Any] = (await response.json())["near"]
                return found

            async def failed() -> bool:
                return bool((await near())["reconnects"])

            await until(failed, within=10, what="the feed has failed")
            await until(lambda: told(service), within=10, what="it is logged")
            found = await near()
            assert found["serving"] is False
            assert "client|tracking" in found["failure"]
            await assert_ready_without(http)
            async with http.get("/metrics") as response:
                metrics = await response.text()
        logged = service.logs
    assert re.search(r"^sark_near_cache_serving 0\.0$", metrics, re.MULTILINE)
    assert re.search(r"^sark_near_cache_reconnects [1-9]", metrics, re.MULTILINE)
    (line,) = told(service)
    assert "client|tracking" in line["reason"], "once, not with every attempt"
    assert SECRET not in str(logged)


def told(service: SarkService) -> list[dict[str, Any]]:
    return [line for line in service.logs if line["event"] == "near cache steps aside"]


async def assert_ready_without(http: aiohttp.ClientSession) -> None:
    async with http.get("/health/ready") as response:
        assert response.status == 200, "requests go on without it"
        report = await response.json()
    (row,) = [check for check in report["checks"] if check["part"] == "near cache"]
    assert (row["ok"], row["required"]) == (False, False)
    assert "client|tracking" not in row["detail"], "anybody may ask"


async def test_breaks_are_told_when_nobody_asks(server: ValkeyServer) -> None:
    """Also those that last for less than a heartbeat."""
    hub, changes = Hub(), list[NearCacheChanged]()
    hub.on(NearCacheChanged, changes.append)
    async with open_near(server.url, hub=hub) as near:
        for number in range(1, 6):
            await until(lambda: near._serving, within=10, what="it serves")
            with server.client() as client:
                for each in client.client_list():
                    if int(each["sub"]):
                        client.client_kill_filter(_id=each["id"])
            await until(
                lambda number=number: near.reconnects == number, within=5, what="it is noticed"
            )
        await until(lambda: near._serving, within=10, what="it serves")
    assert [change.serving for change in changes] == [True, *[False, True] * 5]
    assert all(bool(change.reason) is not change.serving for change in changes)


async def answers(gateway: Gateway, counts: CacheCounts) -> dict[str, int]:
    return counts.lookups(near_of(gateway.decisions).served).results


async def test_look_ups_are_counted_by_where_the_answer_came_from(server: ValkeyServer) -> None:
    hub, looks = Hub(), list[Looked]()
    hub.on(Looked, looks.append)
    counts = CacheCounts(hub)
    async with near_gateway(server.url, Numbered(), hub=hub) as gateway:
        decisions = gateway.decisions
        await warm(decisions, question())
        before = dict(await answers(gateway, counts))
        seen = len(looks)
        for _ in range(10):
            assert (await decisions.decide(question())).source == "near"
        for _ in range(3):
            assert (await gateway.authorize(ask())).cached == "near"
        wished: tuple[dict[str, Any], ...] = ({"consistency": "full"}, {"freshness": "made-up"})
        for wishes in wished:
            await decisions.decide(question(), **wishes)
            await gateway.authorize(ask(**wishes))
        near_of(decisions).cache.empty()
        await gateway.authorize(ask())
        after = await answers(gateway, counts)
        for name, count in before.items():
            after[name] -= count
        assert {name: count for name, count in after.items() if count} == {
            "near": 13,
            "hit": 1,
            "bypassed": 4,
        }
        assert len(looks) - seen == 8, "what the near cache gave alone cost no event"
        lookups = counts.lookups(near_of(decisions).served)
        hits = lookups.results["near"] + lookups.results["hit"]
        assert lookups.hit_ratio == hits / lookups.total


async def test_the_rights_that_the_documentation_names_suffice(server: ValkeyServer) -> None:
    """And without one of the channels it says so."""
    text = (CHECKOUT / "docs" / "caching.md").read_text()
    rules = text.partition("besides what its keys need:\n\n```\n")[2].partition("```")[0].split()
    with server.client() as client:
        named = ["ACL", "SETUSER", "feed", "on", f">{SECRET}", "-@all", "+auth", "+time", *rules]
        url = f"valkey://feed:{SECRET}@{server.host}:{server.port}/0"
        client.execute_command(*named)
        async with open_near(url) as near:
            assert near.failure == ""
        hub, changes = Hub(), list[NearCacheChanged]()
        hub.on(NearCacheChanged, changes.append)
        for missing in ("&__redis__:invalidate", "&policy:changes", "+client|tracking"):
            changes.clear()
            client.execute_command("ACL", "DELUSER", "feed")
            client.execute_command(*(rule for rule in named if rule != missing))
            async with open_store(url, hub=hub) as store:
                cache = NearCache(
                    max_entries=1, max_bytes=1, generation_key=store.keys.policy_generation
                )
                near = NearFeed(store, cache, bound=BOUND_SECONDS)
                near.start()
                try:
                    await until(lambda: changes, within=10, what="it is told")
                finally:
                    await near.close()
            assert not changes[0].serving
            assert "permission" in changes[0].reason, missing
        client.execute_command("ACL", "DELUSER", "feed")
