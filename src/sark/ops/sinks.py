"""What an operator asks of the sinks of audit events: their accounts, and what is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic

import msgspec

from sark.errors import AuditError, StoreError
from sark.parts.forwarding import Forwarding
from sark.siem import SinkStatus
from sark.siem.forwarder import ForwarderState
from sark.siem.rates import Rates
from sark.siem.spill import Spill, SpillStatus

__all__ = ["SinkReport", "Sinks", "collect_sinks"]


class SinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """One sink.

    Attributes:
        sink: Its name.
        address: Where it sends.
        format: Form of what it sends.
        account: Where every event that was ever accepted is; None when Valkey does not answer.
        rates: How fast its queue moves, since the reading before; None at the first.
        spill: Events that waited in this process's spill store; None where there is none.
        breaker: State of its circuit breaker; None where this process does not forward.
        forwarder: What this process's forwarder does; likewise.
    """

    sink: str
    address: str
    format: str
    account: SinkStatus | None
    rates: Rates | None = None
    spill: SpillStatus | None = None
    breaker: str | None = None
    forwarder: ForwarderState | None = None


class Sinks(msgspec.Struct, frozen=True):
    """All sinks.

    Attributes:
        sinks: In the order of the settings.
    """

    sinks: list[SinkReport]


async def collect_sinks(
    forwarding: Forwarding, spill: Spill | None = None, *, budget: float
) -> Sinks:
    """Ask every sink's queue and the spill store.

    Args:
        forwarding: The sinks.
        spill: The process's spill store.
        budget: Seconds that Valkey has to answer.
    """
    deadline = asyncio.get_running_loop().time() + budget
    names = [*forwarding.plans]
    accounts, spilled = await asyncio.gather(
        asyncio.gather(*(_account(forwarding, name, deadline) for name in names)),
        _spilled(spill),
    )
    return Sinks(
        [
            _report(forwarding, name, account, spilled)
            for name, account in zip(names, accounts, strict=True)
        ]
    )


def _report(
    forwarding: Forwarding,
    name: str,
    account: SinkStatus | None,
    spilled: Mapping[str, SpillStatus] | None,
) -> SinkReport:
    plan = forwarding.plans[name]
    breaker, forwarder = forwarding.breakers.get(name), forwarding.forwarders.get(name)
    return SinkReport(
        sink=name,
        address=str(plan.address).partition("=")[2],
        format=plan.format,
        account=account,
        rates=None if account is None else forwarding.readings.rates(account, monotonic()),
        spill=None if spilled is None else spilled.get(name, SpillStatus()),
        breaker=None if breaker is None else breaker.snapshot().state,
        forwarder=None if forwarder is None else forwarder.state,
    )


async def _account(forwarding: Forwarding, name: str, deadline: float) -> SinkStatus | None:
    try:
        return await forwarding.queues[name].status(deadline=deadline)
    except StoreError:
        return None  # that it is missing is shown


async def _spilled(spill: Spill | None) -> dict[str, SpillStatus] | None:
    if spill is None:
        return None
    try:
        return await spill.status()
    except AuditError:
        return None  # the store has reported what its disk says
