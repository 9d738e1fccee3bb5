"""What a request is charged: its identities, the rules, and the keys that come of both. No I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from msgspec.structs import replace

from sark.errors import InvalidRequestError
from sark.keyspace import Keyspace, encode_id
from sark.ratelimit.address import limited_ip
from sark.ratelimit.limit import Identity, Kind
from sark.ratelimit.plan import ChargePlan
from sark.ratelimit.rules import Applied, Rules, Selection

__all__ = ["Planner"]

ENCODED_IDS = 8192
MAX_KEPT_CHARACTERS = 128
"""Of an id, for its encoded form to be kept: ids come from outside."""
_encoded = lru_cache(ENCODED_IDS)(encode_id)
_DIGEST = re.compile("#[0-9a-f]{64}").fullmatch
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
        identities, kinds = self._distinct(identities)
        selection = rules.select(kinds, action, path, tier)
        if cost is not None:
            if isinstance(cost, bool) or not isinstance(cost, int):
                raise InvalidRequestError("cost", f"got {cost!r}, expected a whole number")
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
        identities, kinds = self._distinct(identities)
        known = Counter(actions if rules.by_action else [""] * len(actions))
        costs: dict[tuple[int, Applied], int] = {}
        for action, count in known.items():
            one = rules.select(kinds, action, tier=tier)
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
        return self.looking(identity, self.rules.applied(identity[0]))

    def looking(self, identity: Identity, applied: Sequence[Applied]) -> ChargePlan:
        """Plan a look at some limits of an identity.

        Raises:
            InvalidRequestError: An ip is no address.
        """
        kind, name = identity
        selection = Selection([(0, each) for each in applied], [0] * len(applied))
        plan = self._planned([identity], selection)
        if kind != "ip" and _DIGEST(name):
            # What keys and reports have in place of an id that is too long for a key.
            encoded = encode_id(name)
            plan = replace(plan, keys=[key.replace(encoded, name, 1) for key in plan.keys])
        return plan

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
        keys = [head + _encode(names[owner]) + tail for owner, head, tail in around]
        return ChargePlan(names, keys, selection)

    def _distinct(
        self, identities: Sequence[Identity]
    ) -> tuple[Sequence[Identity], tuple[Kind, ...]]:
        """Take who is named twice, or by two addresses of one network, once; and list the kinds."""
        kinds = tuple([kind for kind, _ in identities])
        if len({*kinds}) == len(kinds):
            return identities, kinds
        found = list({self.named(identity): None for identity in identities})
        return found, tuple([kind for kind, _ in found])

    def named(self, identity: Identity) -> Identity:
        """Tell whom an identity is counted as: an IPv6 address as its network."""
        kind, name = identity
        return (kind, limited_ip(name, self._prefix)) if kind == "ip" else identity

    def _denied(self, identity: Identity) -> ChargePlan:
        # By its network: an address of its own for each request would be a name of its own.
        return ChargePlan((), (), _NOTHING, self.named(identity))


def _encode(name: str) -> str:
    return _encoded(name) if len(name) <= MAX_KEPT_CHARACTERS else encode_id(name)


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
                field,
                f"got {came}, expected at most {most}, which is the rate limit "
                f"{each.policy} ({each.limit})",
            )
