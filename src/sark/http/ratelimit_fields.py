"""What answers tell of rate limits: ``RateLimit``, ``RateLimit-Policy``, ``Retry-After``.

The first two follow draft-ietf-httpapi-ratelimit-headers-11 (May 2026): lists of structured fields
(RFC 9651) whose items are strings, the names of the limits::

    RateLimit-Policy: "user";q=1000;w=60, "uploads";q=20;w=1;sark-burst=50
    RateLimit: "user";r=998;t=41, "uploads";r=49;t=1

``q`` is the quota of a window of ``w`` seconds, ``r`` what is left of it for the next ``t``.
``sark-burst`` is an extension, as the draft permits: most requests at once, where that differs. No
partition key (``pk``) is sent: it would tell a client ids that it may not know.

``Retry-After`` is whole seconds (RFC 9110, section 10.2.3). The draft wants it not to end before
the windows that stand beside it, so ``RateLimit`` of a refusal lists only the limits that refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import time

from sark.ratelimit import LimitState
from sark.settings import LegacyHeaders, SentHeaders, Settings

__all__ = [
    "LIMIT_DENIED",
    "QUOTA_EXCEEDED",
    "Fields",
    "LimitFields",
    "check_policy_name",
    "refusing",
    "told",
]

Fields = list[tuple[bytes, bytes]]

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""The draft's problem type of a request that is over a limit (section 5.1)."""

LIMIT_DENIED = "urn:sark:problem:limit-denied"
"""The problem type of a request from somebody on the deny-list: no quota, so waiting is no use."""

_ITEM_NAME = re.compile(r"[ -~]{1,256}")


@dataclass(frozen=True, slots=True)
class LimitFields:
    """Writes the fields.

    Attributes:
        sent: Which answers carry them.
        legacy: Whether ``X-RateLimit-*`` go with them, and what ``-Reset`` counts. They tell of
            one limit: the one that refused, or else the one of which the smallest part is left.
    """

    sent: SentHeaders = "always"
    legacy: LegacyHeaders = "off"

    @classmethod
    def of(cls, settings: Settings) -> LimitFields:
        """Take them from the settings."""
        return cls(settings.ratelimit_headers, settings.legacy_ratelimit_headers)

    def admitted(self, states: Sequence[LimitState]) -> Fields:
        """Write the fields of an answer whose request was charged."""
        if self.sent != "always":
            return []
        named = told(states)
        return self._fields(named, named)

    def refused(self, states: Sequence[LimitState], policy: str, retry_after: int) -> Fields:
        """Write the fields of a 429.

        Args:
            states: Every limit.
            policy: Name of the limit that refused.
            retry_after: Seconds after which asking again makes sense; 0 when it never does.
        """
        fields = [(b"retry-after", b"%d" % retry_after)] if retry_after else []
        if self.sent == "off":
            return fields
        named = told(states)
        return fields + self._fields(named, refusing(named, policy), retry_after)

    def _fields(
        self,
        policies: Sequence[LimitState],
        limits: Sequence[LimitState],
        at_most: int | None = None,
    ) -> Fields:
        """Write all but ``Retry-After``; no window that is told is longer than ``at_most``."""
        if not policies:
            return []
        spelled = ", ".join([_policy(s.policy, s.limit, s.window, s.burst) for s in policies])
        fields = [(b"ratelimit-policy", spelled.encode("ascii"))]
        if limits:
            spelled = ", ".join(
                [f"{_quoted(s.policy)};r={s.remaining};t={_window(s, at_most)}" for s in limits]
            )
            fields.append((b"ratelimit", spelled.encode("ascii")))
            if self.legacy != "off":
                fields += self._legacy(min(limits, key=_left), at_most)
        return fields

    def _legacy(self, state: LimitState, at_most: int | None) -> Fields:
        reset = _window(state, at_most) + (int(time()) if self.legacy == "epoch" else 0)
        return [
            (b"x-ratelimit-limit", b"%d" % state.limit),
            (b"x-ratelimit-remaining", b"%d" % state.remaining),
            (b"x-ratelimit-reset", b"%d" % reset),
        ]


def told(states: Sequence[LimitState]) -> Sequence[LimitState]:
    """Pick what clients are told of: each name once, and no limit in shadow mode.

    A request may have several identities of a kind, say a user and an organisation, or may be
    charged twice. Their limits go by one name; the one of which the least is left counts.
    """
    found: dict[str, LimitState] = {}
    for state in states:
        if not state.shadow:
            known = found.setdefault(state.policy, state)
            if known is not state and _tightness(state) < _tightness(known):
                found[state.policy] = state
    return [*found.values()]


def refusing(states: Sequence[LimitState], policy: str) -> list[LimitState]:
    """Tell which limits refused: the one that is named, and all that have nothing left."""
    return [
        state
        for state in states
        if not state.shadow and (state.policy == policy or state.remaining == 0)
    ]


def check_policy_name(name: str) -> str:
    """Refuse a name that cannot stand in the fields.

    Raises:
        ValueError: It isn't 1 to 256 printable ASCII characters.
    """
    if not _ITEM_NAME.fullmatch(name):
        raise ValueError(
            f"got the name {name[:80]!r}, expected 1 to 256 printable ASCII characters"
        )
    return name


@lru_cache(maxsize=1024)
def _quoted(name: str) -> str:
    """Write a name as a string (RFC 9651, section 3.3.3)."""
    escaped = check_policy_name(name).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@lru_cache(maxsize=1024)
def _policy(name: str, quota: int, window: int, burst: int) -> str:
    return f"{_quoted(name)};q={quota};w={window}" + (f";sark-burst={burst}" if burst else "")


def _tightness(state: LimitState) -> tuple[int, int]:
    return state.remaining, -state.reset


def _window(state: LimitState, at_most: int | None) -> int:
    return state.reset if at_most is None else min(state.reset, at_most)


def _left(state: LimitState) -> float:
    return state.remaining / state.limit
