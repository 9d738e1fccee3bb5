"""Rate limits that are exact across processes."""

from sark.ratelimit.limits import Charge, Identity, Limit, LimitState, RateLimiter, canonical_ip

__all__ = ["Charge", "Identity", "Limit", "LimitState", "RateLimiter", "canonical_ip"]
