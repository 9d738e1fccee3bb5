"""What really stands in a queue, in every format."""

from __future__ import annotations

import pytest

from sark.errors import LimitExceededError
from sark.policy import Decision
from sark.ratelimit import Limit
from sark.siem.formats import FORMAT_NAMES, format_of
from sark.siem.record import decode
from tests.support.gateways import Scripted, ask, open_gateway, raw_events
from tests.support.ocsf import ocsf
from tests.support.servers import ValkeyServer


def end_windows(server: ValkeyServer) -> None:
    """Let every window have ended, as if the time had passed."""
    with server.client() as client:
        for name in client.zrange("siem:refusals:due", 0, -1):
            client.zadd("siem:refusals:due", {name: 1}, xx=True)


async def test_decisions_and_refusals_are_valid_in_every_format(server: ValkeyServer) -> None:
    denies = Scripted(Decision(allow=False, reason="no\nway = |"))
    async with open_gateway(server.url, denies, limit=Limit(1, window_seconds=3600)) as gateway:
        request = ask(action="server:delete", context={"team": "ops"}, ip="203.0.113.7")
        await gateway.authorize(request)
        for _ in range(3):
            with pytest.raises(LimitExceededError):
                await gateway.authorize(request)
        await gateway.refuse_unauthenticated("2001:db8::1", "/v1/authorize")
        end_windows(server)
        await gateway.refusals.close_due()
    raw = raw_events(server)
    written = [ocsf(event) for event in raw]
    assert [(each["activity_name"], each["disposition"]) for each in written] == [
        ("Delete", "Unauthorized"),
        ("Delete", "Blocked"),
        ("Other", "Unauthorized"),
        ("Other", "Blocked"),
    ]
    _, first, _, closing = written
    assert closing["count"] == 2
    assert closing["start_time"] == pytest.approx(first["time"], abs=5)
    for event in raw:
        for name in FORMAT_NAMES:
            assert len(format_of(name).encode(decode(event), event).splitlines()) == 1
