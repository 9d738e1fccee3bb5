"""What a scrape tells of breakers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from sark.ops.breaker_metrics import BreakerCollector
from tests.support.breakers import open_breaker
from tests.support.polling import until
from tests.support.servers import ValkeyServer


async def test_state_time_and_openings(server: ValkeyServer) -> None:
    registry = CollectorRegistry()
    async with open_breaker(server, failures=2, open_seconds=30) as (breaker, _):
        registry.register(BreakerCollector(lambda: [breaker]))
        assert registry.get_sample_value(
            "sark_breaker_state", {"breaker": "billing", "state": "closed"}
        ), "known before it has ever changed"
        for _ in range(2):
            (await breaker.acquire()).failed("TimeoutError")
        await until(lambda: breaker.snapshot().state == "open", within=5, what="it opens")

        def value(name: str, **labels: str) -> float:
            found = registry.get_sample_value(name, {"breaker": "billing", **labels})
            assert found is not None, generate_latest(registry).decode()
            return found

        assert value("sark_breaker_state", state="open") == 1
        assert value("sark_breaker_state", state="closed") == 0
        assert value("sark_breaker_alone") == 0
        assert value("sark_breaker_opened_total") == 1
        assert value("sark_breaker_failures") == 2
        assert value("sark_breaker_probes") == 0
        assert 20 < value("sark_breaker_retry_seconds") <= 30
        before = value("sark_breaker_seconds_total", state="open")
        await until(
            lambda: value("sark_breaker_seconds_total", state="open") > before + 0.05,
            within=5,
            what="its time open grows",
        )
        assert value("sark_breaker_seconds_total", state="half_open") == 0
