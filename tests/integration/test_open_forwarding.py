"""The forwarders of a process, put together from its settings."""

from __future__ import annotations

from sark.parts.forwarding import open_forwarding
from sark.settings import load
from sark.siem.sinks.registry import plan_sinks
from tests.support.gateways import open_store
from tests.support.servers import ValkeyServer


async def test_a_probe_may_wait_for_an_acknowledgement(server: ValkeyServer) -> None:
    address = "splunk+http://127.0.0.1:1"
    sinks = f"{address}?ack=true&ack_timeout=200,plain={address}"
    tokens = {"SARK_SIEM_MAIN_TOKEN": "one", "SARK_SIEM_PLAIN_TOKEN": "two"}
    settings = load({"SARK_SIEM_SINKS": sinks, **tokens, "SARK_SIEM_TIMEOUT": "10"})
    async with (
        open_store(server.url) as store,
        open_forwarding(settings, store, plan_sinks(settings), forward=True) as forwarding,
    ):
        leases = {name: each.config.probe_lease for name, each in forwarding.breakers.items()}
    # Sending, and the wait for what was sent; without it a probe's result would come too late.
    assert leases == {"main": 220.0, "plain": 30.0}
