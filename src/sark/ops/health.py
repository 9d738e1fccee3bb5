"""Readiness: whether requests can be answered, and what stands in the way."""

from __future__ import annotations

import asyncio

import msgspec

from sark.errors import StoreError
from sark.ratelimit import RateLimiter
from sark.ratelimit.limits import Fallback
from sark.runtime import Runtime

__all__ = ["Check", "Readiness", "limiter_health", "readiness"]

WITHOUT_VALKEY: dict[Fallback, str] = {
    "local": "counted in each process (local)",
    "open": "not checked (open)",
    "closed": "refused (closed)",
}
# Anybody may ask for the report, so it doesn't tell where servers are and how they fail.
NO_ANSWER = "does not answer; the log and /v1/status say why"


class Check(msgspec.Struct, frozen=True):
    """What one part says of itself.

    Attributes:
        part: Which part.
        ok: Whether requests can rely on it.
        required: Whether requests fail without it.
        detail: The state, or what is wrong.
    """

    part: str
    ok: bool
    required: bool
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """All parts together.

    Attributes:
        ready: Whether every required part is ok.
        checks: The parts.
    """

    ready: bool
    checks: tuple[Check, ...]


async def readiness(runtime: Runtime) -> Readiness:
    """Ask every part, within the budget of one request."""
    servers, queue, engine = await asyncio.gather(
        _servers(runtime), _queue(runtime), _evaluator(runtime)
    )
    away = any(server.required and not server.ok for server in servers)
    limits = _limits(runtime.gateway.limiter, away=away)
    if away and runtime.spill is None:
        limits = msgspec.structs.replace(limits, detail=f"{limits.detail}; authorize answers 503")
    checks = (*servers, queue, engine, limits, *_near(runtime))
    if runtime.settings.warm_ready_ms:
        warm_up = runtime.warm_up
        ok = not warm_up.holds_readiness
        checks += (Check("warm-up", ok=ok, required=True, detail=warm_up.state),)
    return Readiness(all(check.ok for check in checks if check.required), checks)


async def _servers(runtime: Runtime) -> list[Check]:
    budget = runtime.settings.request_budget_ms / 1000
    return [
        # A cache server that is away costs evaluations, not answers.
        Check(
            f"valkey {health.role}",
            ok=health.ok,
            required=health.role == "state",
            detail="answers" if health.ok else NO_ANSWER,
        )
        for health in await runtime.store.check(timeout=budget)
    ]


def _near(runtime: Runtime) -> list[Check]:
    near = runtime.gateway.decisions.near
    if near is None:
        return []
    ok = near.serving
    detail = "serves" if ok else "does not hear of changes; the log and /v1/cache/stats say why"
    # Without it Valkey is asked each time.
    return [Check("near cache", ok=ok, required=False, detail=detail)]


async def _evaluator(runtime: Runtime) -> Check:
    decisions = runtime.gateway.decisions
    reason = await decisions.evaluations.evaluator.ready()
    policies = ", ".join(runtime.gateway.policies)
    detail = f"revision {decisions.revision}, policies: {policies}"
    return Check("evaluator", ok=reason is None, required=True, detail=reason or detail)


async def limiter_health(limiter: RateLimiter, *, seconds: float = 0.25) -> Check:
    """Tell whether limits are shared by all processes and are the file's, by asking Valkey.

    Args:
        limiter: Whose limits.
        seconds: How long Valkey may take to answer.
    """
    health = await limiter.store.check(timeout=seconds)
    return _limits(limiter, away=any(each.role == "state" and not each.ok for each in health))


def _limits(limiter: RateLimiter, *, away: bool) -> Check:
    rules = limiter.rules
    detail = f"shared, revision {rules.revision}, {len(rules.rules)} rules"
    if away:
        how = WITHOUT_VALKEY[limiter.fallback]
        detail = f"not shared, since Valkey does not answer: {how}"
    if limiter.refused_rules:
        detail += "; the limits file was refused and the running rules stay, the log says why"
    ok = not away and not limiter.refused_rules
    return Check("limits", ok=ok, required=False, detail=detail)


async def _queue(runtime: Runtime) -> Check:
    """Tell whether events find a place: in the queues, or else in the spill store."""
    queue, spill = runtime.gateway.queue, runtime.spill
    deadline = asyncio.get_running_loop().time() + runtime.settings.request_budget_ms / 1000
    try:
        statuses = await queue.statuses(deadline=deadline)
    except StoreError:
        ok, detail = False, NO_ANSWER
    else:
        bounds = queue.bounds
        ok = not any(status.is_full(bounds) for status in statuses)
        fullest = max(statuses, key=lambda status: status.queued_bytes)
        detail = f"{fullest.queued} of {bounds.events} events, {fullest.queued_bytes} bytes"
    if spill is not None and (not ok or spill.waiting_bytes):
        detail += f"; {spill.waiting_bytes} of {spill.max_bytes} bytes are spilled"
        if spill.trouble:
            detail += ", and the disk refuses more"
        ok |= spill.has_room()
    return Check("audit queue", ok=ok, required=True, detail=detail)
