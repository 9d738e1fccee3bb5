"""Rate limits that are exact across processes."""

from sark.ratelimit.address import canonical_ip, limited_ip
from sark.ratelimit.limit import (
    Algorithm,
    Charge,
    Identity,
    Kind,
    Limit,
    LimitState,
    parse_limit,
)
from sark.ratelimit.limits import RateLimiter
from sark.ratelimit.plan import ChargePlan
from sark.ratelimit.report import NearLimit, nearest
from sark.ratelimit.rules import Rules

__all__ = [
    "Algorithm",
    "Charge",
    "ChargePlan",
    "Identity",
    "Kind",
    "Limit",
    "LimitState",
    "NearLimit",
    "RateLimiter",
    "Rules",
    "canonical_ip",
    "limited_ip",
    "nearest",
    "parse_limit",
]
