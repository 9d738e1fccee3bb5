"""Which actions are how sensitive: patterns of actions, by tier.

An action is text in segments that ``:`` separates, such as ``server:read`` or
``org:team:server:read``. A pattern describes whole actions, letter by letter and in the same case,
but for ``*``:

- a segment that is ``*`` alone stands for one or more segments, whatever is in them: ``*:read`` is
  every action that ends in ``:read``, ``admin:*`` every one that begins with ``admin:``;
- elsewhere in a segment ``*`` stands for any text without ``:``, also for none: ``s3:Get*`` is
  ``s3:GetObject``, and not ``s3:GetObject:acl``.

Of several patterns that match, the most sensitive tier counts. What no pattern matches is of high
sensitivity, so that an action nobody thought of is kept for the shortest time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from sark.policy.question import MAX_ID_BYTES
from sark.policy.sensitivity import Sensitivity

__all__ = ["BUILT_IN_TABLE", "EXPECTED_PATTERN", "SensitivityTable", "is_pattern"]

EXPECTED_PATTERN = (
    "an action in which * may stand for segments or parts of one, such as server:read, *:read, "
    f"admin:* or s3:Get* (no empty segment, no **, no space, none of ?[]{{}}\\, at most "
    f"{MAX_ID_BYTES} bytes)"
)

REMEMBERED_ACTIONS = 4096
"""Actions whose sensitivity is kept at hand: far more than a deployment has, and bounded."""

# What other pattern languages give a meaning is refused: taken literally it would match nothing.
_FORBIDDEN = re.compile(r"[?\[\]{}\\\s]|\*\*|^:|::|:$")


def is_pattern(text: str) -> bool:
    """Tell whether a text is a pattern."""
    size = len(text.encode("utf-8", "surrogatepass"))
    return 0 < size <= MAX_ID_BYTES and text.isprintable() and not _FORBIDDEN.search(text)


@dataclass(frozen=True, slots=True)
class SensitivityTable:
    """Patterns of actions by tier.

    Attributes:
        high: Of the most sensitive actions. They only matter where a pattern of another tier
            matches as well.
        medium: Of less sensitive ones.
        low: Of those whose decisions may be kept for the longest time.
        of: Returns the sensitivity of an action.
    """

    high: tuple[str, ...] = ()
    medium: tuple[str, ...] = ()
    low: tuple[str, ...] = ()
    of: Callable[[str], Sensitivity] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        classify = _classifier(self.high, self.medium, self.low)
        object.__setattr__(self, "of", lru_cache(REMEMBERED_ACTIONS)(classify))


def _classifier(
    high: Iterable[str], medium: Iterable[str], low: Iterable[str]
) -> Callable[[str], Sensitivity]:
    is_high, is_medium, is_low = map(_matcher, (high, medium, low))

    def classify(action: str) -> Sensitivity:
        if is_high(action):
            return Sensitivity.HIGH
        if is_medium(action):
            return Sensitivity.MEDIUM
        return Sensitivity.LOW if is_low(action) else Sensitivity.HIGH

    return classify


def _matcher(patterns: Iterable[str]) -> Callable[[str], object]:
    alternatives = "|".join(map(_regex, patterns))
    # "(?!)" never matches.
    return re.compile(alternatives or "(?!)", re.DOTALL).fullmatch


def _regex(pattern: str) -> str:
    """Translate a pattern.

    Actions come from outside, so no action may make the match slow. A ``*`` that is followed by
    another one is content with the first place where the text between them fits, and never comes
    back to it: ``(?>...)``. Nothing is missed by that, since what lies behind the first place
    includes what lies behind any later one. So the time grows with the length of the action, and
    not with a power of it.
    """
    # The runs of segments between those that are "*".
    runs: list[list[str]] = [[]]
    for segment in pattern.split(":"):
        if segment == "*":
            runs.append([])
        else:
            runs[-1].append(_segment(segment))
    if len(runs) == 1:
        return ":".join(runs[0])
    first, *between, last = runs
    return "".join(
        [
            *(f"{segment}:" for segment in first),
            *(f"(?>.*?:{''.join(f'{segment}:' for segment in run)})" for run in between),
            ".*",
            *(f":{segment}" for segment in last),
        ]
    )


def _segment(segment: str) -> str:
    first, *rest = map(re.escape, segment.split("*"))
    if not rest:
        return first
    *between, last = rest
    return f"{first}{''.join(f'(?>[^:]*?{text})' for text in between)}[^:]*{last}"


BUILT_IN_TABLE = SensitivityTable(
    high=("admin:*",),
    medium=tuple(
        f"*:{verb}" for verb in ("write", "delete", "create", "update", "edit", "upload", "invoke")
    ),
    low=tuple(
        f"*:{verb}" for verb in ("read", "list", "get", "view", "describe", "search", "head")
    ),
)
"""What applies without a policy file that says otherwise."""
