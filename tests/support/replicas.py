"""A primary and its replica."""

from __future__ import annotations

from typing import cast

from tests.support.polling import until
from tests.support.servers import ValkeyServer

__all__ = ["AT_ONCE", "follow", "linked"]

AT_ONCE = {"repl-diskless-sync-delay": "0"}
"""Options of a primary that doesn't wait for more replicas before it serves one."""


def follow(replica: ValkeyServer, primary: ValkeyServer) -> None:
    """Let a server be the replica of another."""
    client = replica.client()
    client.config_set("primaryauth", primary.password)
    client.replicaof(primary.host, primary.port)


async def linked(replica: ValkeyServer) -> None:
    """Wait until a replica follows its primary."""
    client = replica.client()

    def is_up() -> bool:
        found = cast("dict[str, str]", client.info("replication"))
        return found["master_link_status"] == "up"

    await until(is_up, within=20, what="the replica follows its primary")
