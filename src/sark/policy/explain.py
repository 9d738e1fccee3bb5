"""Why a question is answered the way it is: its key, its stamps, and what they say.

For people who look into a cache. Nothing is changed by looking: no token is created, no entry moves
up in the near cache, nothing is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec

from sark.errors import StoreError
from sark.policy.consistency import FAST, Plan
from sark.policy.decision import (
    FORMAT_VERSION,
    decode_entry,
    is_compressed,
    is_withdrawal,
    version_of,
)
from sark.policy.decisions import Decisions
from sark.policy.freshness import generation_time
from sark.policy.generations import stamp_of
from sark.policy.question import Question
from sark.policy.sensitivity import Sensitivity
from sark.store import Store

__all__ = ["CachedValue", "Explanation", "GenerationSeen", "NearSeen", "Part", "explain"]

Part = Literal["all", "policy", "user", "run_id", "revision"]
State = Literal["valid", "absent", "withdrawn", "corrupt", "other_version", "stale", "unavailable"]
NearState = Literal["off", "absent", "outdated", "stale", "valid"]

NO_EXPIRY = -1


class GenerationSeen(msgspec.Struct, frozen=True):
    """One of the three generations that a decision depends on.

    Attributes:
        scope: What it stands for.
        key: Its key.
        token: Its token; None when there is none, and the next request creates it.
        written: When, in ISO 8601 by the server's clock.
    """

    scope: Literal["all", "policy", "user"]
    key: str
    token: str | None
    written: str | None


class CachedValue(msgspec.Struct, frozen=True):
    """What stands in Valkey under the question's key.

    Attributes:
        state: Whether it is a valid decision, or why not. ``withdrawn``: the latest evaluation may
            not be kept, and keeps earlier ones from being stored.
        ttl_ms: Milliseconds that it stays; None when it has no end, 0 when there is nothing.
        bytes: Its size.
        compressed: Whether it is compressed.
        allow: The decision.
        reason: Why.
        stamp: What it is valid under.
        evaluated: When its evaluation began, in ISO 8601 by the server's clock.
        life: Seconds that the policy lets it live; None leaves it to the tier.
    """

    state: State
    ttl_ms: int | None = 0
    bytes: int = 0
    compressed: bool = False
    allow: bool | None = None
    reason: str | None = None
    stamp: str | None = None
    evaluated: str | None = None
    life: int | None = None


class NearSeen(msgspec.Struct, frozen=True):
    """What this process holds.

    Attributes:
        state: ``outdated``: expired, or the change feed told of a newer generation; ``stale``: its
            stamp is not the expected one.
        serving: Whether the near cache is within its bound.
    """

    state: NearState
    serving: bool


class Explanation(msgspec.Struct, frozen=True):
    """Everything that decides how a question is answered.

    Attributes:
        policy: Who decides.
        key: Of the decision, as it stands in Valkey.
        input: What the key is made of and the policy sees, in canonical JSON.
        sensitivity: Of the action.
        tier_seconds: The longest time that a decision about it is kept.
        cacheable: Whether decisions of this policy may be kept.
        generations: Of everything, the policy and the user.
        run_id: The run of the server that holds them.
        revision: Of the policies in force.
        expected: The stamp that a valid decision carries; None while a token is missing.
        cached: What Valkey has.
        near: What this process has.
        answered_from: Where the question would be answered from now.
        why: The reason for that, in words.
        changed: Parts of the stamp that are known to have changed.
        may_have_changed: Parts that may have. A token tells when it was written, the run of the
            server and the revision don't.
    """

    policy: str
    key: str
    input: str
    sensitivity: Sensitivity
    tier_seconds: int
    cacheable: bool
    generations: tuple[GenerationSeen, ...]
    run_id: str
    revision: str
    expected: str | None
    cached: CachedValue
    near: NearSeen
    answered_from: Literal["near", "valkey", "evaluated"]
    why: str
    changed: tuple[Part, ...] = ()
    may_have_changed: tuple[Part, ...] = ()


class _Read(NamedTuple):
    tokens: Sequence[bytes | None]
    run_id: str
    # Value and milliseconds left; None when the cache server did not tell.
    cached: tuple[bytes | None, int] | None


async def explain(
    store: Store,
    decisions: Decisions,
    question: Question,
    plan: Plan = FAST,
    *,
    earlier_revisions: Sequence[str] = (),
    deadline: float | None = None,
) -> Explanation:
    """Explain a question.

    Args:
        store: Where to look.
        decisions: Who would decide.
        question: What would be asked.
        plan: With which consistency.
        earlier_revisions: Policies that were in force before, for telling what has changed.
        deadline: On the event loop's clock, in seconds.

    Raises:
        StoreError: The ``state`` server did not answer.
    """
    cache = decisions.cache
    keys = cache.generation_keys(question)
    key = cache.decision_key(question)
    read = await _read(store, keys, key, deadline)
    revision = decisions.revision
    expected = _stamp(read, revision)
    cached, began = judge_value(read.cached, expected)
    near = _look_near(decisions, question, expected)
    covered = plan.covered_by(read.tokens, question)
    answered_from, why = _conclude(plan, expected, cached, near, covered=covered)
    changed: tuple[Part, ...] = ()
    may_have_changed: tuple[Part, ...] = ()
    if cached.state == "stale":
        changed = _known_changes(read, cached, earlier_revisions)
        if not changed:
            changed = changed_since(read.tokens, began)
            may_have_changed = () if changed else ("run_id", "revision")
    return Explanation(
        policy=question.policy,
        key=key,
        input=question.input.decode(),
        sensitivity=cache.rules.sensitivity(question.action),
        tier_seconds=cache.rules.ttl(question.action, cache.tiers),
        cacheable=cache.rules.cacheable(question.policy),
        generations=_generations(keys, read.tokens),
        run_id=read.run_id,
        revision=revision,
        expected=expected,
        cached=cached,
        near=near,
        answered_from=answered_from,
        why=why,
        changed=changed,
        may_have_changed=may_have_changed,
    )


async def _read(store: Store, keys: list[str], key: str, deadline: float | None) -> _Read:
    """Read, and only read: a missing token stays missing."""
    value = (("PTTL", key), ("GET", key))
    tokens = ("MGET", *keys)
    if store.shared:
        replies, run_id = await store.state.exchange(
            [*value, tokens], deadline=deadline, idempotent=True
        )
        return _Read(replies[2], run_id, (replies[1], replies[0]))
    (replies, run_id), cached = await asyncio.gather(
        store.state.exchange([tokens], deadline=deadline, idempotent=True),
        _read_cache(store, value, deadline),
    )
    return _Read(replies[0], run_id, cached)


async def _read_cache(
    store: Store, commands: Sequence[tuple[str, ...]], deadline: float | None
) -> tuple[bytes | None, int] | None:
    try:
        (ttl, value), _ = await store.cache.exchange(commands, deadline=deadline, idempotent=True)
    except StoreError:
        return None
    return value, ttl


def judge_value(
    cached: tuple[bytes | None, int] | None, expected: str | None
) -> tuple[CachedValue, int]:
    """Judge what stands under a key.

    Args:
        cached: Value and milliseconds left; None when the server did not tell.
        expected: The stamp of a valid decision, if there can be one.

    Returns:
        The judgement, and when the decision's evaluation began in microseconds of the server's
        clock; 0 where there is none.
    """
    if cached is None:
        return CachedValue("unavailable"), 0
    value, ttl = cached
    if value is None:
        return CachedValue("absent"), 0
    seen: dict[str, Any] = {
        "ttl_ms": None if ttl == NO_EXPIRY else max(0, ttl),
        "bytes": len(value),
        "compressed": is_compressed(value),
    }
    entry = decode_entry(value)
    if entry is None:
        if is_withdrawal(value):
            return CachedValue("withdrawn", **seen), 0
        foreign = version_of(value) not in {None, FORMAT_VERSION}
        return CachedValue("other_version" if foreign else "corrupt", **seen), 0
    judged = CachedValue(
        "valid" if entry.stamp == expected else "stale",
        allow=entry.allow,
        reason=entry.reason,
        stamp=entry.stamp,
        evaluated=_moment(entry.began),
        life=entry.life,
        **seen,
    )
    return judged, entry.began


def changed_since(tokens: Sequence[bytes | None], began: int) -> tuple[Part, ...]:
    """Tell which generations have changed since an evaluation began.

    Both times are of the same server's clock: what was written later was not what it read.

    Args:
        tokens: The generation tokens of everything, the policy and the user.
        began: Microseconds of the server's clock.
    """
    scopes: tuple[Part, ...] = ("all", "policy", "user")
    return tuple(
        scope
        for scope, token in zip(scopes, tokens, strict=True)
        if token is None or generation_time(token) > began
    )


def _known_changes(
    read: _Read, cached: CachedValue, earlier_revisions: Sequence[str]
) -> tuple[Part, ...]:
    """Tell for sure what has changed: with an earlier revision the stamp would be right."""
    stamps = (_stamp(read, revision) for revision in earlier_revisions)
    return ("revision",) if cached.stamp in stamps else ()


def _stamp(read: _Read, revision: str) -> str | None:
    tokens = [token for token in read.tokens if token is not None]
    return stamp_of(tokens, read.run_id, revision) if len(tokens) == len(read.tokens) else None


def _generations(keys: Sequence[str], tokens: Sequence[bytes | None]) -> tuple[GenerationSeen, ...]:
    scopes: tuple[Literal["all", "policy", "user"], ...] = ("all", "policy", "user")
    return tuple(
        GenerationSeen(
            scope,
            key,
            None if token is None else token.decode("utf-8", "replace"),
            _written(token),
        )
        for scope, key, token in zip(scopes, keys, tokens, strict=True)
    )


def _written(token: bytes | None) -> str | None:
    return None if token is None else _moment(generation_time(token))


def _moment(at: int) -> str | None:
    try:
        return datetime.fromtimestamp(at / 1_000_000, UTC).isoformat() if at else None
    except (ValueError, OverflowError, OSError):
        return None  # not one of ours


def _look_near(decisions: Decisions, question: Question, expected: str | None) -> NearSeen:
    near = decisions.near
    if near is None:
        return NearSeen("off", serving=False)
    entry, valid = near.cache.peek(question.key, near.now())
    if entry is None:
        state: NearState = "absent"
    elif not valid:
        state = "outdated"
    else:
        state = "valid" if entry.stamp == expected else "stale"
    return NearSeen(state, serving=near.serving)


def _conclude(
    plan: Plan, expected: str | None, cached: CachedValue, near: NearSeen, *, covered: bool
) -> tuple[Literal["near", "valkey", "evaluated"], str]:
    if plan.consistency == "full":
        return "evaluated", "the request asks for an evaluation"
    if not covered:
        return "evaluated", _WHY_NOT_COVERED[plan.unverifiable]
    if expected is None:
        return "evaluated", "a generation token is missing; no decision is valid without it"
    if near.state == "valid" and near.serving and plan.consistency == "fast":
        return "near", "this process holds a decision with the expected stamp"
    if cached.state == "valid":
        return "valkey", "the cached decision has the expected stamp"
    return "evaluated", _WHY_NOT[cached.state]


_WHY_NOT: dict[str, str] = {
    "absent": "no decision is cached: never asked, expired, evicted, or not cacheable",
    "withdrawn": "the latest decision may not be kept",
    "corrupt": "what is cached is not a decision",
    "other_version": "the cached decision was written by a version with another format",
    "stale": "the cached decision was made under another stamp",
    "unavailable": "the cache server does not answer",
}

_WHY_NOT_COVERED = {
    False: "the server's generation is older than the freshness token",
    True: "a freshness token was not signed with the key of this deployment",
}
