"""``RateLimit``: a rate limit as a FastAPI dependency."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import Scope

from sark.errors import ConfigurationError
from sark.http.ratelimit_state import LimitOptions, limiter_of, options_of
from sark.ratelimit import Charge, Identity, Kind, Limit
from sark.ratelimit.named import (
    NamedLimits,
    check_name,
    derive_name,
    identities_of,
    refusal_of,
)

__all__ = ["CHARGES", "RateLimit"]

CHARGES = "sark.ratelimit.charges"
"""Where a scope keeps what was charged for it, until the answer starts."""

Asker = str | Identity | Sequence[Identity] | None


class RateLimit:
    """A rate limit on a route, as a dependency.

    ::

        @app.get("/reports", dependencies=[Depends(RateLimit("20/minute"))])
        async def reports() -> ...: ...

    The application needs ``install(app)``, and a limiter in ``app.state.sark``.

    Args:
        limits: Limits such as ``20/minute`` or ``20/second burst 50``; all of them have to admit
            a request, and are charged together. Without any, the limiter's own rules apply.
        by: Whose requests are counted together: ``ip`` (the client's address), or a dependency of
            FastAPI that returns an id, an identity ``(kind, id)``, or several identities. Where it
            returns None, as for somebody who isn't logged in, it is the client's address.
        kind: What kind an id is: ``user`` or ``apikey``.
        name: Routes with the same name share their counters. By default each route has its own.
        cost: How many requests one counts as.

    Raises:
        ValueError: A limit, the name or the cost is not usable.
    """

    def __init__(
        self,
        *limits: str | Limit,
        by: Literal["ip"] | Callable[..., Any] = "ip",
        kind: Kind = "user",
        name: str | None = None,
        cost: int = 1,
    ) -> None:
        if isinstance(by, str) and by != "ip":
            raise ValueError(f"got by={by!r}, expected 'ip' or a dependency")
        # Read here, so that a mistake shows when the application is built.
        self._limits = NamedLimits(limits, name=name or "route", cost=cost).limits if limits else ()
        self._kind = kind
        self._name = name if name is None else check_name(name)
        self._cost = cost
        # Several limits on one route are kept apart, unless they are the same one.
        self._spelled = (*map(str, self._limits), by if isinstance(by, str) else _spelled(by))
        self._named: dict[tuple[str, ...], NamedLimits] = {}
        self.__signature__ = _signature(by)

    async def __call__(self, connection: HTTPConnection, asker: Asker = None) -> None:
        """Charge a request.

        Raises:
            LimitExceededError: A limit refuses; ``install`` makes it a 429.
            StoreError: Valkey is away, and the limiter is to be closed then; it becomes a 503.
        """
        scope = connection.scope
        options = options_of(scope)
        identities = self._identities(scope, options, asker)
        charge = await self._charge(scope, options, identities)
        scope[CHARGES].append(charge)
        if not charge.admitted:
            raise refusal_of(charge)

    async def _charge(
        self, scope: Scope, options: LimitOptions, identities: Sequence[Identity]
    ) -> Charge:
        limiter = limiter_of(scope)
        if not self._limits:
            cost = None if self._cost == 1 else self._cost
            return await limiter.check(identities, path=scope["path"], cost=cost)
        key = (options.namespace, self._name or _route(scope))
        named = self._named.get(key)
        if named is None:
            name = self._name_for(*key)
            named = self._named[key] = NamedLimits(self._limits, name=name, cost=self._cost)
        return await named.check(limiter, identities)

    def _name_for(self, namespace: str, place: str) -> str:
        if self._name is None:
            return derive_name(namespace, place, *self._spelled)
        return f"{namespace}-{self._name}" if namespace else self._name

    def _identities(self, scope: Scope, options: LimitOptions, asker: Asker) -> Sequence[Identity]:
        if not asker:
            return [options.proxies.identity(scope)]
        if isinstance(asker, str):
            return [(self._kind, asker)]
        return identities_of(asker)


def _signature(by: Literal["ip"] | Callable[..., Any]) -> inspect.Signature:
    """Tell FastAPI what to call the dependency with."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("connection", keyword, annotation=HTTPConnection)]
    if by != "ip":
        parameters.append(inspect.Parameter("asker", keyword, default=Depends(by), annotation=Any))
    return inspect.Signature(parameters)


def _spelled(by: Callable[..., Any]) -> str:
    return f"{by.__module__}.{getattr(by, '__qualname__', type(by).__qualname__)}"


def _route(scope: Scope) -> str:
    """Spell the route that a request took: methods, and the path with its parameters' names.

    It never holds what a client sends in the path: there would be a counter for each value.
    """
    # A router that was included keeps its path without the prefix; the whole one is beside it.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path = getattr(route, "path", None)
    if path is None:
        raise ConfigurationError("RateLimit is a dependency of routes; give others a name")
    methods = sorted(getattr(route, "methods", None) or ())
    return " ".join([*methods, scope.get("root_path", "") + path])
