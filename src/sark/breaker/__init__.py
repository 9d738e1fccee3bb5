"""The shared circuit breaker: its state is in Valkey, so that all processes act on the same one."""

from sark.breaker.breaker import Breaker
from sark.breaker.config import BreakerConfig, Outcome
from sark.breaker.permit import Permit
from sark.breaker.snapshot import Snapshot

__all__ = ["Breaker", "BreakerConfig", "Outcome", "Permit", "Snapshot"]
