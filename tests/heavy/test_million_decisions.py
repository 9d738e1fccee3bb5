"""Invalidating among a million cached decisions is what it is among ten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import valkey

from sark.policy.generations import Generations
from tests.support.gateways import generations, open_store
from tests.support.servers import ValkeyServer

FEW, MANY = 10, 1_000_000
CALLS = 300

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(120)]

SCOPES: dict[str, Callable[[Generations], Awaitable[str]]] = {
    "all": Generations.invalidate_all,
    "policy": lambda made: made.invalidate_policy("authz"),
    "user": lambda made: made.invalidate_user("alice"),
}


def statistics(client: valkey.Valkey) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = client.info("commandstats")  # type: ignore[assignment]
    return {name.removeprefix("cmdstat_"): values for name, values in found.items()}


async def cost(client: valkey.Valkey, made: Generations, scope: str) -> tuple[float, set[str]]:
    """Invalidate often; the server's microseconds for each, and the commands that it ran."""
    await SCOPES[scope](made)
    client.config_resetstat()
    for _ in range(CALLS):
        await SCOPES[scope](made)
    found = statistics(client)
    return found["evalsha"]["usec"] / CALLS, set(found) - {"info", "config|resetstat"}


async def test_it_takes_as_long_as_among_ten() -> None:
    with ValkeyServer({"enable-debug-command": "yes"}) as server, server.client() as client:
        client.connection_pool.connection_kwargs["socket_timeout"] = 60
        async with open_store(server.url) as store:
            made = generations(store)
            few, many = {}, {}
            client.execute_command("DEBUG", "POPULATE", FEW, "policy:decision", 200)
            for scope in SCOPES:
                few[scope] = await cost(client, made, scope)
            client.execute_command("DEBUG", "POPULATE", MANY, "policy:decision", 200)
            for scope in SCOPES:
                many[scope] = await cost(client, made, scope)
            assert client.dbsize() == MANY + len(SCOPES)
    for scope in SCOPES:
        assert many[scope][1] == few[scope][1] <= {"evalsha", "get", "set", "time", "publish"}
        # The server's own time for one call; looking at every key would take thousands of times.
        assert many[scope][0] < 3 * few[scope][0] + 20
