"""The cases: what is measured, how often in a round, and what it is compared with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from benchmarks.measure import (
    Operation,
    Sample,
    no_collection,
    one_after_the_other,
    several_at_once,
)
from benchmarks.operations import Operations

__all__ = [
    "AIOCACHE",
    "AUTHORIZE_HIT",
    "AUTHORIZE_TOKEN",
    "CALLERS",
    "CASHEWS",
    "CASHEWS_NEAR",
    "CASHEWS_NEAR_KEY",
    "GET",
    "GET_LEAN",
    "MGET",
    "MGET_LEAN",
    "NEAR_HIT",
    "PEERS",
    "PIPELINE",
    "PIPELINE_LEAN",
    "SESSION_CHECK",
    "VALKEY_HIT",
    "Case",
    "Sizes",
    "all_cores",
    "one_core",
]

CALLERS = 50

GET, GET_LEAN = "driver GET", "driver GET, lean"
SET, SET_LEAN = "driver SET", "driver SET, lean"
MGET, MGET_LEAN = "driver MGET", "driver MGET, lean"
PIPELINE, PIPELINE_LEAN = "driver pipeline of a check", "driver pipeline of a check, lean"
SESSION_CHECK = "session check"
AUTHORIZE_HIT, AUTHORIZE_TOKEN = "authorize, hit", "authorize with token, hit"
VALKEY_HIT, NEAR_HIT = "decide, Valkey hit", "decide, near hit"
PEERS = AIOCACHE, CASHEWS = "aiocache", "cashews"
CASHEWS_NEAR = "cashews, client side"
CASHEWS_NEAR_KEY = "cashews, client side, key derived"


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the report.

    Attributes:
        name: What is measured.
        measure: Measures it once, for one round.
        baselines: Names of the cases that it is compared with; the table shows the first.
        concurrent: Whether calls per second tell something: there are several callers, or a lone
            one that waits for nothing.
    """

    name: str
    measure: Callable[[], Awaitable[Sample]]
    baselines: tuple[str, ...] = ()
    concurrent: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """Calls of one case in one round.

    Attributes:
        alone: Of a lone caller.
        misses: Of a lone caller whose every call evaluates a policy.
        together: Of several callers together.
        near: Of a lone caller who stays in its process.
    """

    alone: int
    misses: int
    together: int
    near: int


def one_core(on: Operations, sizes: Sizes) -> list[Case]:
    """List the cases of a lone caller who shares a core with the server."""
    guide, lean = on.drivers.guide, on.drivers.lean
    calls = sizes.alone
    return [
        _alone(GET, on.get(guide), calls),
        _alone(GET_LEAN, on.get(lean), calls, GET),
        _alone(SET, on.set(guide), calls),
        _alone(SET_LEAN, on.set(lean), calls, SET),
        _alone(MGET, on.mget(guide), calls, GET, accept=all),
        _alone(MGET_LEAN, on.mget(lean), calls, GET_LEAN, accept=all),
        _alone(
            "cached decision",
            on.cached_decision,
            calls,
            *(GET, GET_LEAN, MGET, MGET_LEAN),
            accept=_hit,
        ),
        _alone(
            VALKEY_HIT,
            on.decide,
            calls,
            *(MGET, MGET_LEAN, *PEERS),
            accept=_found_in_valkey,
        ),
        _alone(
            NEAR_HIT,
            on.decide_near,
            sizes.near,
            *(CASHEWS_NEAR_KEY, CASHEWS_NEAR),
            accept=_found_near,
            prepare=on.fill_near,
            concurrent=True,
        ),
        _alone("stored decision", on.stored_decision, calls, SET, SET_LEAN),
        _alone(AUTHORIZE_HIT, on.authorize, calls, GET, GET_LEAN, accept=_from_cache),
        _alone(PIPELINE, on.session_pipeline(guide), calls, accept=all),
        _alone(PIPELINE_LEAN, on.session_pipeline(lean), calls, PIPELINE, accept=all),
        _alone(SESSION_CHECK, on.session_check, calls, PIPELINE, PIPELINE_LEAN),
        _alone(
            AUTHORIZE_TOKEN, on.authorize_with_token, calls, AUTHORIZE_HIT, GET, accept=_from_cache
        ),
        _alone(
            "authorize, near hit",
            on.authorize_near,
            calls,
            *(GET, AUTHORIZE_HIT),
            accept=_from_near,
            prepare=on.fill_near,
        ),
        _alone(
            "authorize, miss",
            on.authorize_missed,
            sizes.misses,
            *(GET, AUTHORIZE_HIT),
            accept=_evaluated,
            prepare=on.forget,
        ),
    ]


