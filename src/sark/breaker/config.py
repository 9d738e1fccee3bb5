"""When a breaker opens, for how long, and what counts as a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sark.errors import ConfigurationError

__all__ = ["BUCKETS", "BreakerConfig", "Outcome", "by_exception"]

Outcome = Literal["succeeded", "failed", "neutral"]
"""How a guarded call ended; ``neutral`` says nothing about what is guarded."""

BUCKETS = 10
"""Parts of the window: what is older than the window leaves in steps of a tenth of it."""


def by_exception(error: BaseException) -> Outcome:
    """Tell what an exception says: every ``Exception`` is a failure.

    Cancellation and the end of the process speak for the caller, not for what it called.
    """
    return "failed" if isinstance(error, Exception) else "neutral"


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """The rules of one breaker. All processes that share it should have the same.

    Attributes:
        failures: Consecutive failures, of all processes together, that open it; 0: any number.
        failure_rate: Share of failures in the window that opens it; 0: any.
        slow_rate: Share of slow calls in the window that opens it; 0: any.
        slow_seconds: From when on a call is slow; 0: none is.
        window_seconds: Length of that window.
        minimum_calls: Calls in the window below which no rate is computed.
        open_seconds: How long it stays open the first time. Each further time, without having been
            closed in between, doubles it, and up to a fifth is taken off by chance.
        open_cap: The longest that it stays open, in seconds.
        probes: Most calls that run at the same time while it is half-open, across all processes.
        successes: Successful probes that close it; 0: as many as ``probes``.
        probe_lease: Seconds after which a probe without a result is given up, so that another may
            run; it should exceed the longest call.
        ignored: Exceptions that are neutral whatever ``classify`` says.
        classify: What an exception that leaves a guarded block says.
        classify_result: What the result of a decorated function says.

    Raises:
        ConfigurationError: A value makes no sense.
    """

    failures: int = 5
    failure_rate: float = 0.0
    slow_rate: float = 0.0
    slow_seconds: float = 0.0
    window_seconds: float = 60.0
    minimum_calls: int = 20
    open_seconds: float = 1.0
    open_cap: float = 60.0
    probes: int = 1
    successes: int = 0
    probe_lease: float = 30.0
    ignored: tuple[type[BaseException], ...] = ()
    classify: Callable[[BaseException], Outcome] = by_exception
    classify_result: Callable[[object], Outcome] | None = None

    def __post_init__(self) -> None:
        _between(self, 0, 10**6, "failures", "successes")
        _between(self, 1, 10**6, "minimum_calls")
        # Leases are read and written together; so many are still little work for the server.
        _between(self, 1, 100, "probes")
        _between(self, 0, 1, "failure_rate", "slow_rate")
        _between(self, 0, 86_400, "slow_seconds")
        _between(self, 0.01, 86_400, "window_seconds", "open_seconds", "open_cap", "probe_lease")
        if not (self.failures or self.failure_rate or self.slow_rate):
            raise ConfigurationError("breaker: nothing opens it, expected a number or a rate")
        if self.slow_rate and not self.slow_seconds:
            raise ConfigurationError("breaker: slow_rate is set, expected slow_seconds too")
        if self.open_cap < self.open_seconds:
            raise ConfigurationError("breaker: open_cap is less than open_seconds")

    @property
    def successes_to_close(self) -> int:
        """How many probes have to succeed."""
        return self.successes or self.probes

    @property
    def bucket_us(self) -> int:
        """Length of one part of the window, in microseconds."""
        return max(1, round(self.window_seconds * 1_000_000 / BUCKETS))

    def outcome_of(self, error: BaseException) -> Outcome:
        """Tell what an exception says."""
        return "neutral" if isinstance(error, self.ignored) else self.classify(error)

    def is_slow(self, seconds: float) -> bool:
        """Tell whether a call took too long."""
        return 0 < self.slow_seconds <= seconds


def _between(config: BreakerConfig, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            expected = f"a number from {low:g} to {high:g}"
            raise ConfigurationError(f"breaker: {name}: got {value!r}, expected {expected}")
