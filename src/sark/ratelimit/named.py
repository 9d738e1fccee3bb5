"""Limits that a program writes into its code, under a name of their own.

They are charged on the servers of a limiter, beside that limiter's own rules and with its
behaviour when Valkey is away. The name keeps their counters apart from all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import cast

from sark.errors import LimitDeniedError, LimitExceededError
from sark.ratelimit.limit import KINDS, Charge, Identity, Kind, Limit, parse_limit
from sark.ratelimit.limits import RateLimiter
from sark.ratelimit.rules import Rule, Rules

__all__ = ["NamedLimits", "check_name", "derive_name", "identities_of", "qualify", "refusal_of"]

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# With a namespace before it. The dot is in neither of them, so that no two pairs are spelled alike.
_WHOLE_NAME = re.compile(rf"(?:{NAME.pattern}\.)?{NAME.pattern}")
# What answers call the default limits and the deny-list.
_RESERVED = (*KINDS, "deny")
_EXPECTED_IDENTITY = "an identity, such as ('user', 'ann'), or a list of them"
_READABLE_CHARACTERS, _DIGEST_CHARACTERS = 48, 12


class NamedLimits:
    """Limits under a name.

    Args:
        limits: Each a ``Limit``, or a text such as ``20/minute`` or ``20/second burst 50``; all of
            them have to admit a request.
        name: Who uses the same name, in whatever process, shares the counters.
        cost: How many requests one counts as.
        shadow: Count and report, and refuse nobody.

    Raises:
        ValueError: A limit, the name or the cost is not usable, or there is no limit.
    """

    def __init__(
        self, limits: Sequence[str | Limit], *, name: str, cost: int = 1, shadow: bool = False
    ) -> None:
        self.limits = parse_limits(limits)
        self.name = check_name(name, _WHOLE_NAME)
        self.cost = cost
        self.shadow = shadow
        most = min(limit.capacity for limit in self.limits)
        if not 1 <= cost <= most:
            raise ValueError(f"got a cost of {cost}, expected 1 to {most}, which the limits admit")
        self._derived: _Derived | None = None

    async def check(
        self, limiter: RateLimiter, identities: Sequence[Identity], *, cost: int | None = None
    ) -> Charge:
        """Charge a request: one round trip, whatever the number of limits and identities.

        Args:
            limiter: Where to charge. Its lists of who is allowed and denied apply here too.
            identities: Who asks; nobody is never refused.
            cost: How many requests this one counts as; left out, as many as any.

        Raises:
            InvalidRequestError: An ip is no address, or the cost is more than a limit ever admits.
            StoreError: The server did not answer, and the limiter is to be closed then.
        """
        kinds = tuple(dict.fromkeys([kind for kind, _ in identities]))
        derived = self._derived
        # Another limiter, or one that was given other rules, has other lists.
        if derived is None or derived.of is not limiter or derived.rules is not limiter.rules:
            derived = self._derived = _Derived(limiter)
        cost = self.cost if cost is None else cost
        return await derived.limiter(self, kinds).check(identities, cost=cost)


class _Derived:
    """Limiters that differ from another one in their rules alone, by kinds of identities."""

    __slots__ = ("_limiters", "of", "rules")

    def __init__(self, of: RateLimiter) -> None:
        self.of = of
        self.rules = of.rules
        self._limiters: dict[tuple[Kind, ...], RateLimiter] = {}

    def limiter(self, named: NamedLimits, kinds: tuple[Kind, ...]) -> RateLimiter:
        found = self._limiters.get(kinds)
        if found is None:
            rule = Rule(named.name, kinds, named.limits, shadow=named.shadow)
            rules = Rules(None, (rule,), allow=self.rules.allow, deny=self.rules.deny)
            found = self._limiters[kinds] = self.of.with_rules(rules)
        return found


def check_name(name: str, pattern: re.Pattern[str] = NAME) -> str:
    """Refuse a name that is not usable.

    Raises:
        ValueError: It isn't.
    """
    if name in _RESERVED or not pattern.fullmatch(name):
        raise ValueError(
            f"got the name {name[:80]!r}, expected it to match {pattern.pattern}, and none of "
            + ", ".join(_RESERVED)
        )
    return name


def qualify(namespace: str, name: str) -> str:
    """Put a namespace, if there is one, before a name.

    Raises:
        ValueError: One of them is not usable.
    """
    name = check_name(name)
    return f"{check_name(namespace)}.{name}" if namespace else name


def parse_limits(limits: Sequence[str | Limit]) -> tuple[Limit, ...]:
    """Read limits.

    Raises:
        ValueError: There is none, one is not usable, or two have the same window.
    """
    parsed = tuple(parse_limit(one) if isinstance(one, str) else one for one in limits)
    if not parsed:
        raise ValueError("got no limit, expected at least one such as '20/minute'")
    if len({limit.window_seconds for limit in parsed}) != len(parsed):
        given = ", ".join(map(str, parsed))
        raise ValueError(f"got {given}, expected each of the limits to have a window of its own")
    return parsed


def derive_name(*parts: str, also: Sequence[str] = ()) -> str:
    """Make a name out of texts of any form; different texts have different names.

    Args:
        parts: What the name shows, as far as it can.
        also: What it shows in its digest alone.
    """
    readable = re.sub(r"[^a-z0-9_]+", "-", " ".join(parts).lower()).strip("-_")
    # ``repr`` quotes, so that no part can pass for two.
    digest = sha256(repr((parts, tuple(also))).encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{readable[:_READABLE_CHARACTERS]}-{digest}" if readable else digest


def identities_of(given: object, giver: str = "this") -> Sequence[Identity]:
    """Check who asks, since all that comes of it becomes a part of keys.

    Args:
        given: One identity, a tuple of a kind and an id, or a sequence of identities.
        giver: What errors call who gave it.

    Returns:
        The identities, each once.

    Raises:
        TypeError: It is something else. The message tells its type, never its value.
        ValueError: A kind is none of those that there are.
    """
    if isinstance(given, tuple) and given and isinstance(given[0], str):
        given = [given]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise TypeError(f"{giver} gave a {type(given).__name__}, expected {_EXPECTED_IDENTITY}")
    for each in given:
        if (
            not isinstance(each, tuple)
            or len(each) != len(("kind", "id"))
            or not all(isinstance(part, str) for part in each)
        ):
            shown = f"a {type(each).__name__} among identities"
            if isinstance(each, tuple):
                shown = f"a tuple of ({', '.join(type(part).__name__ for part in each)})"
            raise TypeError(f"{giver} gave {shown}, expected {_EXPECTED_IDENTITY}")
        if each[0] not in KINDS:
            raise ValueError(
                f"{giver} gave an identity of kind {each[0][:32]!r}, "
                f"expected one of: {', '.join(KINDS)}"
            )
    # Who is named twice, say as user and as owner, is charged once.
    return cast("list[Identity]", [*dict.fromkeys(given)])


def refusal_of(charge: Charge, decision_id: str = "") -> LimitExceededError:
    """Build the error that tells of a refusal.

    Args:
        charge: What refused.
        decision_id: Id of the audit event under which it is recorded.
    """
    assert charge.refused is not None  # noqa: S101 - a refused charge names who refused
    kind, _ = charge.refused
    if charge.source == "rules":
        return LimitDeniedError(kind, decision_id=decision_id)
    return LimitExceededError(
        kind,
        retry_after=charge.retry_after,
        limits=charge.states,
        decision_id=decision_id,
        policy=charge.policy,
    )
