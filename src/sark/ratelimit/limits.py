"""The rate limiter: charges requests against the limits of all their identities at once.

A request names up to three identities: its user, its ip address and its api key. The rules say
which limits apply to each (``rules``); all of them are charged by one script in one round trip, and
a request that one of them refuses charges none. So a client that retries while it is refused is not
punished for it.

When Valkey does not answer, requests are counted in this process (``local``), or all pass, or all
fail, as the limiter is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import Literal

from sark.errors import STORE_AWAY, StoreError
from sark.events import LimitFallback, LimitRefused, LimitShadowed
from sark.ratelimit.address import canonical_ip
from sark.ratelimit.limit import Charge, Identity, Limit
from sark.ratelimit.local import LocalLimits
from sark.ratelimit.near_limits import NearLimits
from sark.ratelimit.plan import FREE, ChargePlan, denial, read_charge, verdict_of
from sark.ratelimit.planner import Planner
from sark.ratelimit.rules import Rule, Rules, Selection
from sark.store import Argument, ScriptCall, Store, load_script

__all__ = ["CHARGE_FRAGMENTS", "PLAIN_FRAGMENTS", "Fallback", "RateLimiter"]

Fallback = Literal["local", "open", "closed"]

DEFAULT_BUDGET_SECONDS = 0.25
MAX_LIMITS_IN_CODE = 1024
"""Of other rules, those that a limiter knows of."""


def _fragments(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple(("sark.ratelimit", f"{name}.lua") for name in names)


# Both define ``ratelimit_charge`` and need the clock before them. The plain ones are for selections
# that are plain, the others for all.
PLAIN_FRAGMENTS = _fragments("count", "convert", "fixed", "free", "charge_plain")
CHARGE_FRAGMENTS = _fragments(
    "count", "convert", "fixed", "sliding", "gcra", "free", "judge", "charge"
)
_CLOCK = ("sark.store", "clock.lua")
_MAIN = ("sark.ratelimit", "charge_main.lua")
_CHARGE = load_script("ratelimit.charge", _CLOCK, *CHARGE_FRAGMENTS, _MAIN)
_CHARGE_PLAIN = load_script("ratelimit.charge_plain", _CLOCK, *PLAIN_FRAGMENTS, _MAIN)
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
        plan: Says what a request is charged; see ``Planner.plan``.
        plan_many: Likewise of several questions; see ``Planner.plan_many``.
        near: Who is near a limit.
        fallback: As given.
        store: As given.
        refused_rules: Why the rules that were read last are not in force; empty when they are.
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
        self.store = self._store = store
        self.refused_rules = ""
        rules = limits if isinstance(limits, Rules) else Rules(limits)
        self._plan_by(Planner(store.keys, rules, ipv6_prefix=ipv6_prefix))
        self.fallback = fallback
        self.near = NearLimits(store)
        self._local = LocalLimits(processes)
        # What ``with_rules`` was given, by name and kinds; ``show`` and ``reset`` tell of it.
        self._in_code: dict[object, Rule] = {}
        self._budget = budget

    @property
    def rules(self) -> Rules:
        """The rules in force; they may be replaced at any time."""
        return self._planner.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._planner.rules = rules

    def with_rules(self, rules: Rules) -> RateLimiter:
        """Make a limiter of other rules that shares all the rest, also what it counts locally."""
        for rule in rules.rules:
            if len(self._in_code) < MAX_LIMITS_IN_CODE:
                self._in_code[rule.name, rule.kinds] = rule
        derived, planner = copy(self), copy(self._planner)
        planner.rules = rules
        derived._plan_by(planner)  # noqa: SLF001 - of this very class
        return derived

    def _plan_by(self, planner: Planner) -> None:
        self._planner = planner
        self.plan = planner.plan
        self.plan_many = planner.plan_many

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

    def read(self, plan: ChargePlan, reply: Sequence[int]) -> Charge:
        """Interpret the script's reply, and report what it tells; no I/O."""
        charge = read_charge(plan, reply)
        for state in charge.states:
            if state.remaining * 2 < (state.burst or state.limit):
                self._note(plan, charge)
                break
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
            charge = denial(plan.denied)
            self._store.hub.emit(LimitRefused(plan.denied[0], charge.policy))
            return charge
        if not plan.keys:
            return FREE
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._budget
        try:
            script = _CHARGE_PLAIN if plan.selection.plain else _CHARGE
            reply = await self._store.state.run(
                script, plan.keys, plan.selection.arguments, deadline=deadline
            )
        except STORE_AWAY as error:
            charge = self.without_store(plan, error)
        else:
            charge = self.read(plan, reply.value)
        if charge.refused is not None:
            self._store.hub.emit(LimitRefused(charge.refused[0], charge.policy))
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

        That is what the rules say, what this process has written into its code, and what other
        programs have and is more than half used. Two round trips.

        Raises:
            InvalidRequestError: An ip is no address.
            StoreError: The server did not answer.
        """
        plan = await self._every(identity, deadline)
        if not plan.keys:
            return FREE
        reply = await self._look(plan, deadline)
        return read_charge(plan, [1, *reply[1:]])

    def listed(self, identity: Identity) -> Literal["", "allow", "deny"]:
        """Tell which of the lists an identity is on, if any.

        Raises:
            InvalidRequestError: An ip is neither an address nor a network by which one is limited.
        """
        if not self.rules.lists:
            return ""
        if self._planner.named(identity) == identity and "/" in identity[1] and identity[0] == "ip":
            return ""  # of a network, each address is or is not
        if identity in self.rules.deny:
            return "deny"
        return "allow" if identity in self.rules.allow else ""

    async def reset(self, identity: Identity, *, deadline: float | None = None) -> int:
        """Forget what an identity has used of the limits that ``show`` lists.

        Returns:
            How many of its limits had been in use.

        Raises:
            InvalidRequestError: An ip is no address.
            StoreError: The server did not answer.
        """
        plan = await self._every(identity, deadline)
        self._local.forget(plan.keys)
        self.near.forget(plan.keys)
        if not plan.keys:
            return 0
        state = self._store.state
        found: int = await state.execute("UNLINK", *plan.keys, deadline=deadline, idempotent=True)
        await self.near.remove(plan.keys, deadline=deadline)
        return found

    async def _every(self, identity: Identity, deadline: float | None) -> ChargePlan:
        """Plan a look at all limits of an identity."""
        kind = identity[0]
        found = {(each.rule, each.limit.window_seconds): each for each in self.rules.applied(kind)}
        for rule in tuple(self._in_code.values()):
            for each in rule.applied(kind):
                found.setdefault((each.rule, each.limit.window_seconds), each)
        plan = self._planner.looking(identity, list(found.values()))
        known = {*plan.keys}
        others = [
            noted
            for noted in await self.near.noted(deadline=deadline)
            if noted.subject.rule
            and noted.key not in known
            and noted.key in self._planner.looking(identity, [noted.applied]).keys
        ]
        if not others:
            return plan
        applied = [*found.values(), *(noted.applied for noted in others)]
        selection = Selection([(0, each) for each in applied], [0] * len(applied))
        return ChargePlan(plan.names, [*plan.keys, *(noted.key for noted in others)], selection)

    async def look_at(
        self, plans: Sequence[ChargePlan], *, deadline: float | None = None
    ) -> list[Sequence[int]]:
        """Look at the limits of several plans, and charge nothing: one round trip.

        Raises:
            StoreError: The server did not answer.
        """
        replies: Sequence[list[int] | StoreError] = await self._store.state.pipeline(
            [self.look(plan) for plan in plans], deadline=deadline, idempotent=True
        )
        found: list[Sequence[int]] = []
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
            found.append(reply)
        return found

    def look(self, plan: ChargePlan) -> ScriptCall:
        """Build the call that looks at a plan's limits and charges nothing."""
        arguments: list[Argument] = [plan.selection.letters]
        for each in plan.selection.applied:
            arguments += each.arguments(0)
        return ScriptCall(_CHARGE, plan.keys, arguments)

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

    def without_store(self, plan: ChargePlan, error: StoreError) -> Charge:
        """Charge a plan while Valkey does not answer, as the limiter was told to; no I/O.

        Args:
            plan: What to charge.
            error: How Valkey failed.

        Raises:
            StoreError: That error, when the limiter is to be closed.
        """
        if not plan.keys:
            return FREE
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
        script, keys, arguments = self.look(plan)
        reply = await self._store.state.run(
            script, keys, arguments, deadline=deadline, idempotent=True
        )
        figures: Sequence[int] = reply.value
        return figures

    def _note(self, plan: ChargePlan, charge: Charge) -> None:
        for key, applied, state in zip(
            plan.keys, plan.selection.applied, charge.states, strict=True
        ):
            if state.remaining * 2 < (state.burst or state.limit):
                self.near.note(key, applied, state)

    def _report_shadow(self, plan: ChargePlan, charge: Charge) -> None:
        for policy in charge.shadow:
            kind = next(each.kind for each in plan.selection.applied if each.policy == policy)
            self._store.hub.emit(LimitShadowed(kind, policy))
