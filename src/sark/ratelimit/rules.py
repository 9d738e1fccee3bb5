"""Which limits apply to whom: the rules in force, and how a request selects among them.

The rules are read in order. For each identity of a request the first one that matches decides, and
its limits apply; one that says ``continue`` applies and lets the search go on. An identity that no
rule decides has the default limit. What a request selects is kept, by all that the rules look at,
so that a request costs one look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType

from sark.errors import InvalidRequestError
from sark.keyspace import encode_rule
from sark.patterns import Patterns
from sark.ratelimit.address import address_of
from sark.ratelimit.limit import KINDS, Identity, Kind, Limit

__all__ = ["Applied", "Listed", "Rule", "Rules", "Selection"]

MAX_SELECTIONS = 4096
MAX_KEPT_CHARACTERS = 512
"""Of action, path and tier, for what they select to be kept: they come from outside."""
MAX_LIMITS_AT_ONCE = 50
"""Limits of one request: the script tells in one number which of them only report."""
_LETTERS = {"fixed": "f", "sliding": "s", "gcra": "g"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the file.

    Attributes:
        name: Its name.
        kinds: Which identities it is about.
        limits: What they may do; none for as much as they like.
        actions: Actions that it is about; all when empty.
        paths: Paths of HTTP requests that it is about; likewise.
        tiers: Tiers that it is about; likewise.
        shadow: Whether it only reports.
        goes_on: Whether later rules apply as well.
    """

    name: str
    kinds: tuple[Kind, ...]
    limits: tuple[Limit, ...]
    actions: Patterns = field(default_factory=Patterns)
    paths: Patterns = field(default_factory=Patterns)
    tiers: frozenset[str] = frozenset()
    shadow: bool = False
    goes_on: bool = False

    def matches(self, kind: Kind, action: str, path: str, tier: str) -> bool:
        """Tell whether it is about an identity of this kind in such a request."""
        return (
            kind in self.kinds
            and (not self.actions or self.actions.match(action))
            and (not self.paths or self.paths.match(path))
            and (not self.tiers or tier in self.tiers)
        )

    def applied(self, kind: Kind) -> tuple[Applied, ...]:
        """List its limits as they apply to identities of a kind."""
        if kind not in self.kinds:
            return ()
        named = self.name if len(self.kinds) == 1 else f"{self.name}-{kind}"
        several = len(self.limits) > 1
        return tuple(
            Applied(
                kind,
                limit,
                f"{named}-{limit.window_seconds}" if several else named,
                self.name,
                shadow=self.shadow,
            )
            for limit in self.limits
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """One limit as it applies to identities of one kind.

    Attributes:
        kind: Which.
        limit: The limit.
        policy: What it is called in answers.
        rule: The rule that it comes from; empty for the default limit.
        shadow: Whether it only reports.
    """

    kind: Kind
    limit: Limit
    policy: str
    rule: str = ""
    shadow: bool = False

    @property
    def letter(self) -> str:
        """How the script is told the algorithm."""
        letter = _LETTERS[self.limit.algorithm]
        return letter.upper() if self.shadow else letter

    def arguments(self, cost: int) -> tuple[int, ...]:
        """Spell cost and limit as the script takes them."""
        limit = self.limit
        burst = (limit.capacity,) if limit.algorithm == "gcra" else ()
        return cost, limit.requests, limit.window_seconds, *burst


class Selection:
    """The limits that apply to the identities of a request.

    Args:
        applied: Which identity, by its place in the request, and which limit.
        costs: What each limit is charged; at most all of it is.

    Attributes:
        owners: The identities' places.
        applied: The limits.
        costs: The costs.
        arguments: The script's arguments.
        letters: The limits' algorithms as the script is told them.
        plain: Whether all are fixed windows that refuse and are charged the same: the common case,
            which has a faster script and is read faster.
        heads: Of each, what its state begins and ends with: kind, limit, window, policy.
        around: Of each, whose it is and what stands around the identity in its key; set by who
            names keys.
    """

    __slots__ = ("applied", "arguments", "around", "costs", "heads", "letters", "owners", "plain")

    def __init__(self, applied: Sequence[tuple[int, Applied]], costs: Sequence[int]) -> None:
        self.owners = tuple(owner for owner, _ in applied)
        self.applied = tuple(each for _, each in applied)
        self.costs = tuple(
            min(cost, each.limit.capacity) for cost, each in zip(costs, self.applied, strict=True)
        )
        self.letters = "".join(each.letter for each in self.applied)
        self.plain = not self.letters.strip("f") and len({*self.costs}) == 1 and self.costs[0] > 0
        self.arguments = self._arguments()
        self.heads = tuple(
            (each.kind, each.limit.requests, each.limit.window_seconds, each.policy)
            for each in self.applied
        )
        self.around: tuple[tuple[int, str, str], ...] | None = None

    def _arguments(self) -> tuple[bytes, ...]:
        first: tuple[bytes, ...] = ()
        if self.plain:
            numbers = [self.costs[0]]
            for each in self.applied:
                numbers += each.limit.requests, each.limit.window_seconds
        else:
            numbers, first = [], (self.letters.encode(),)
            for each, cost in zip(self.applied, self.costs, strict=True):
                numbers += each.arguments(cost)
        # As bytes, which are packed twice as fast as numbers.
        return (*first, *(b"%d" % number for number in numbers))

    def charging(self, costs: Sequence[int]) -> Selection:
        """Return the same limits at other costs."""
        return Selection(list(zip(self.owners, self.applied, strict=True)), costs)


@dataclass(frozen=True, slots=True)
class Listed:
    """Identities named one by one or by network.

    Attributes:
        ids: By kind.
        networks: Of addresses.
    """

    ids: Mapping[Kind, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    # The networks' bits by version and by how many bits of an address are none of them: however
    # many networks there are, one look-up for each length of prefix.
    _bits: dict[int, dict[int, set[int]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bits: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in self.networks:
            shift = network.max_prefixlen - network.prefixlen
            first = int(network.network_address) >> shift
            bits[network.version].setdefault(shift, set()).add(first)
        object.__setattr__(self, "_bits", bits)

    def __bool__(self) -> bool:
        return any(self.ids.values()) or bool(self.networks)

    def __contains__(self, identity: Identity) -> bool:
        kind, name = identity
        if kind != "ip":
            return name in self.ids.get(kind, ())
        if not self.networks:
            return False
        address = address_of(name)
        number = int(address)
        return any(number >> shift in known for shift, known in self._bits[address.version].items())


class Rules:
    """All rules in force.

    Args:
        default: The limit of each identity that no rule decides; None for no limit.
        rules: In order.
        costs: Patterns of actions and what those cost; the first that matches counts, else 1.
        allow: Identities that are not limited.
        deny: Identities that are refused; stronger than ``allow``.
        revision: Of the file that they were read from.
    """

    def __init__(
        self,
        default: Limit | None,
        rules: Sequence[Rule] = (),
        *,
        costs: Sequence[tuple[Patterns, int]] = (),
        allow: Listed | None = None,
        deny: Listed | None = None,
        revision: str = "built-in",
    ) -> None:
        self.default = default
        self.rules = tuple(rules)
        self.costs = tuple(costs)
        self.allow = allow or Listed()
        self.deny = deny or Listed()
        self.revision = revision
        self.lists = bool(self.allow) or bool(self.deny)
        # What the rules don't look at doesn't tell selections apart.
        self._by_action = bool(self.costs) or any(rule.actions for rule in self.rules)
        self._by_path = any(rule.paths for rule in self.rules)
        self._by_tier = any(rule.tiers for rule in self.rules)
        self._by_more = self._by_action or self._by_path or self._by_tier
        self._selections: dict[object, Selection] = {}

    @property
    def limits_anything(self) -> bool:
        """Whether there is anything to check."""
        return self.default is not None or bool(self.rules) or self.lists

    @property
    def by_action(self) -> bool:
        """Whether actions make a difference."""
        return self._by_action

    def select(
        self, kinds: tuple[Kind, ...], action: str = "", path: str = "", tier: str = ""
    ) -> Selection:
        """Find the limits of a request whose identities are of these kinds."""
        key: object = kinds
        if self._by_more:
            key = (
                kinds,
                action if self._by_action else "",
                path if self._by_path else "",
                tier if self._by_tier else "",
            )
        found = self._selections.get(key)
        if found is None:
            found = self._select(kinds, action, path, tier)
            if self._by_more and len(action) + len(path) + len(tier) > MAX_KEPT_CHARACTERS:
                return found
            if len(self._selections) >= MAX_SELECTIONS:
                # Actions and paths come from outside: what they fill has a bound.
                self._selections.clear()
            self._selections[key] = found
        return found

    def cost_of(self, action: str) -> int:
        """Tell what an action costs."""
        return next((cost for patterns, cost in self.costs if patterns.match(action)), 1)

    def applied(self, kind: Kind) -> tuple[Applied, ...]:
        """List every limit that may ever apply to an identity of a kind."""
        reached, decided = self._reached(kind)
        limits = [each for rule in reached for each in rule.applied(kind)]
        return (*(() if decided else self._default(kind)), *limits)

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Names of the rules that never apply, since earlier ones decide all that they match."""
        reached = {rule.name for kind in KINDS for rule in self._reached(kind)[0]}
        return tuple(rule.name for rule in self.rules if rule.name not in reached)

    def find(self, kind: str, window: int, rule: str) -> Applied | None:
        """Find the limit that a key names (``rule`` as it spells it); None when there is none."""
        for known in KINDS:
            for each in self.applied(known) if known == kind else ():
                if encode_rule(each.rule) == rule and each.limit.window_seconds == window:
                    return each
        return None

    def _reached(self, kind: Kind) -> tuple[list[Rule], bool]:
        """List the rules that can apply to a kind, and tell whether one decides all requests."""
        reached = []
        for rule in self.rules:
            if kind not in rule.kinds:
                continue
            reached.append(rule)
            if not (rule.goes_on or rule.actions or rule.paths or rule.tiers):
                return reached, True
        return reached, False

    def _default(self, kind: Kind) -> tuple[Applied, ...]:
        return () if self.default is None else (Applied(kind, self.default, kind),)

    def _select(self, kinds: tuple[Kind, ...], action: str, path: str, tier: str) -> Selection:
        applied = [
            (owner, each)
            for owner, kind in enumerate(kinds)
            for each in self._applied(kind, action, path, tier)
        ]
        if not {*kinds} <= {*KINDS}:
            raise InvalidRequestError(
                "identities", f"got the kinds {', '.join(kinds)}, expected of: {', '.join(KINDS)}"
            )
        if len(applied) > MAX_LIMITS_AT_ONCE:
            raise InvalidRequestError(
                "identities",
                f"got identities with {len(applied)} limits, expected {MAX_LIMITS_AT_ONCE} at most",
            )
        return Selection(applied, [self.cost_of(action)] * len(applied))

    def _applied(self, kind: Kind, action: str, path: str, tier: str) -> list[Applied]:
        found: list[Applied] = []
        for rule in self.rules:
            if rule.matches(kind, action, path, tier):
                found += rule.applied(kind)
                if not rule.goes_on:
                    return found
        return [*found, *self._default(kind)]
