"""What a limit is, who is limited, and what comes of a request: plain data, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

__all__ = [
    "ALGORITHMS",
    "KINDS",
    "MAX_REQUESTS",
    "MAX_WINDOW_SECONDS",
    "Algorithm",
    "Charge",
    "Identity",
    "Kind",
    "Limit",
    "LimitState",
    "Source",
    "parse_limit",
]

Kind = Literal["user", "ip", "apikey"]
Identity = tuple[Kind, str]
Algorithm = Literal["fixed", "sliding", "gcra"]
Source = Literal["valkey", "local", "open", "rules"]

KINDS: tuple[Kind, ...] = ("user", "ip", "apikey")
ALGORITHMS: tuple[Algorithm, ...] = ("fixed", "sliding", "gcra")
MAX_REQUESTS = 10**9
MAX_WINDOW_SECONDS = 31 * 86_400
MAX_INTEGER = 2**53
"""Up to which Lua counts in whole numbers."""
EXPECTED_LIMIT = (
    "requests and a period such as '1000/minute', '10/5 minutes' or '20/second burst 50'"
)

_LIMIT = re.compile(
    r"(?P<requests>[0-9]{1,10}) ?/ ?(?:(?P<count>[0-9]{1,7}) ?)?(?P<unit>second|minute|hour|day)s?"
    r"(?: burst (?P<burst>[0-9]{1,10}))?"
)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in a window.

    Attributes:
        requests: Most requests per window; for ``gcra`` the sustained rate.
        window_seconds: Length of the window.
        algorithm: ``fixed``, ``sliding`` or ``gcra``; docs/limits.md compares them.
        burst: Most requests at once, for ``gcra`` alone; ``requests`` when left out.

    Raises:
        ValueError: A number is out of range, or another algorithm is given a burst.
    """

    requests: int
    window_seconds: int = 60
    algorithm: Algorithm = "fixed"
    burst: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise ValueError(f"got {self.requests} requests, expected 1 to {MAX_REQUESTS}")
        if not 1 <= self.window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(
                f"got a window of {self.window_seconds} s, expected 1 to {MAX_WINDOW_SECONDS} s"
            )
        if self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"got the algorithm {self.algorithm!r}, expected one of: {', '.join(ALGORITHMS)}"
            )
        if self.algorithm == "gcra" and self.requests * self.capacity > MAX_INTEGER:
            raise ValueError(
                f"got {self.requests} requests and a burst of {self.capacity}, expected a product "
                "of at most 2^53 for gcra"
            )
        if self.burst is None:
            return
        if self.algorithm != "gcra":
            raise ValueError(f"got a burst for {self.algorithm!r}, expected it for gcra alone")
        # What a full bucket takes to drain has to fit the script's integers, and be of use.
        if not 1 <= self.burst <= MAX_REQUESTS or self.drain_seconds > MAX_WINDOW_SECONDS:
            raise ValueError(
                f"got a burst of {self.burst}, expected 1 to {MAX_REQUESTS}, and no more than what "
                f"the limit admits in {MAX_WINDOW_SECONDS} s"
            )

    @property
    def capacity(self) -> int:
        """Most requests that can be admitted at one moment."""
        return self.requests if self.burst is None else self.burst

    @property
    def drain_seconds(self) -> float:
        """Seconds until a client that used everything has everything again."""
        return self.window_seconds * self.capacity / self.requests

    def __str__(self) -> str:
        unit = next(name for name, of in reversed(_SECONDS.items()) if not self.window_seconds % of)
        count = self.window_seconds // _SECONDS[unit]
        period = unit if count == 1 else f"{count} {unit}s"
        return f"{self.requests}/{period}" + (f" burst {self.burst}" if self.burst else "")


def parse_limit(text: str, algorithm: Algorithm | None = None) -> Limit:
    """Read a limit such as ``1000/minute``, ``10/5 minutes`` or ``20/second burst 50``.

    Args:
        text: The limit.
        algorithm: How to count; left out, ``gcra`` for a limit with a burst, else ``fixed``.

    Raises:
        ValueError: It is none; the message says what came and what was expected.
    """
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise ValueError(f"got {text[:64]!r}, expected {EXPECTED_LIMIT}")
    burst = int(match["burst"]) if match["burst"] else None
    return Limit(
        int(match["requests"]),
        int(match["count"] or 1) * _SECONDS[match["unit"]],
        algorithm or ("fixed" if burst is None else "gcra"),
        burst,
    )


class LimitState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One limit of one identity, after a request.

    Attributes:
        kind: ``user``, ``ip`` or ``apikey``.
        limit: Most requests per window.
        remaining: Requests that would be admitted now; with a burst it may exceed ``limit``.
        reset: Seconds until all of the limit is there again, rounded up; for a sliding window,
            until the current one of its two windows ends.
        window: Length of the window in seconds.
        policy: Name of the limit, unique among the states of one request unless that has several
            identities of a kind: the kind for the default limit, else the rule's name, followed by
            ``-<window>`` where a rule has several limits.
        burst: Most requests at once where the limit has a burst, else 0.
        shadow: Whether the limit only reports.
    """

    kind: Kind
    limit: int
    remaining: int
    reset: int
    window: int
    policy: str
    burst: int = 0
    shadow: bool = False


class Charge(msgspec.Struct, frozen=True):
    """The outcome of charging a request.

    Attributes:
        admitted: Whether the request may go on.
        states: Each limit, in the order of the identities and of their limits.
        refused: The first identity that is at a limit, when not admitted; an IPv6 address as the
            network by which it is limited.
        retry_after: Seconds until every refusing limit would admit the request, rounded up and at
            least 1; 0 when admitted.
        refused_for: Seconds until the limit that refused ``refused`` has been reset, exactly; 0
            when admitted.
        policy: Name of the limit that refused, as in its state.
        name: Names identity and limit; the same for all its refusals.
        shadow: Names of the limits in shadow mode that would have refused.
        source: Who decided: ``valkey``; while Valkey is away, this process (``local``) or nobody
            (``open``); ``rules`` for a deny-list.
    """

    admitted: bool
    states: tuple[LimitState, ...]
    refused: Identity | None = None
    retry_after: int = 0
    refused_for: float = 0.0
    policy: str = ""
    name: str = ""
    shadow: tuple[str, ...] = ()
    source: Source = "valkey"
