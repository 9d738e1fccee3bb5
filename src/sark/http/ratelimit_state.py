"""What ``install`` keeps for an application, and where its limiter is found."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import Scope

from sark.errors import ConfigurationError
from sark.http.client_address import TrustedProxies
from sark.http.ratelimit_fields import LimitFields
from sark.ratelimit import RateLimiter
from sark.runtime import Runtime

__all__ = ["LimitOptions", "limiter_of", "options_of"]


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """How the limits of an application's routes behave.

    Attributes:
        namespace: Keeps the routes' counters apart from those of other applications on the same
            Valkey.
        proxies: Who is believed about the client's address.
        fields: What answers tell of the limits.
    """

    namespace: str = ""
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    fields: LimitFields = field(default_factory=LimitFields)


def limiter_of(scope: Scope) -> RateLimiter:
    """Find the limiter of the application that a scope belongs to.

    Raises:
        ConfigurationError: There is none.
    """
    state = getattr(scope.get("app"), "state", None)
    found = getattr(state, "sark", None)
    if isinstance(found, Runtime):
        return found.gateway.limiter
    if not isinstance(found, RateLimiter):
        raise ConfigurationError(
            "this application has no rate limiter: set app.state.sark to what open_limiter() or "
            "open_runtime() gives, before the first request"
        )
    return found


def options_of(scope: Scope) -> LimitOptions:
    """Find the options of the application that a scope belongs to.

    Raises:
        ConfigurationError: ``install`` was not called for it.
    """
    state = getattr(scope.get("app"), "state", None)
    found = getattr(state, "sark_limits", None)
    if not isinstance(found, LimitOptions):
        raise ConfigurationError(
            "this application has limited routes, but install(app) was not called for it"
        )
    return found
