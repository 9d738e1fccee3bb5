"""The rate limiter: charges requests against the limits of all their identities at once.

A request names up to three identities: its user, its ip address and its api key. The rules say
which limits apply to each (``rules``); all of them are charged by one script in one round trip, and
a request that one of them refuses charges none. So a client that retries while it is refused is not
punished for it.

When Valkey does not answer, ``check`` counts in this process (``local``), or lets everything pass,
or fails, as it is told. Within ``authorize()`` a request fails without Valkey anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from sark.errors import (
    ConnectionLostError,
    InvalidRequestError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.events import LimitFallback, LimitRefused, LimitShadowed
from sark.keyspace import encode_id
from sark.ratelimit.address import canonical_ip, limited_ip
from sark.ratelimit.limit import Charge, Identity, Limit
from sark.ratelimit.local import LocalLimits
from sark.ratelimit.near_limits import NearLimits
from sark.ratelimit.plan import FREE, ChargePlan, denial, read_charge, verdict_of
from sark.ratelimit.rules import Applied, Rules, Selection
from sark.store import Store, load_script

__all__ = ["CHARGE_FRAGMENTS", "Fallback", "RateLimiter"]

Fallback = Literal["local", "open", "closed"]

DEFAULT_BUDGET_SECONDS = 0.25
ENCODED_IDS = 8192
_encoded = lru_cache(ENCODED_IDS)(encode_id)
NOTHING = Selection((), ())
_AWAY = (StoreUnavailableError, StoreTimeoutError, ConnectionLostError)

# The clock has to come first.
CHARGE_FRAGMENTS = tuple(
    ("sark.ratelimit", name)
    for name in (
        "convert.lua",
        "fixed.lua",
        "sliding.lua",
        "gcra.lua",
        "judge.lua",
        "keep.lua",
        "charge.lua",
    )
)
_CLOCK = ("sark.store", "clock.lua")
_CHARGE = load_script(
    "ratelimit.charge", _CLOCK, *CHARGE_FRAGMENTS, ("sark.ratelimit", "charge_main.lua")
)
_REFUND = load_script("ratelimit.refund", _CLOCK, ("sark.ratelimit", "refund.lua"))


class RateLimiter:
    """Charges requests against limits.

    Args:
        store: Where it is counted.
        limits: The rules, or the one limit of every identity; None switches limits off.
        fallback: What to do while Valkey does not answer: count ``local``, be ``open``, or be
            ``closed``, which raises the error.
        processes: How many processes share a limit: each counts its part of it while it is local.
        ipv6_prefix: Bits of an IPv6 address by which it is limited.
        budget: Seconds for a check that is given no deadline.

    Attributes:
        rules: The rules in force; may be replaced at any time.
        near: Who is near a limit.
        fallback: As given.
    """

    def __init__(
        self,
        store: Store,
        limits: Rules | Limit | None,
        *,
        fallback: Fallback = "local",
        processes: int = 1,
        ipv6_prefix: int = 64,
        budget: float = DEFAULT_BUDGET_SECONDS,
    ) -> None:
        self._store = store
        self.rules = limits if isinstance(limits, Rules) else Rules(limits)
        self.fallback = fallback
        self.near = NearLimits(store)
        self._local = LocalLimits(processes)
        self._prefix = ipv6_prefix
        self._budget = budget

    def identities(
        self, user_id: str, ip: str | None, api_key_id: str | None
    ) -> tuple[Identity, ...]:
        """List the identities of a request that are limited.

        Raises:
            InvalidRequestError: ``ip`` is no address.
        """
        found: list[Identity] = [("user", user_id)]
        if ip is not None:
            found.append(("ip", canonical_ip(ip)))
        if api_key_id is not None:
            found.append(("apikey", api_key_id))
        return tuple(found) if self.rules.limits_anything else ()

    def plan(
        self,
        identities: Sequence[Identity],
        *,
        action: str = "",
        path: str = "",
        tier: str = "",
        cost: int | None = None,
    ) -> ChargePlan:
        """Say what a request is charged; no I/O. Arguments as in ``check``.

        Raises:
            InvalidRequestError: An ip is no address, or the cost is more than a limit ever admits.
        """
        denied, identities = self._sift(identities)
        if denied is not None:
            return ChargePlan((), (), NOTHING, denied)
        kinds = tuple([kind for kind, _ in identities])
        selection = self.rules.select(kinds, action, path, tier)
        if cost is not None:
            costs = [cost] * len(selection.applied)
            _check_costs(selection, costs, "cost")
            if selection.costs != tuple(costs):
                selection = selection.charging(costs)
        return self._planned(identities, selection)

    def plan_many(
        self, identities: Sequence[Identity], actions: Sequence[str], *, tier: str = ""
    ) -> ChargePlan:
        """Say what several questions of the same identities are charged together; no I/O.

        Raises:
            InvalidRequestError: ``questions`` are more than a limit ever admits.
        """
        denied, identities = self._sift(identities)
        if denied is not None:
            return ChargePlan((), (), NOTHING, denied)
        kinds = tuple([kind for kind, _ in identities])
        costs: dict[tuple[int, Applied], int] = {}
        counts = dict.fromkeys(actions, 0) if self.rules.by_action else {"": 0}
        for action in actions:
            counts[action if self.rules.by_action else ""] += 1
        for action, count in counts.items():
            selection = self.rules.select(kinds, action, tier=tier)
            for owner, each, cost in zip(
                selection.owners, selection.applied, selection.costs, strict=True
            ):
                costs[owner, each] = costs.get((owner, each), 0) + cost * count
        whole = Selection(list(costs), list(costs.values()))
        _check_costs(whole, list(costs.values()), "questions", len(actions))
        return self._planned(identities, whole)

    def read(self, plan: ChargePlan, reply: Sequence[int]) -> Charge:
        """Interpret the script's reply, and report what it tells; no I/O."""
        charge = read_charge(plan, reply)
        for number, state in enumerate(charge.states):
            if state.remaining * 2 < (state.burst or state.limit):
                self.near.note(plan.keys[number], state.burst or state.limit, state)
        if charge.shadow:
            self._report_shadow(plan, charge)
        return charge

    async def check(
        self,
        identities: Sequence[Identity],
        *,
        action: str = "",
        path: str = "",
        tier: str = "",
        cost: int | None = None,
        deadline: float | None = None,
    ) -> Charge:
        """Charge one request: one round trip. Never repeated when its outcome is unknown.

        Args:
            identities: Who asks. An IPv6 address counts for its network.
            action: What is asked for, such as ``server:read``; selects rules.
            path: The path of an HTTP request; likewise.
            tier: The caller's plan, from a verified claim and never from what the caller says
                itself; likewise.
            cost: How many requests it counts as; left out, what the rules say of the action.
            deadline: On the event loop's clock, in seconds; left out, now plus the budget.

        Raises:
            InvalidRequestError: An ip is no address, or the cost is more than a limit ever admits.
            StoreError: The server did not answer and the limiter is to be closed then, or it
                answered with an error.
        """
        plan = self.plan(identities, action=action, path=path, tier=tier, cost=cost)
        if plan.denied is not None:
            self._store.hub.emit(LimitRefused(plan.denied[0]))
            return denial(plan.denied)
        if not plan.keys:
            return FREE
        charge = await self._charge(plan, deadline)
        if charge.refused is not None:
            self._store.hub.emit(LimitRefused(charge.refused[0]))
        return charge

    async def consume(
        self, identities: Sequence[Identity], cost: int, *, deadline: float | None = None
    ) -> Charge:
        """Charge a cost that the caller knows, whatever the rules say of actions; as ``check``."""
        return await self.check(identities, cost=cost, deadline=deadline)

    async def peek(
        self,
        identities: Sequence[Identity],
        *,
        action: str = "",
        path: str = "",
        tier: str = "",
        deadline: float | None = None,
    ) -> Charge:
        """Tell what ``check`` would answer, and charge nothing.

        Raises:
            StoreError: The server did not answer.
        """
        plan = self.plan(identities, action=action, path=path, tier=tier)
        if plan.denied is not None:
            return denial(plan.denied)
        if not plan.keys:
            return FREE
        reply = await self._look(plan, deadline)
        return read_charge(plan, [verdict_of(plan, reply), *reply[1:]])

    async def show(self, identity: Identity, *, deadline: float | None = None) -> Charge:
        """Tell the state of every limit that may apply to an identity, in use or not.

        Raises:
            InvalidRequestError: An ip is no address.
            StoreError: The server did not answer.
        """
        plan = self._every(identity)
        if not plan.keys:
            return FREE
        reply = await self._look(plan, deadline)
        return read_charge(plan, [1, *reply[1:]])

    async def reset(self, identity: Identity, *, deadline: float | None = None) -> int:
        """Forget what an identity has used.

        Returns:
            How many of its limits had been in use.

        Raises:
            InvalidRequestError: An ip is no address.
            StoreError: The server did not answer.
        """
        plan = self._every(identity)
        self._local.forget(plan.keys)
        self.near.forget(plan.keys)
        if not plan.keys:
            return 0
        state = self._store.state
        found: int = await state.execute("UNLINK", *plan.keys, deadline=deadline, idempotent=True)
        await self.near.remove(plan.keys, deadline=deadline)
        return found

    async def refund(
        self, plan: ChargePlan, reply: Sequence[int], *, deadline: float | None = None
    ) -> int:
        """Give back what an admitted charge took, because another one was refused.

        For a cluster, where the limits of a request live in several slots: they are charged
        concurrently, and what was admitted is given back when one of them refuses.

        Args:
            plan: What was charged; all of its keys in one slot.
            reply: What the script returned.
            deadline: As in ``check``.

        Returns:
            How many limits were given back; what has ended meanwhile is not.
        """
        arguments: list[int] = []
        letters, keys = "", []
        figures = plan.figures(reply)
        selection = plan.selection
        for number, (each, cost) in enumerate(zip(selection.applied, selection.costs, strict=True)):
            if reply[0] >> (number + 1) & 1:
                continue  # in shadow mode, and not charged
            letters += each.letter.lower()
            keys.append(plan.keys[number])
            limit = each.limit
            arguments += [cost, limit.requests, limit.window_seconds, figures[number][-1]]
        if not keys:
            return 0
        answer = await self._store.state.run(
            _REFUND, keys, [letters, reply[1], *arguments], deadline=deadline
        )
        given: int = answer.value
        return given

    def _sift(self, identities: Sequence[Identity]) -> tuple[Identity | None, Sequence[Identity]]:
        """Find who is denied, leave out who is not limited, and name networks."""
        rules = self.rules
        if rules.lists:
            for identity in identities:
                if identity in rules.deny:
                    return self._subject(identity), ()
            identities = [identity for identity in identities if identity not in rules.allow]
        prefix = self._prefix
        return None, [
            (kind, limited_ip(name, prefix)) if kind == "ip" else (kind, name)
            for kind, name in identities
        ]

    def _subject(self, identity: Identity) -> Identity:
        kind, name = identity
        return identity if kind != "ip" else ("ip", limited_ip(name, self._prefix))

    def _planned(self, identities: Sequence[Identity], selection: Selection) -> ChargePlan:
        names = selection.names
        if names is None:
            build = self._store.keys.ratelimit_parts
            names = selection.names = tuple(
                (owner, *build(each.kind, each.limit.window_seconds, each.rule))
                for owner, each in zip(selection.owners, selection.applied, strict=True)
            )
        keys = [head + _encoded(identities[owner][1]) + tail for owner, head, tail in names]
        return ChargePlan(identities, keys, selection)

    def _every(self, identity: Identity) -> ChargePlan:
        subject = self._subject(identity)
        applied = self.rules.applied(subject[0])
        selection = Selection([(0, each) for each in applied], [0] * len(applied))
        return self._planned([subject], selection)

    async def _charge(self, plan: ChargePlan, deadline: float | None) -> Charge:
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._budget
        try:
            reply = await self._store.state.run(
                _CHARGE, plan.keys, plan.arguments, deadline=deadline
            )
        except _AWAY as error:
            return self._without_store(plan, error)
        if self._local:
            self._local.clear()
        return self.read(plan, reply.value)

    def _without_store(self, plan: ChargePlan, error: StoreError) -> Charge:
        self._store.hub.emit(LimitFallback(self.fallback))
        if self.fallback == "closed":
            raise error
        if self.fallback == "open":
            return Charge(admitted=True, states=(), source="open")
        part, reply = self._local.charge(plan)
        charge = read_charge(part, reply, "local")
        self._report_shadow(part, charge)
        return charge

    async def _look(self, plan: ChargePlan, deadline: float | None) -> Sequence[int]:
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._budget
        arguments = [plan.arguments[0]]
        for each in plan.selection.applied:
            arguments += each.arguments(0)
        reply = await self._store.state.run(
            _CHARGE, plan.keys, arguments, deadline=deadline, idempotent=True
        )
        figures: Sequence[int] = reply.value
        return figures

    def _report_shadow(self, plan: ChargePlan, charge: Charge) -> None:
        for policy in charge.shadow:
            kind = next(each.kind for each in plan.selection.applied if each.policy == policy)
            self._store.hub.emit(LimitShadowed(kind, policy))


def _check_costs(
    selection: Selection, costs: Sequence[int], field: str, count: int | None = None
) -> None:
    """Refuse what would never be admitted, however long one waited."""
    for each, cost in zip(selection.applied, costs, strict=True):
        if cost < 0:
            raise InvalidRequestError(field, f"got {cost}, expected at least 0")
        most = each.limit.capacity
        if cost > most and not each.shadow:
            came = f"{cost}" if count in {None, cost} else f"{count} that cost {cost}"
            raise InvalidRequestError(
                field, f"got {came}, expected at most {most}, which is the rate limit"
            )
