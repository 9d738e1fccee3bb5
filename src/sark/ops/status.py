"""One document with everything an operator asks first."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import Any

import msgspec

import sark
from sark.errors import StoreError
from sark.ops.health import Readiness, readiness
from sark.ops.sinks import SinkReport, collect_sinks
from sark.runtime import Runtime
from sark.siem import QueueStatus

__all__ = ["ServerStatus", "Status", "collect_status"]


class ServerStatus(msgspec.Struct, frozen=True):
    """One server as this process sees it.

    Attributes:
        role: What it is used for.
        address: Where it is, without credentials.
        guard_open: Whether calls to it are refused because it was found dead.
        guard_opened: How often that happened.
        failure: What is wrong with it; empty while it answers.
        pool: Connections and waits; see ``PoolStats``.
    """

    role: str
    address: str
    guard_open: bool
    guard_opened: int
    failure: str
    pool: dict[str, Any]


class Status(msgspec.Struct, frozen=True):
    """The state of one process.

    Attributes:
        version: Of SARK.
        pid: Of this process.
        policies: Names that are served.
        revision: Of the policies in force.
        reload_refused: Why the last reload was refused; empty when it was not.
        servers: The Valkey servers.
        queue: The audit queue's account; None when it cannot be read.
        sinks: Where audit events go, and how far they have come.
        readiness: What ``/health/ready`` says.
    """

    version: str
    pid: int
    policies: tuple[str, ...]
    revision: str
    reload_refused: str
    servers: tuple[ServerStatus, ...]
    queue: QueueStatus | None
    sinks: list[SinkReport]
    readiness: Readiness


async def collect_status(runtime: Runtime) -> Status:
    """Ask all parts."""
    queue, sinks, ready = await asyncio.gather(
        _queue(runtime),
        collect_sinks(runtime.forwarding, runtime.spill, budget=runtime.gateway.budget),
        readiness(runtime),
    )
    return Status(
        version=sark.__version__,
        pid=os.getpid(),
        policies=runtime.gateway.policies,
        revision=runtime.gateway.decisions.revision,
        reload_refused=runtime.policies.refused,
        servers=tuple(
            ServerStatus(
                role="state and cache" if runtime.store.shared else server.role,
                address=server.address,
                guard_open=server.guard.is_open,
                guard_opened=server.guard.opened,
                failure=server.guard.reason if server.guard.is_open else "",
                pool=asdict(server.pool_stats()),
            )
            for server in runtime.store.servers
        ),
        queue=queue,
        sinks=sinks.sinks,
        readiness=ready,
    )


async def _queue(runtime: Runtime) -> QueueStatus | None:
    deadline = asyncio.get_running_loop().time() + runtime.settings.request_budget_ms / 1000
    try:
        return await runtime.gateway.queue.status(deadline=deadline)
    except StoreError:
        return None  # that it is missing is told by the readiness report
