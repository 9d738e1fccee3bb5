"""Structured logs: configuration, and an adapter that reports what operators must know.

Nothing is logged per request. What can happen with every request of an outage is reported at most
once a second, with the number of reports left out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import msgspec
import structlog

from sark.events import (
    AuditDropped,
    AuditRefused,
    CacheWriteFailed,
    EvaluationFailed,
    EvaluatorBreakerChanged,
    FreshnessUnverifiable,
    GenerationChanged,
    GuardChanged,
    Hub,
    IssuerKeysFetched,
    IssuerUnavailable,
    LimitFallback,
    LimitsReloaded,
    LimitsReloadFailed,
    NearCacheChanged,
    PoliciesReloaded,
    PoliciesRestored,
    PolicyReloadFailed,
    RefreshReused,
    ScriptLoaded,
    ServerClockRead,
    SigningKeysChanged,
    SigningKeysRefused,
    Warmed,
)
from sark.ops.quiet import Quiet
from sark.ops.siem_logs import report_forwarding
from sark.settings import LogFormat, LogLevel

__all__ = ["configure_logs", "logger", "report_events"]

REMEDIES = {
    "full": "drain siem:event_queue, or raise SARK_SIEM_MAX_EVENTS or SARK_SIEM_MAX_BYTES",
    "unavailable": "bring the state server back",
}


def configure_logs(level: LogLevel, log_format: LogFormat) -> None:
    """Send all logs, ours and the libraries', to standard error in one form.

    Args:
        level: Lowest level that is written.
        log_format: ``json``, ``console``, or ``auto``: console on a terminal.
    """
    as_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if as_console else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # uvicorn tells at info what the start-up summary says better.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Leave out the traceback of a request that was cut off at the end of the process."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def report_events(hub: Hub) -> None:
    """Log what happens to servers, policies, sessions, limits, audit events and breakers."""
    log = logger("sark")
    _report_servers(hub, log)
    _report_policies(hub, log)
    _report_cache(hub, log)
    _report_sessions(hub, log)
    _report_keys(hub, log)
    _report_limits(hub, log)
    _report_audit(hub, log)
    report_forwarding(hub, log)


def logger(name: str) -> Any:
    """Give what logs as the program has configured structlog, else a line to ``logging``.

    Without that a program that knows nothing of structlog would have our reports on its standard
    output, past its own handlers.
    """
    if structlog.is_configured():
        return structlog.stdlib.get_logger(name)
    line = structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False)
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, line],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _report_servers(hub: Hub, log: Any) -> None:
    def guard(event: GuardChanged) -> None:
        if event.is_open:
            log.error("valkey is down", role=event.role, reason=event.reason)
        else:
            log.info("valkey answers again", role=event.role)

    hub.on(GuardChanged, guard)
    hub.on(ScriptLoaded, lambda e: log.debug("script loaded", role=e.role, script=e.script))


def _report_policies(hub: Hub, log: Any) -> None:
    evaluation = Quiet(log.warning)

    def breaker(event: EvaluatorBreakerChanged) -> None:
        if event.state == "open":
            log.error("policy engine is down", reason=event.reason)
        elif event.state == "closed":
            log.info("policy engine answers again")

    hub.on(EvaluatorBreakerChanged, breaker)
    hub.on(
        EvaluationFailed,
        lambda e: evaluation("evaluation failed", policy=e.policy, reason=e.reason),
    )
    hub.on(PoliciesReloaded, lambda e: log.info("policies reloaded", revision=e.revision))
    hub.on(
        PoliciesRestored,
        lambda e: log.info("policies are the running ones again", revision=e.revision),
    )
    hub.on(
        PolicyReloadFailed,
        lambda e: log.error("policies refused, the running ones stay", reason=e.reason),
    )


def _report_cache(hub: Hub, log: Any) -> None:
    cache, freshness = Quiet(log.warning), Quiet(log.warning)

    def near(event: NearCacheChanged) -> None:
        if event.serving:
            log.info("near cache serves")
        else:
            log.warning("near cache steps aside", reason=event.reason)

    hub.on(NearCacheChanged, near)

    def warmed(event: Warmed) -> None:
        fields = msgspec.structs.asdict(event)
        reason = fields.pop("reason")
        if reason:
            log.warning("cache not warmed yet, will be tried again", **fields, reason=reason)
        elif event.failed:
            log.warning("cache warmed, but for what failed", **fields)
        elif any(fields[name] for name in fields.keys() - {"seconds"}):
            log.info("cache warmed", **fields)

    hub.on(Warmed, warmed)
    hub.on(
        GenerationChanged, lambda e: log.info("decisions invalidated", scope=e.scope, name=e.name)
    )
    hub.on(
        CacheWriteFailed,
        lambda e: cache("decision not stored", policy=e.policy, reason=e.reason),
    )
    hub.on(
        FreshnessUnverifiable,
        lambda _: freshness(
            "freshness token not verified",
            remedy="let all services of a deployment use the same SARK_KEY_DIR",
        ),
    )


def _report_sessions(hub: Hub, log: Any) -> None:
    def reused(event: RefreshReused) -> None:
        log.warning(
            "refresh token reused, its session is ended",
            user_id=event.user_id,
            session_id=event.session_id,
            **({"not_safe_from_a_crash": event.failure} if event.failure else {}),
        )

    def clock(event: ServerClockRead) -> None:
        if event.warn:
            log.warning(
                "clocks differ by more than the leeway",
                offset_seconds=round(event.offset, 3),
                leeway=event.leeway,
            )

    hub.on(ServerClockRead, clock)
    hub.on(RefreshReused, reused)


def _report_limits(hub: Hub, log: Any) -> None:
    limits = Quiet(log.warning)
    hub.on(LimitFallback, lambda e: limits("limits checked without valkey", mode=e.mode))
    hub.on(LimitsReloaded, lambda e: log.info("limits reloaded", revision=e.revision))
    hub.on(
        LimitsReloadFailed,
        lambda e: log.error("limits refused, the running ones stay", reason=e.reason),
    )


def _report_audit(hub: Hub, log: Any) -> None:
    audit = Quiet(log.error)
    hub.on(
        AuditRefused,
        lambda e: audit(
            "audit events refused", events=e.events, reason=e.reason, remedy=REMEDIES[e.reason]
        ),
    )
    hub.on(AuditDropped, lambda e: log.error("audit events given up", events=e.events))


def _report_keys(hub: Hub, log: Any) -> None:
    def issuer_fetched(event: IssuerKeysFetched) -> None:
        if event.changed:
            log.info("keys of an issuer changed", issuer=event.issuer, keys=event.keys)

    hub.on(IssuerKeysFetched, issuer_fetched)

    def issuer_unavailable(event: IssuerUnavailable) -> None:
        # Its tokens are refused only once the keys known before are too old.
        report = log.warning if event.usable else log.error
        report("keys of an issuer not available", **msgspec.structs.asdict(event))

    hub.on(IssuerUnavailable, issuer_unavailable)
    hub.on(
        SigningKeysChanged,
        lambda e: log.info("signing keys changed", active=e.active, keys=e.keys),
    )
    hub.on(
        SigningKeysRefused,
        lambda e: log.error("signing keys refused, the known ones stay", reason=e.reason),
    )
