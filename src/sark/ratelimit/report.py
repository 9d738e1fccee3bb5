"""What people see of the limits: the rules in force, and who is nearest to a limit."""

from __future__ import annotations

import msgspec

from sark.ratelimit.limit import Kind, LimitState
from sark.ratelimit.limits import RateLimiter
from sark.ratelimit.plan import ChargePlan, read_charge
from sark.ratelimit.rules import Listed, Rule, Rules, Selection

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
        unreachable: Rules that never apply, since earlier ones decide all that they match.
    """

    revision: str
    default: str
    rules: tuple[RuleReport, ...]
    costs: dict[str, int]
    allowed: int
    denied: int
    unreachable: tuple[str, ...] = ()


class NearLimit(msgspec.Struct, frozen=True):
    """One limit of one identity that is more than half used.

    Attributes:
        kind: ``user``, ``ip`` or ``apikey``.
        id: Whose it is; of an id that is too long for a key, its digest.
        used: How much of it is used, from 0 to 1.
        state: The limit as it is now.
    """

    kind: Kind
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
        unreachable=rules.unreachable,
    )


async def nearest(
    limiter: RateLimiter, *, most: int = 20, deadline: float | None = None
) -> list[NearLimit]:
    """List who is nearest to a limit, the nearest first.

    Not a scan: the limits that were noted as more than half used are looked up, at most 100.

    Args:
        limiter: Whose servers; limits that other programs have there are listed as well.
        most: Longest list.
        deadline: On the event loop's clock, in seconds.

    Raises:
        StoreError: The server did not answer.
    """
    found, plans = [], []
    for noted in await limiter.near.noted(deadline=deadline):
        subject = noted.subject
        # As the rule is now, where it is one of the limiter's own.
        own = limiter.rules.find(subject.kind, subject.window, subject.rule)
        if own is None and not subject.rule:
            continue  # a default limit that is in force no more
        found.append(subject)
        selection = Selection([(0, own or noted.applied)], [0])
        plans.append(ChargePlan([subject.id], [noted.key], selection))
    replies = await limiter.look_at(plans, deadline=deadline)
    near = []
    for subject, plan, reply in zip(found, plans, replies, strict=True):
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
