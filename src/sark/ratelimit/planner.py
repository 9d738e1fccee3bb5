"""What a request is charged: its identities, the rules, and the keys that come of both. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sark.errors import InvalidRequestError
from sark.keyspace import Keyspace, encode_id
from sark.ratelimit.address import limited_ip
from sark.ratelimit.limit import Identity
from sark.ratelimit.plan import ChargePlan
from sark.ratelimit.rules import Applied, Rules, Selection

__all__ = ["Planner"]

ENCODED_IDS = 8192
_encoded = lru_cache(ENCODED_IDS)(encode_id)
_NOTHING = Selection((), ())


class Planner:
    """Plans charges.

    Args:
        keys: Names what is counted.
        rules: The rules in force; may be replaced at any time.
        ipv6_prefix: Bits of an IPv6 address by which it is limited.
    """

    def __init__(self, keys: Keyspace, rules: Rules, *, ipv6_prefix: int) -> None:
        self.rules = rules
        self._keys = keys
        self._prefix = ipv6_prefix

    def plan(
        self,
        identities: Sequence[Identity],
        *,
        action: str = "",
        path: str = "",
        tier: str = "",
        cost: int | None = None,
    ) -> ChargePlan:
        """Plan one request; arguments as in ``RateLimiter.check``.

        Raises:
            InvalidRequestError: An ip is no address, or the cost is more than a limit ever admits.
        """
        rules = self.rules
        if rules.lists:
            denied, identities = _sift(rules, identities)
            if denied is not None:
                return self._denied(denied)
        selection = rules.select(tuple([kind for kind, _ in identities]), action, path, tier)
        if cost is not None:
            costs = [cost] * len(selection.applied)
            _check_costs(selection, costs, "cost")
            if selection.costs != tuple(costs):
                selection = selection.charging(costs)
        return self._planned(identities, selection)

    def plan_many(
        self, identities: Sequence[Identity], actions: Sequence[str], *, tier: str = ""
    ) -> ChargePlan:
        """Plan several questions of the same identities, which are charged together.

        Raises:
            InvalidRequestError: ``questions`` are more than a limit ever admits.
        """
        rules = self.rules
        if rules.lists:
            denied, identities = _sift(rules, identities)
            if denied is not None:
                return self._denied(denied)
        kinds = tuple([kind for kind, _ in identities])
        known = actions if rules.by_action else [""] * len(actions)
        costs: dict[tuple[int, Applied], int] = {}
        for action in dict.fromkeys(known):
            one, count = rules.select(kinds, action, tier=tier), known.count(action)
            for owner, each, cost in zip(one.owners, one.applied, one.costs, strict=True):
                costs[owner, each] = costs.get((owner, each), 0) + cost * count
        whole = Selection(list(costs), list(costs.values()))
        _check_costs(whole, list(costs.values()), "questions", len(actions))
        return self._planned(identities, whole)

    def every(self, identity: Identity) -> ChargePlan:
        """Plan a look at every limit that may apply to an identity.

        Raises:
            InvalidRequestError: An ip is no address.
        """
        applied = self.rules.applied(identity[0])
        selection = Selection([(0, each) for each in applied], [0] * len(applied))
        return self._planned([identity], selection)

    def _planned(self, identities: Sequence[Identity], selection: Selection) -> ChargePlan:
        around = selection.around
        if around is None:
            build = self._keys.ratelimit_parts
            around = selection.around = tuple(
                (owner, *build(each.kind, each.limit.window_seconds, each.rule))
                for owner, each in zip(selection.owners, selection.applied, strict=True)
            )
        prefix = self._prefix
        names = [limited_ip(name, prefix) if kind == "ip" else name for kind, name in identities]
        keys = [head + _encoded(names[owner]) + tail for owner, head, tail in around]
        return ChargePlan(names, keys, selection)

    def _denied(self, identity: Identity) -> ChargePlan:
        return ChargePlan((), (), _NOTHING, identity)


def _sift(
    rules: Rules, identities: Sequence[Identity]
) -> tuple[Identity | None, Sequence[Identity]]:
    """Find who is denied, and leave out who is not limited."""
    for identity in identities:
        if identity in rules.deny:
            return identity, ()
    return None, [identity for identity in identities if identity not in rules.allow]


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
