"""A rate limit on any coroutine function; no HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import ParamSpec, TypeVar

from sark.ratelimit.limit import Identity, Limit
from sark.ratelimit.limits import RateLimiter
from sark.ratelimit.named import NamedLimits, derive_name, identities_of, qualify, refusal_of

__all__ = ["limited"]

P = ParamSpec("P")
T = TypeVar("T")


def limited(
    limiter: RateLimiter | Callable[[], RateLimiter],
    *limits: str | Limit,
    key: Callable[..., Identity | Sequence[Identity]],
    name: str | None = None,
    namespace: str = "",
    cost: int = 1,
    shadow: bool = False,
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Limit how often a coroutine function is called, across all processes.

    ::

        @limited(limiter, "20/minute", "500/day", key=lambda user_id: ("user", user_id))
        async def send_mail(user_id: str) -> None: ...

    Args:
        limiter: Where to charge, or what gives it when the function is called.
        limits: Limits such as ``20/minute``; all of them have to admit a call.
        key: Takes the function's arguments; tells who calls: a kind (``user``, ``ip`` or
            ``apikey``) and an id, or several of them, which are charged together.
        name: Functions with the same name share their counters; by default each has its own, by its
            module and its name there.
        namespace: Keeps them apart from those of other programs on the same Valkey.
        cost: How many calls one counts as.
        shadow: Count and report, and refuse nobody.

    Returns:
        A decorator. The function then raises ``LimitExceededError`` instead of running, and
        ``StoreError`` where the limiter does when Valkey is away. What ``key`` returns is checked:
        ``TypeError`` for what is no identity, ``ValueError`` for a kind that there isn't.

    Raises:
        ValueError: A limit, the name or the namespace is not usable.
        TypeError: What is decorated is no coroutine function.
    """

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        # Told now: of a plain function the call would be charged, and its result not awaitable.
        if not iscoroutinefunction(function):
            raise TypeError(f"got {_spelled(function)}, expected a coroutine function (async def)")
        qualified = qualify(namespace, name or _name_of(function))
        named = NamedLimits(limits, name=qualified, cost=cost, shadow=shadow)

        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            charge = await named.check(
                limiter if isinstance(limiter, RateLimiter) else limiter(),
                identities_of(key(*args, **kwargs), "key"),
            )
            if not charge.admitted:
                raise refusal_of(charge)
            return await function(*args, **kwargs)

        return call

    return decorate


def _name_of(function: Callable[..., object]) -> str:
    return derive_name(_spelled(function))


def _spelled(function: Callable[..., object]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}"
