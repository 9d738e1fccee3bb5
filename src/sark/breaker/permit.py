"""Leave to make one call."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from sark.breaker.alone import AloneState
from sark.breaker.config import BreakerConfig, Outcome

__all__ = ["Permit", "Settles"]

SLOW = "slow call"


class Settles(Protocol):
    """Takes what became of calls."""

    config: BreakerConfig

    def settle(self, permit: Permit, outcome: Outcome, reason: str, *, slow: bool) -> None:
        """Take how a call ended, once for each permit."""
        ...


class Permit:
    """Its holder makes one call, and says how it ended; only the first word counts.

    Whoever says nothing keeps a probe's place until its lease has run out.

    Attributes:
        token: The fencing token of a probe; 0 when the breaker was closed.
        epoch: For the breaker: in which the call was admitted.
        alone: For the breaker: the process's own state, when that admitted the probe.
        outer: For the breaker: the permit of the block around this one.
        breaker: Which one gave it.
    """

    __slots__ = ("_settled", "_started", "alone", "breaker", "epoch", "outer", "token")

    def __init__(
        self, breaker: Settles, epoch: int, token: int = 0, alone: AloneState | None = None
    ) -> None:
        self.breaker = breaker
        self._settled = False
        self._started = perf_counter()
        self.epoch = epoch
        self.token = token
        self.alone = alone
        self.outer: Permit | None = None

    @property
    def is_probe(self) -> bool:
        """Whether this call decides if the breaker closes again."""
        return self.token != 0

    def succeeded(self, seconds: float | None = None) -> None:
        """Say that the call went well.

        Args:
            seconds: How long it took; default is the time since the permit was given.
        """
        config = self.breaker.config
        slow = False
        if config.slow_seconds:
            slow = config.is_slow(perf_counter() - self._started if seconds is None else seconds)
        self._settle("succeeded", SLOW if slow else "", slow=slow)

    def failed(self, reason: str) -> None:
        """Say that the call failed.

        Args:
            reason: Why, without secrets: it is stored, logged and shown.
        """
        slow = self.breaker.config.is_slow(perf_counter() - self._started)
        self._settle("failed", reason, slow=slow)

    def neutral(self) -> None:
        """Say that the call tells nothing about what is guarded: it was cancelled, or bad input."""
        self._settle("neutral", "", slow=False)

    def ended(self, outcome: Outcome, reason: str) -> None:
        """Say one of the three."""
        if outcome == "succeeded":
            self.succeeded()
        elif outcome == "failed":
            self.failed(reason)
        else:
            self.neutral()

    def raised(self, error: BaseException) -> None:
        """Say that the call ended with an exception, which the breaker's rules judge.

        Only its type is told on: a message may hold anything.
        """
        self.ended(self.breaker.config.outcome_of(error), type(error).__name__)

    def _settle(self, outcome: Outcome, reason: str, *, slow: bool) -> None:
        if not self._settled:
            self._settled = True
            self.breaker.settle(self, outcome, reason, slow=slow)
