"""Logs: one form for all, nothing said too often, no secrets by accident."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from sark.events import (
    AuditRefused,
    AuditReplayed,
    AuditSpilled,
    BreakerChanged,
    CacheWriteFailed,
    DeadLettered,
    EvaluationFailed,
    EvaluatorBreakerChanged,
    Event,
    ForwardFailed,
    GenerationChanged,
    GuardChanged,
    Hub,
    IssuerKeysFetched,
    IssuerUnavailable,
    LeaseExpired,
    PoliciesRestored,
    RefreshReused,
    ScriptLoaded,
    ServerClockRead,
    SigningKeysChanged,
    SigningKeysRefused,
    SinkPaused,
    SpillChanged,
    SpillFileSetAside,
)
from sark.ops import quiet
from sark.ops.logs import REMEDIES, configure_logs, report_events
from sark.ops.quiet import Quiet


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Put logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).filters.clear()
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that returns the log lines written since."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


class Clock:
    """The clock of ``Quiet``, turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(quiet, "monotonic", found)
    return found


def test_json_of_our_own_and_of_libraries(lines: Any) -> None:
    configure_logs("info", "json")
    structlog.stdlib.get_logger("sark").info("said", number=1)
    logging.getLogger("library").warning("said %s", "too")
    ours, theirs = lines()
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {"event": "said", "number": 1, "level": "info", "logger": "sark"}
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "said too",
        "warning",
        "library",
    )


def test_a_traceback_is_one_line_without_values(lines: Any) -> None:
    configure_logs("info", "json")
    secret = "hunter2"
    try:
        int(secret[:0])
    except ValueError:
        logging.getLogger("sark").exception("failed")
    (line,) = lines()
    assert "ValueError: invalid literal" in line["exception"]
    assert secret not in line["exception"]


def test_text_of_any_kind_stays_one_line(lines: Any) -> None:
    configure_logs("info", "json")
    odd = 'a\nb"\x00\udc80é'
    structlog.stdlib.get_logger("sark").info("said", odd=odd)
    (line,) = lines()
    assert line["odd"] == odd


def test_auto_is_json_where_nobody_watches(lines: Any) -> None:
    configure_logs("info", "auto")
    logging.getLogger("sark").info("said")
    assert [line["event"] for line in lines()] == ["said"]


def test_console_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "console")
    structlog.stdlib.get_logger("sark").info("said", number=1)
    text = capsys.readouterr().err
    assert "said" in text
    assert not text.startswith("{")


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_levels(lines: Any, level: Any, written: int) -> None:
    configure_logs(level, "json")
    log = logging.getLogger("sark")
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(number, "said")
    assert len(lines()) == written


def test_uvicorn_does_not_repeat_the_summary(lines: Any) -> None:
    configure_logs("debug", "json")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").error("failed")
    assert [line["event"] for line in lines()] == ["failed"]


def test_a_request_that_was_cut_off_is_no_error(lines: Any) -> None:
    configure_logs("info", "json")
    log = logging.getLogger("uvicorn.error")
    log.error("Exception in ASGI application", exc_info=asyncio.CancelledError())
    log.error("Exception in ASGI application", exc_info=ValueError("a bug"))
    (line,) = lines()
    assert "a bug" in line["exception"]


def test_configuring_again_does_not_double(lines: Any) -> None:
    configure_logs("info", "json")
    configure_logs("info", "json")
    logging.getLogger("sark").info("said")
    assert len(lines()) == 1


# Quiet


def test_quiet_lets_one_through_a_second_and_counts_the_rest(clock: Clock) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    report = Quiet(lambda message, **fields: said.append((message, fields)))
    for number in range(10):
        report("failed", number=number)
    assert said == [("failed", {"number": 0})]
    clock.now += 0.999
    report("failed", number=10)
    assert len(said) == 1
    clock.now += 0.001
    report("failed", number=11)
    assert said[1:] == [("failed", {"number": 11, "left_out": 10})]
    clock.now += 1
    report("failed", number=12)
    assert said[2:] == [("failed", {"number": 12})]


def test_quiet_lets_rare_reports_through(clock: Clock) -> None:
    said: list[str] = []
    report = Quiet(said.append)
    for _ in range(5):
        report("failed")
        clock.now += 2
    assert said == ["failed"] * 5


# The events that are reported


