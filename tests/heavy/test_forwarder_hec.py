"""The forwarder with its real breaker, its real sink, and a real collector that is killed."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import SecretStr

from sark.parts.forwarding import open_forwarding
from sark.settings import Settings, SinkAddress
from sark.siem import SinkQueue
from sark.siem.sinks.registry import plan_sinks
from tests.support.forwarders import closed_account, fill, is_drained, queue_of
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.receivers import HEC_TOKEN, hec_receiver
from tests.support.servers import ValkeyServer

pytestmark = pytest.mark.heavy

PATIENCE_SECONDS = 90.0


async def test_a_collector_that_is_killed_loses_no_acknowledged_event_here(
    server: ValkeyServer,
) -> None:
    with hec_receiver(events_a_second=2000) as receiver:
        address = SinkAddress(
            "main",
            "splunk+http",
            host=receiver.host,
            port=receiver.port,
            options=(("format", "sark"),),
        )
        settings = Settings(
            siem_sinks=(address,),
            siem_tokens={"main": SecretStr(HEC_TOKEN)},
            siem_batch_events=100,
            siem_retry_cap=1.0,
            siem_timeout=5.0,
            siem_breaker_open_cap=2.0,
        )
        async with open_store(server.url) as store:
            ids = await fill(store, 4000)
            queue = queue_of(store)
            async with open_forwarding(settings, store, plan_sinks(settings), forward=True):
                for _ in range(2):
                    before = (await queue.status()).delivered.events

                    async def flows(before: int = before) -> bool:
                        return (await queue.status()).delivered.events > before + 300

                    await until(flows, within=PATIENCE_SECONDS, what="events flow")
                    receiver.kill()
                    await until(
                        lambda: is_held(queue), within=PATIENCE_SECONDS, what="nothing is lost"
                    )
                    receiver.start()
                await until(
                    lambda: is_drained(queue), within=PATIENCE_SECONDS, what="all are delivered"
                )
            status = await closed_account(queue)
            assert (status.delivered, status.failed.events) == (status.accepted, 0)
        # What a killed collector had taken and not yet written down is its own loss; what it wrote
        # down is ours, and next to nothing of it came twice.
        arrived = Counter(each["event"]["id"] for each in receiver.arrived)
        assert set(arrived) <= set(ids)
        assert sum(arrived.values()) - len(arrived) <= 2 * 100


async def is_held(queue: SinkQueue) -> bool:
    """Whether the account closes while nobody takes events."""
    status = await queue.status()
    return status.balanced and not status.failed.events
