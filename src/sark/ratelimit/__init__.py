"""Rate limits that are exact across processes."""

from sark.ratelimit.limit import (
    Algorithm,
    Charge,
    Identity,
    Kind,
    Limit,
    LimitState,
    parse_limit,
)
from sark.ratelimit.limits import RateLimiter, canonical_ip

__all__ = [
    "Algorithm",
    "Charge",
    "Identity",
    "Kind",
    "Limit",
    "LimitState",
    "RateLimiter",
    "canonical_ip",
    "parse_limit",
]
