"""What a charge goes by besides who asks: the tier, the action, and the cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sark.ratelimit import Charge, Identity, RateLimiter
from sark.ratelimit.named import NamedLimits

__all__ = ["ChargedBy", "charge_request", "refuse_useless"]


@dataclass(frozen=True, slots=True)
class ChargedBy:
    """What rules look at, and what a request costs.

    Attributes:
        tier: The caller's plan; empty or None when it isn't known.
        action: What is asked for; likewise.
        cost: How many requests it counts as; None for what the rules say of the action, else 1.

    Raises:
        TypeError: One of them is of another type. The message tells it, never the value.
        ValueError: The cost is negative.
    """

    tier: str | None = None
    action: str | None = None
    cost: int | None = None

    def __post_init__(self) -> None:
        for name in ("tier", "action"):
            text = getattr(self, name)
            if not isinstance(text, str | None):
                raise TypeError(f"{name}: got a {type(text).__name__}, expected a str or None")
        if self.cost is None:
            return
        if not isinstance(self.cost, int) or isinstance(self.cost, bool):
            raise TypeError(f"cost: got a {type(self.cost).__name__}, expected an int or None")
        if self.cost < 0:
            raise ValueError(f"cost: got {self.cost}, expected at least 0")


async def charge_request(
    limiter: RateLimiter,
    named: NamedLimits | None,
    identities: Sequence[Identity],
    path: str,
    by: ChargedBy,
) -> Charge:
    """Charge a request on limits of its own, or else by the limiter's rules.

    Raises:
        InvalidRequestError: An ip is no address, or the cost is more than a limit ever admits.
        StoreError: Valkey is away, and the limiter is to be closed then.
    """
    if named is not None:
        return await named.check(limiter, identities, cost=by.cost)
    return await limiter.check(
        identities, path=path, action=by.action or "", tier=by.tier or "", cost=by.cost
    )


def refuse_useless(limits: Sequence[object], *, shadow: bool, **given: object) -> None:
    """Refuse what would have no effect: it would be taken for one.

    Args:
        limits: Limits of one's own; without any the limiter's rules apply.
        shadow: Whether those only report.
        given: What only rules look at.

    Raises:
        ValueError: There is something of the kind.
    """
    if shadow and not limits:
        raise ValueError(
            "got shadow without limits, expected limits: rules have a shadow mode of their own"
        )
    for name, value in given.items():
        if limits and value is not None:
            raise ValueError(
                f"got {name} beside limits, expected it without any: only the limiter's rules look "
                "at it"
            )
