"""Rate limits, made from the settings."""

from __future__ import annotations

from sark.ratelimit import Limit, RateLimiter, Rules
from sark.settings import Settings
from sark.store import Store

__all__ = ["default_limit", "limiter_of"]


def default_limit(settings: Settings) -> Limit | None:
    """Tell the limit of each identity that no rule decides."""
    return Limit(settings.limit_per_minute) if settings.limit_per_minute else None


def limiter_of(settings: Settings, store: Store, rules: Rules) -> RateLimiter:
    """Make what charges by the rules."""
    return RateLimiter(
        store,
        rules,
        fallback=settings.limits_without_valkey,
        processes=settings.expected_processes,
        ipv6_prefix=settings.limit_ipv6_prefix,
        budget=settings.request_budget_ms / 1000,
    )