def all_cores(on: Operations, sizes: Sizes) -> list[Case]:
    """List the cases that may use every core: a lone caller again, and many callers."""
    guide, lean = on.drivers.guide, on.drivers.lean
    alone, together = sizes.alone, sizes.together
    one, many = ", 1 caller", f", {CALLERS} callers"
    return [
        _alone(GET + one, on.get(guide), alone),
        _alone(GET_LEAN + one, on.get(lean), alone, GET + one),
        _alone(
            "cached decision" + one,
            on.cached_decision,
            alone,
            *(GET + one, GET_LEAN + one),
            accept=_hit,
        ),
        _alone(AUTHORIZE_HIT + one, on.authorize, alone, GET + one, accept=_from_cache),
        _alone(PIPELINE + one, on.session_pipeline(guide), alone, accept=all),
        _alone(PIPELINE_LEAN + one, on.session_pipeline(lean), alone, PIPELINE + one, accept=all),
        _alone(
            SESSION_CHECK + one,
            on.session_check,
            alone,
            *(PIPELINE + one, PIPELINE_LEAN + one),
        ),
        _alone(
            AUTHORIZE_TOKEN + one,
            on.authorize_with_token,
            alone,
            AUTHORIZE_HIT + one,
            accept=_from_cache,
        ),
        _alone(
            "authorize, near hit" + one,
            on.authorize_near,
            alone,
            *(GET + one, AUTHORIZE_HIT + one),
            accept=_from_near,
            prepare=on.fill_near,
        ),
        _together(GET + many, on.get(guide), together),
        _together(GET_LEAN + many, on.get(lean), together, GET + many),
        _together(
            "cached decision" + many,
            on.cached_decision,
            together,
            *(GET + many, GET_LEAN + many),
            accept=_hit,
        ),
        _together(MGET + many, on.mget(guide), together, GET + many, accept=all),
        _together(MGET_LEAN + many, on.mget(lean), together, GET_LEAN + many, accept=all),
        _together(
            VALKEY_HIT + many,
            on.decide,
            together,
            *(MGET + many, MGET_LEAN + many, *(peer + many for peer in PEERS)),
            accept=_found_in_valkey,
        ),
        _together(
            AUTHORIZE_HIT + many,
            on.authorize,
            together,
            *(GET + many, GET_LEAN + many),
            accept=_from_cache,
        ),
        _together(PIPELINE + many, on.session_pipeline(guide), together, accept=all),
        _together(
            PIPELINE_LEAN + many, on.session_pipeline(lean), together, PIPELINE + many, accept=all
        ),
        _together(
            SESSION_CHECK + many,
            on.session_check,
            together,
            *(PIPELINE + many, PIPELINE_LEAN + many),
        ),
        _together(
            AUTHORIZE_TOKEN + many,
            on.authorize_with_token,
            together,
            AUTHORIZE_HIT + many,
            accept=_from_cache,
        ),
        _together(
            "authorize, near hit" + many,
            on.authorize_near,
            together,
            *(GET + many, AUTHORIZE_HIT + many),
            accept=_from_near,
            prepare=on.fill_near,
        ),
    ]


def _alone(
    name: str,
    operation: Operation,
    calls: int,
    *baselines: str,
    accept: Callable[[Any], bool] = bool,
    prepare: Callable[[], Awaitable[None]] | None = None,
    concurrent: bool = False,
) -> Case:
    rounds = count()

    async def measure() -> Sample:
        if prepare is not None:
            await prepare()
        first = next(rounds) * calls
        with no_collection():
            return await one_after_the_other(operation, calls, first=first, accept=accept)

    return Case(name, measure, baselines, concurrent)


def _together(
    name: str,
    operation: Operation,
    calls: int,
    *baselines: str,
    accept: Callable[[Any], bool] = bool,
    prepare: Callable[[], Awaitable[None]] | None = None,
) -> Case:
    rounds = count()

    async def measure() -> Sample:
        if prepare is not None:
            await prepare()
        first = next(rounds) * calls
        with no_collection():
            return await several_at_once(
                operation, calls, callers=CALLERS, first=first, accept=accept
            )

    return Case(name, measure, baselines, concurrent=True)


def _hit(found: Any) -> bool:
    return found.decision is not None


def _from_cache(answer: Any) -> bool:
    return answer.cached == "valkey"  # type: ignore[no-any-return]


def _from_near(answer: Any) -> bool:
    return answer.cached == "near"  # type: ignore[no-any-return]


def _found_in_valkey(outcome: Any) -> bool:
    return outcome.source == "valkey"  # type: ignore[no-any-return]


def _found_near(outcome: Any) -> bool:
    return outcome.source == "near"  # type: ignore[no-any-return]


def _evaluated(answer: Any) -> bool:
    return answer.cached is False
