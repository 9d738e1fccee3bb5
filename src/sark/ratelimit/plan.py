"""What one request is charged: keys and arguments of the script, and what its reply means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from sark.ratelimit.algorithms import Figure, standing, wait_for
from sark.ratelimit.limit import Charge, Identity, LimitState, Source
from sark.ratelimit.rules import Applied, Selection

__all__ = ["FREE", "ChargePlan", "denial", "read_charge", "verdict_of"]

DENIED_SECONDS = 60
"""How long a denied identity is told to wait, and its refusals are recorded together."""

FREE = Charge(admitted=True, states=())


class ChargePlan(msgspec.Struct, frozen=True):
    """One request's charge.

    Attributes:
        names: Whose limits they are, as they are counted.
        keys: Where each limit is counted.
        selection: The limits.
        denied: Who is on the deny-list; nothing is charged then.
    """

    names: Sequence[str]
    keys: Sequence[str]
    selection: Selection
    denied: Identity | None = None

    @property
    def arguments(self) -> Sequence[bytes]:
        """What the script is told of the limits."""
        return self.selection.arguments

    def figures(self, reply: Sequence[int]) -> list[Figure]:
        """Take a reply of the script apart."""
        figures, place = [], 2
        for each in self.selection.applied:
            end = place + (3 if each.limit.algorithm == "sliding" else 2)
            figures.append(tuple(reply[place:end]))
            place = end
        return figures


def read_charge(plan: ChargePlan, reply: Sequence[int], source: Source = "valkey") -> Charge:
    """Interpret a reply of the script, or of the local limiter.

    Args:
        plan: What was charged.
        reply: See ``charge.lua``.
        source: Who replied.
    """
    selection = plan.selection
    if not selection.applied:
        return FREE
    states = _plain_states(selection, reply) if selection.plain else _states(plan, reply)
    verdict = reply[0]
    if verdict == 0:
        return _refusal(plan, reply, states, source)
    if verdict == 1:
        return Charge(admitted=True, states=states, source=source)
    names = tuple(each.policy for i, each in enumerate(selection.applied, 1) if verdict >> i & 1)
    return Charge(admitted=True, states=states, shadow=names, source=source)


def verdict_of(plan: ChargePlan, reply: Sequence[int]) -> int:
    """Tell what the script would answer for the plan, from what it answered for a cost of 0."""
    verdict = 1
    for number, (each, cost, figure) in enumerate(_each(plan, reply)):
        if _refuses(each, figure, cost):
            if not each.shadow:
                return 0
            verdict += 2 << number
    return verdict


def _plain_states(selection: Selection, reply: Sequence[int]) -> tuple[LimitState, ...]:
    # Nearly all requests come this way.
    states, place = [], 2
    for kind, most, window, policy in selection.heads:
        used = reply[place]
        remaining = most - used if used < most else 0
        states.append(
            LimitState(kind, most, remaining, -(-reply[place + 1] // 1000), window, policy)
        )
        place += 2
    return tuple(states)


def _states(plan: ChargePlan, reply: Sequence[int]) -> tuple[LimitState, ...]:
    selection, states = plan.selection, []
    for each, (kind, most, window, policy), figure in zip(
        selection.applied, selection.heads, plan.figures(reply), strict=True
    ):
        remaining, reset = standing(each.limit, figure)
        burst = each.limit.burst or 0
        reset = -(-reset // 1_000_000)
        states.append(LimitState(kind, most, remaining, reset, window, policy, burst, each.shadow))
    return tuple(states)


def _refusal(
    plan: ChargePlan, reply: Sequence[int], states: tuple[LimitState, ...], source: Source
) -> Charge:
    refusing, shadow, wait = [], [], 0
    for number, (each, cost, figure) in enumerate(_each(plan, reply)):
        if not _refuses(each, figure, cost):
            continue
        if each.shadow:
            shadow.append(each.policy)
            continue
        refusing.append((number, each, figure))
        wait = max(wait, wait_for(each.limit, figure, cost))
    number, first, figure = refusing[0]
    return Charge(
        admitted=False,
        states=states,
        refused=(first.kind, plan.names[plan.selection.owners[number]]),
        retry_after=max(1, -(-wait // 1_000_000)),
        refused_for=standing(first.limit, figure)[1] / 1_000_000,
        policy=first.policy,
        name=plan.keys[number],
        shadow=tuple(shadow),
        source=source,
    )


def _each(plan: ChargePlan, reply: Sequence[int]) -> Iterable[tuple[Applied, int, Figure]]:
    selection = plan.selection
    return zip(selection.applied, selection.costs, plan.figures(reply), strict=True)


def _refuses(each: Applied, figure: Figure, cost: int) -> bool:
    if each.limit.algorithm == "fixed":
        # Its window may end within this millisecond, and then there is nothing to wait for.
        return figure[0] + cost > each.limit.requests
    return wait_for(each.limit, figure, cost) > 0


def denial(identity: Identity) -> Charge:
    """Tell that an identity is on the deny-list."""
    return Charge(
        admitted=False,
        states=(),
        refused=identity,
        retry_after=DENIED_SECONDS,
        refused_for=float(DENIED_SECONDS),
        policy="deny",
        name=f"deny:{identity[0]}:{identity[1]}",
        source="rules",
    )
