"""``RateLimit``: a rate limit as a FastAPI dependency."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import Scope

from sark.errors import ConfigurationError
from sark.http.ratelimit_charging import ChargedBy, charge_request, refuse_useless
from sark.http.ratelimit_state import LimitOptions, limiter_of, options_of
from sark.ratelimit import Identity, Kind, Limit
from sark.ratelimit.limit import KINDS
from sark.ratelimit.named import (
    NamedLimits,
    check_name,
    derive_name,
    identities_of,
    qualify,
    refusal_of,
)

__all__ = ["CHARGES", "RateLimit"]

CHARGES = "sark.ratelimit.charges"
"""Where a scope keeps what was charged for it, until the answer starts."""


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
            FastAPI that returns an id (``str``, ``int`` or ``UUID``), an identity ``(kind, id)``,
            or a list of identities. Where it returns None, as for somebody who isn't logged in, it
            is the client's address.
        kind: What kind an id is: ``user`` or ``apikey``.
        name: Routes with the same name share their counters. By default each route has its own.
        tier: The caller's plan, which the limiter's rules may look at: a text, or a dependency that
            returns it or None, from a verified claim alone.
        action: What is asked for, likewise.
        cost: How many requests one counts as: a number, or a dependency that returns one. Left
            out, what the rules say of the action, else 1.
        shadow: Count and report by ``limits``, and refuse nobody.

    Raises:
        ValueError: A limit, the kind, the name or the cost is not usable, limits are given a tier
            or an action, or there is a shadow mode without limits.
    """

    def __init__(
        self,
        *limits: str | Limit,
        by: Literal["ip"] | Callable[..., Any] = "ip",
        kind: Kind = "user",
        name: str | None = None,
        tier: str | Callable[..., Any] | None = None,
        action: str | Callable[..., Any] | None = None,
        cost: int | Callable[..., Any] | None = None,
        shadow: bool = False,
    ) -> None:
        if isinstance(by, str) and by != "ip":
            raise ValueError(f"got by={by!r}, expected 'ip' or a dependency")
        if kind not in KINDS:
            raise ValueError(f"got kind={kind!r}, expected one of: {', '.join(KINDS)}")
        # Read here, so that a mistake shows when the application is built.
        refuse_useless(limits, shadow=shadow, tier=tier, action=action)
        self._cost = cost if isinstance(cost, int) else 1
        named = NamedLimits(limits, name=name or "route", cost=self._cost) if limits else None
        self._limits = named.limits if named else ()
        self.shadow = shadow
        self._kind = kind
        self._name = name if name is None else check_name(name)
        # Several limits on one route are kept apart, unless they are the same one.
        self._limits_spelled = [*map(str, self._limits)]
        self._by = by if isinstance(by, str) else _spelled(by)
        self._named: dict[tuple[str, ...], NamedLimits] = {}
        fixed: dict[str, Any] = {"tier": tier, "action": action, "cost": cost}
        asked = {"asker": by, **fixed}
        self._fixed = {name: value for name, value in fixed.items() if not callable(value)}
        ChargedBy(**self._fixed)
        self.__signature__ = _signature({k: v for k, v in asked.items() if callable(v)})

    async def __call__(
        self, connection: HTTPConnection, asker: object = None, **found: Any
    ) -> None:
        """Charge a request.

        Raises:
            LimitExceededError: A limit refuses; ``install`` makes it a 429.
            StoreError: Valkey is away, and the limiter is to be closed then; it becomes a 503.
            TypeError: ``by`` gave no id and no identity, but some object.
            ValueError: It gave an identity of a kind that there isn't.
        """
        scope = connection.scope
        options = options_of(scope)
        identities = self._identities(scope, options, asker)
        by = ChargedBy(**self._fixed, **found)
        charge = await charge_request(
            limiter_of(scope), self._named_limits(scope, options), identities, scope["path"], by
        )
        scope[CHARGES].append(charge)
        if not charge.admitted:
            raise refusal_of(charge)

    def _named_limits(self, scope: Scope, options: LimitOptions) -> NamedLimits | None:
        if not self._limits:
            return None
        place = options.namespace, *((self._name,) if self._name else _route(scope))
        named = self._named.get(place)
        if named is None:
            name = qualify(*place) if self._name else self._derive_name(place)
            named = self._named[place] = NamedLimits(
                self._limits, name=name, cost=self._cost, shadow=self.shadow
            )
        return named

    def _derive_name(self, place: tuple[str, ...]) -> str:
        namespace, path, methods, endpoint = place
        readable = (namespace, methods, path, *self._limits_spelled)
        return derive_name(*readable, also=(self._by, endpoint))

    def _identities(self, scope: Scope, options: LimitOptions, asker: object) -> Sequence[Identity]:
        if asker is None or (isinstance(asker, str | list | tuple) and not asker):
            return [options.proxies.identity(scope)]
        if isinstance(asker, str | int | UUID) and not isinstance(asker, bool):
            return [(self._kind, str(asker))]
        try:
            return identities_of(asker, self._by)
        except (TypeError, ValueError) as error:
            # What str() makes of any object may tell where it is in memory: a new id each time.
            where = f"{_readable_route(scope)}, limited by a dependency"
            raise type(error)(f"{where}: {error}; an id is a str, an int or a UUID") from None


def _signature(dependencies: Mapping[str, Callable[..., Any]]) -> inspect.Signature:
    """Tell FastAPI what to call the dependency with."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("connection", keyword, annotation=HTTPConnection)]
    for name, dependency in dependencies.items():
        found = Depends(dependency)
        parameters.append(inspect.Parameter(name, keyword, default=found, annotation=Any))
    return inspect.Signature(parameters)


def _spelled(function: Callable[..., Any] | None) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"


def _readable_route(scope: Scope) -> str:
    try:
        path, methods, _ = _route(scope)
    except ConfigurationError:
        return "what is no route"
    return f"{methods} {path}".strip()


def _route(scope: Scope) -> tuple[str, str, str]:
    """Tell which route a request took: path with its parameters' names, methods, and endpoint.

    It holds nothing that a client sends in the path, also not by way of ``root_path``: there would
    be a counter for each value. Routes of mounted applications differ by their endpoints.
    """
    # A router that was included keeps its path without the prefix; the whole one is beside it.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path = getattr(route, "path", None)
    if path is None:
        raise ConfigurationError("RateLimit is a dependency of routes; give others a name")
    methods = sorted(getattr(route, "methods", None) or ())
    return path, " ".join(methods), _spelled(scope.get("endpoint"))
