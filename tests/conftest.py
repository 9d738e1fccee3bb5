"""Fixtures for all tests: one real server for the session, fresh ones for faults."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
import valkey
from hypothesis import settings

from tests.support.opa import set_live_opa_aside
from tests.support.servers import ValkeyServer

set_live_opa_aside(os.environ)

NO_EXPIRY = -1

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The session's server. Tests ask for ``server``, which empties it first."""
    with ValkeyServer({"hash-max-listpack-value": "256"}) as server:
        yield server


@pytest.fixture
def server(valkey_server: ValkeyServer) -> Iterator[ValkeyServer]:
    """The session's server, empty; a test that leaves a key to stay for ever fails."""
    if not valkey_server.running:
        valkey_server.start()
    with valkey_server.client() as client:
        client.flushall()
        client.function_flush()
        client.script_flush()
        yield valkey_server
        leaked = leaked_keys(client)
    assert not leaked, f"keys without a TTL that the keyspace doesn't declare permanent: {leaked}"


@pytest.fixture
def private_server() -> Iterator[Callable[..., ValkeyServer]]:
    """A function that starts a fresh server, with options, for tests that break it."""
    with ExitStack() as stack:

        def start(options: Mapping[str, str] | None = None) -> ValkeyServer:
            return stack.enter_context(ValkeyServer(options))

        yield start


def leaked_keys(client: valkey.Valkey) -> list[str]:
    """List the keys without a TTL that are not meant to stay."""
    lasting = [key for key in client.scan_iter(count=1000) if client.ttl(key) == NO_EXPIRY]
    if not lasting:
        return []
    from sark import keyspace

    return sorted(repr(key) for key in lasting if not keyspace.is_permanent(key))
