"""What operators see of the limits: the rules in force, and who is nearest to a limit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sark.errors import StoreError
from sark.ratelimit.limit import Kind, LimitState
from sark.ratelimit.limits import RateLimiter
from sark.ratelimit.near_limits import subject_of
from sark.ratelimit.plan import ChargePlan, read_charge
from sark.ratelimit.rules import Listed, Rule, Rules, Selection
from sark.store import Store

__all__ = ["LimitsReport", "NearLimit", "RuleReport", "describe", "nearest"]


class RuleReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule.

    Attributes:
        name: Its name.
        kinds: Which identities it is about.
        limits: What they may do, as the file spells it; none for as much as they like.
        algorithms: How each limit is counted.
        actions: Patterns of actions that it is about; all when empty.
        paths: Patterns of paths that it is about; likewise.
        tiers: Tiers that it is about; likewise.
        shadow: Whether it only reports.
        goes_on: Whether later rules apply as well.
    """

    name: str
    kinds: tuple[Kind, ...]
    limits: tuple[str, ...]
    algorithms: tuple[str, ...]
    actions: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    shadow: bool = False
    goes_on: bool = False


class LimitsReport(msgspec.Struct, frozen=True):
    """The rules in force.

    Attributes:
        revision: Of the file.
        default: The limit of each identity that no rule decides; empty for none.
        rules: In order.
        costs: What actions cost, by pattern.
        allowed: How many entries the allow-list has.
        denied: How many entries the deny-list has.
    """

    revision: str
    default: str
    rules: tuple[RuleReport, ...]
    costs: dict[str, int]
    allowed: int
    denied: int


class NearLimit(msgspec.Struct, frozen=True):
    """One limit of one identity that is more than half used.

    Attributes:
        kind: ``user``, ``ip`` or ``apikey``.
        id: Whose it is; of an id that is too long for a key, its digest.
        used: How much of it is used, from 0 to 1.
        state: The limit as it is now.
    """

    kind: str
    id: str
    used: float
    state: LimitState


def describe(rules: Rules) -> LimitsReport:
    """Describe the rules."""
    return LimitsReport(
        revision=rules.revision,
        default="" if rules.default is None else str(rules.default),
        rules=tuple(map(_rule, rules.rules)),
        costs={", ".join(patterns.patterns): cost for patterns, cost in rules.costs},
        allowed=_count(rules.allow),
        denied=_count(rules.deny),
    )


async def nearest(
    limiter: RateLimiter, store: Store, *, most: int, deadline: float | None = None
) -> list[NearLimit]:
    """List who is nearest to a limit, the nearest first.

    Not a scan: the limits that were noted as more than half used are looked up, at most 100.

    Args:
        limiter: Whose limits.
        store: Where they are counted.
        most: Longest list.
        deadline: On the event loop's clock, in seconds.

    Raises:
        StoreError: The server did not answer.
    """
    found, plans = [], []
    for key in await limiter.near.keys(deadline=deadline):
        subject = subject_of(key)
        applied = subject and limiter.rules.find(subject.kind, subject.window, subject.rule)
        if subject and applied:
            found.append(subject)
            plans.append(ChargePlan([subject.id], [key], Selection([(0, applied)], [0])))
    calls = [limiter.look(plan) for plan in plans]
    replies: Sequence[list[int] | StoreError] = await store.state.pipeline(
        calls, deadline=deadline, idempotent=True
    )
    near = []
    for subject, plan, reply in zip(found, plans, replies, strict=True):
        if isinstance(reply, StoreError):
            raise reply
        (state,) = read_charge(plan, [1, *reply[1:]]).states
        capacity = plan.selection.applied[0].limit.capacity
        used = 1 - min(state.remaining, capacity) / capacity
        if used > 0:
            near.append(NearLimit(subject.kind, subject.id, round(used, 3), state))
    near.sort(key=lambda each: (-each.used, each.kind, each.id, each.state.policy))
    return near[:most]


def _rule(rule: Rule) -> RuleReport:
    return RuleReport(
        name=rule.name,
        kinds=rule.kinds,
        limits=tuple(map(str, rule.limits)),
        algorithms=tuple(limit.algorithm for limit in rule.limits),
        actions=rule.actions.patterns,
        paths=rule.paths.patterns,
        tiers=tuple(sorted(rule.tiers)),
        shadow=rule.shadow,
        goes_on=rule.goes_on,
    )


def _count(listed: Listed) -> int:
    return len(listed.networks) + sum(map(len, listed.ids.values()))