@pytest.mark.parametrize(
    ("event", "level", "said"),
    [
        (
            GuardChanged("state", is_open=True, reason="refused"),
            "error",
            {"event": "valkey is down", "role": "state", "reason": "refused"},
        ),
        (
            GuardChanged("state", is_open=False, reason=""),
            "info",
            {"event": "valkey answers again", "role": "state"},
        ),
        (
            EvaluatorBreakerChanged("open", "refused"),
            "error",
            {"event": "policy engine is down", "reason": "refused"},
        ),
        (
            EvaluatorBreakerChanged("closed", ""),
            "info",
            {"event": "policy engine answers again"},
        ),
        (ScriptLoaded("cache", "x"), "debug", {"event": "script loaded", "script": "x"}),
        (
            GenerationChanged("user", "ann"),
            "info",
            {"event": "decisions invalidated", "scope": "user", "name": "ann"},
        ),
        (
            RefreshReused("ann", "s-1", ""),
            "warning",
            {
                "event": "refresh token reused, its session is ended",
                "user_id": "ann",
                "session_id": "s-1",
            },
        ),
        (
            RefreshReused("ann", "s-1", "no answer"),
            "warning",
            {"not_safe_from_a_crash": "no answer"},
        ),
        (
            PoliciesRestored("r1"),
            "info",
            {"event": "policies are the running ones again", "revision": "r1"},
        ),
        (
            EvaluationFailed("authz", "why"),
            "warning",
            {"event": "evaluation failed", "policy": "authz", "reason": "why"},
        ),
        (
            CacheWriteFailed("authz", "why"),
            "warning",
            {"event": "decision not stored", "policy": "authz", "reason": "why"},
        ),
        (
            SigningKeysChanged("kid", 3),
            "info",
            {"event": "signing keys changed", "active": "kid", "keys": 3},
        ),
        (
            ServerClockRead(-31.5, 30, warn=True),
            "warning",
            {
                "event": "clocks differ by more than the leeway",
                "offset_seconds": -31.5,
                "leeway": 30,
            },
        ),
        (
            SigningKeysRefused("why"),
            "error",
            {"event": "signing keys refused, the known ones stay", "reason": "why"},
        ),
        (
            IssuerKeysFetched("idp", 2, changed=True),
            "info",
            {"event": "keys of an issuer changed", "issuer": "idp", "keys": 2},
        ),
        (
            IssuerUnavailable("idp", "why", usable=True),
            "warning",
            {"event": "keys of an issuer not available", "issuer": "idp", "reason": "why"},
        ),
        (
            IssuerUnavailable("idp", "why", usable=False),
            "error",
            {"event": "keys of an issuer not available", "usable": False},
        ),
        (
            AuditRefused(3, "full"),
            "error",
            {
                "event": "audit events refused",
                "events": 3,
                "reason": "full",
                "remedy": REMEDIES["full"],
            },
        ),
        (
            AuditSpilled("main", 3, "unavailable"),
            "warning",
            {"event": "audit events spilled to disk", "sink": "main", "reason": "unavailable"},
        ),
        (
            SpillChanged(working=False, reason="no space left on device"),
            "error",
            {"event": "spill store failed", "reason": "no space left on device"},
        ),
        (
            SpillChanged(working=True, reason=""),
            "info",
            {"event": "spill store works again"},
        ),
        (
            SpillFileSetAside("a.corrupt", "not a database"),
            "error",
            {"event": "spill file cannot be read and was set aside", "path": "a.corrupt"},
        ),
        (
            AuditReplayed("main", 3),
            "info",
            {"event": "spilled audit events queued", "events": 3},
        ),
        (
            ForwardFailed("main", "unavailable", "why", 1.5),
            "warning",
            {"kind": "unavailable", "reason": "why", "pause_seconds": 1.5},
        ),
        (
            SinkPaused("main", paused=True, kind="unauthorized", reason="why"),
            "error",
            {"event": "sink paused", "sink": "main", "kind": "unauthorized", "reason": "why"},
        ),
        (
            SinkPaused("main", paused=False, kind="unauthorized", reason=""),
            "info",
            {"event": "sink takes events again", "sink": "main"},
        ),
        (
            DeadLettered("main", 2, "rejected", "why"),
            "error",
            {"event": "audit events became dead letters", "events": 2, "reason": "why"},
        ),
        (
            LeaseExpired("main", 7),
            "warning",
            {"event": "audit events of a lost worker are queued again", "events": 7},
        ),
        (
            BreakerChanged("siem", "open", "why"),
            "error",
            {"event": "circuit breaker changed", "breaker": "siem", "state": "open"},
        ),
        (
            BreakerChanged("siem", "closed", "", shared=False),
            "info",
            {"state": "closed", "decided_by": "this process alone"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_events_are_reported(lines: Any, event: Event, level: str, said: dict[str, Any]) -> None:
    configure_logs("debug", "json")
    hub = Hub()
    report_events(hub)
    hub.emit(event)
    (line,) = lines()
    assert line["level"] == level
    assert line.items() >= said.items()
    assert hub.handler_failures == 0


@pytest.mark.parametrize(
    "event",
    [
        EvaluationFailed("authz", "why"),
        CacheWriteFailed("authz", "why"),
        AuditRefused(1, "full"),
        AuditSpilled("main", 1, "full"),
        ForwardFailed("main", "breaker", "why", 1.0),
        DeadLettered("main", 1, "rejected", "why"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_comes_with_every_request_is_reported_once(
    lines: Any, clock: Clock, event: Event
) -> None:
    configure_logs("info", "json")
    hub = Hub()
    report_events(hub)
    for _ in range(100):
        hub.emit(event)
    clock.now += 1
    hub.emit(event)
    assert [line.get("left_out") for line in lines()] == [None, 99]


def test_kinds_do_not_silence_each_other(lines: Any, clock: Clock) -> None:
    configure_logs("info", "json")
    hub = Hub()
    report_events(hub)
    hub.emit(EvaluationFailed("authz", "why"))
    hub.emit(AuditRefused(1, "full"))
    assert len(lines()) == 2


def test_sinks_do_not_silence_each_other(lines: Any, clock: Clock) -> None:
    configure_logs("info", "json")
    hub = Hub()
    report_events(hub)
    for sink in ("main", "splunk"):
        hub.emit(ForwardFailed(sink, "unavailable", "why", 1.0))
    assert [line["sink"] for line in lines()] == ["main", "splunk"]
