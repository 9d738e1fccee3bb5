"""The leases that a forwarder holds, on a real server."""

from __future__ import annotations

from sark.siem.forwarder.holdings import Holdings
from tests.support.forwarders import fill, queue_of
from tests.support.gateways import open_store
from tests.support.leases import contents, ids_of
from tests.support.servers import ValkeyServer


async def test_what_is_given_back_is_in_order_whichever_lease_was_resumed(
    server: ValkeyServer,
) -> None:
    async with open_store(server.url) as store:
        ids = await fill(store, 30)
        queue = queue_of(store)
        holdings = Holdings(queue, slots=3, events=10, size=10**6, seconds=5.0)
        batches = [await holdings.take() for _ in range(3)]
        first = batches[0]
        assert first is not None
        # As after a lost reply: the first has the newest token now.
        resumed = await queue.resume(first.lease.worker)
        assert resumed is not None
        first.lease = resumed
        await holdings.give_back()
        assert ids_of(contents(server)) == ids
