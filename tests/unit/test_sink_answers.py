"""What answers of HTTP receivers mean, by status, code and item."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sark.siem.sinks import datadog, elastic, otlp, splunk, webhook
from sark.siem.sinks.answers import Answer, by_status, retry_after
from sark.siem.sinks.http import secret_forms
from sark.siem.sinks.verdict import (
    Delivered,
    Partly,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
    Verdict,
)

TOKEN = 's3cret/token+of:the"sink'
COUNT = 3


def answer(status: int, body: object = b"", after: float | None = None) -> Answer:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, text, after, secret_forms(SecretStr(TOKEN)))


# By status


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ((200, 201, 202, 204), Delivered),
        ((300, 301, 302, 304, 307, 308), Unauthorized),
        ((401, 402, 403, 404, 405, 406, 407, 410, 415, 421, 426, 431, 501, 505), Unauthorized),
        ((400, 409, 411, 412, 422, 451), Rejected),
        ((408, 425, 500, 502, 503, 504, 507, 520, 599), Unavailable),
        ((413,), TooLarge),
        ((429,), Throttled),
    ],
)
def test_statuses(statuses: tuple[int, ...], kind: type) -> None:
    for status in statuses:
        assert type(by_status(answer(status, b"why"))) is kind
        assert type(datadog.classify(answer(status))) is kind
        if status != 409:
            assert type(webhook.classify(answer(status))) is kind


def test_a_webhook_that_is_busy_with_the_same_batch_is_asked_again() -> None:
    assert webhook.classify(answer(409, b"in progress")) == Unavailable("HTTP 409: in progress")


def test_a_receiver_says_how_long_to_wait() -> None:
    assert by_status(answer(429, b"slow", 7.0)) == Throttled("HTTP 429: slow", 7.0)
    assert by_status(answer(503, b"", 7.0)) == Unavailable("HTTP 503", 7.0)


def test_reasons_are_short_lines_without_secrets() -> None:
    said = answer(400, f"a\r\n\x1b[31m\0b {TOKEN} \x85{'x' * 300}".encode()).said()
    assert said.startswith("HTTP 400: a [31m b *** xxx")
    assert said.endswith("x...")
    assert len(said) < 220
    assert said.isprintable()


@pytest.mark.parametrize("prefix", range(180, 205))
def test_no_part_of_a_secret_is_left_by_the_cut(prefix: int) -> None:
    assert TOKEN[:4] not in answer(400, f"{'x' * prefix}{TOKEN}".encode()).said()


def test_a_secret_is_masked_in_every_form() -> None:
    forms = secret_forms(SecretStr('user:pa/ss"word'))
    assert {'user:pa/ss"word', 'pa/ss"word'} <= {*forms}
    assert {"pa%2Fss%22word", 'pa/ss\\"word', 'pa\\/ss\\"word', "pa/ss&quot;word"} <= {*forms}
    assert "dXNlcjpwYS9zcyJ3b3Jk" in forms
    assert secret_forms(None) == ()
    assert "s3cret" not in repr(answer(200))


# Retry-After

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("9999999999", 60.0),
        ("-1", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (format_datetime(NOW + timedelta(seconds=20), usegmt=True), 20.0),
        (format_datetime(NOW - timedelta(seconds=20), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), 60.0),
        ("Sun, 01 Mar 2026 12:00:05 -0000", 5.0),
        ("Sun, 99 Mar 2026 12:00:05 GMT", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    date = format_datetime(NOW, usegmt=True)
    assert retry_after(value, date, 60.0) == expected


def test_without_a_date_our_clock_counts() -> None:
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    for date in (None, "yesterday"):
        found = retry_after(ahead, date, 60.0)
        assert found is not None
        assert 20 < found <= 30


@given(st.text(), st.none() | st.text())
def test_any_header_gives_a_bounded_wait_or_none(value: str, date: str | None) -> None:
    found = retry_after(value, date, 60.0)
    assert found is None or 0 <= found <= 60


# Splunk


def hec(code: int, text: str = "text", **more: object) -> dict[str, object]:
    return {"text": text, "code": code, **more}


HEC_CODES: list[tuple[int, int, type]] = [
    (0, 200, Delivered),
    (1, 403, Unauthorized),
    (2, 401, Unauthorized),
    (3, 401, Unauthorized),
    (4, 403, Unauthorized),
    (5, 400, Rejected),
    (6, 400, Rejected),
    (6, 200, Rejected),
    (7, 400, Unauthorized),
    (8, 500, Unavailable),
    (9, 503, Unavailable),
    (10, 400, Unauthorized),
    (11, 400, Unauthorized),
    (12, 400, Rejected),
    (13, 400, Rejected),
    (14, 400, Unauthorized),
    (15, 400, Rejected),
    (16, 400, Unauthorized),
    (17, 200, Delivered),
    (18, 503, Unavailable),
    (19, 503, Unavailable),
    (20, 503, Unavailable),
    (21, 400, Unauthorized),
    (22, 400, Unauthorized),
    (23, 503, Unavailable),
    (24, 200, Delivered),
    (25, 200, Delivered),
    (26, 429, Throttled),
    (27, 429, Throttled),
    (99, 400, Rejected),
    (99, 503, Unavailable),
]


@pytest.mark.parametrize(("code", "status", "kind"), HEC_CODES)
def test_splunk_codes(code: int, status: int, kind: type) -> None:
    verdict = splunk.classify(answer(status, hec(code), 3.0), COUNT)
    assert type(verdict) is kind
    if isinstance(verdict, Throttled | Unavailable):
        assert verdict.after == 3.0
    if isinstance(verdict, Delivered):
        assert verdict.slow_down is (code in {24, 25})
    else:
        assert isinstance(verdict, Rejected | Throttled | Unauthorized | Unavailable)
        assert verdict.reason == f"HTTP {status}: text (code {code})"


@pytest.mark.parametrize(
    ("number", "suspect"),
    [(0, 0), (2, 2), (3, 2), (4, None), (-1, None), (True, None), ("1", None)],
)
def test_splunk_says_where_to_split(number: object, suspect: int | None) -> None:
    body = hec(6, "Invalid data format", **{"invalid-event-number": number})
    reason = "HTTP 400: Invalid data format (code 6)"
    assert splunk.classify(answer(400, body), COUNT) == Rejected(reason, suspect)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b"<html>Service Unavailable</html>", Unavailable),
        (400, b"no data", Rejected),
        (413, b"too big", TooLarge),
        (413, hec(6), TooLarge),
        (401, b"", Unauthorized),
        (404, b"Not Found", Unauthorized),
        # A collector says so in JSON; a proxy or a login page may say anything.
        (200, b"ok", Unavailable),
        (200, b"", Unavailable),
        (200, b"<html>Log in</html>", Unavailable),
        (200, b'{"text": "Success"}', Delivered),
        (500, b"[1]", Unavailable),
        (408, b"", Unavailable),
    ],
)
def test_splunk_without_codes(status: int, body: object, expected: type) -> None:
    assert type(splunk.classify(answer(status, body), COUNT)) is expected


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"acks": {"7": True}}, Delivered),
        (200, {"acks": {"7": False}}, Unavailable),
        (200, {"acks": {"8": True}}, Unavailable),
        (200, {"acks": [7]}, Unavailable),
        (200, b"?", Unavailable),
        (400, hec(14), Unauthorized),
        (401, b"", Unauthorized),
        (400, hec(6), Unavailable),
        (503, hec(9), Unavailable),
        (429, hec(27), Unavailable),
    ],
)
def test_splunk_acknowledgements(status: int, body: object, kind: type) -> None:
    assert type(splunk.classify_ack(answer(status, body), 7)) is kind


# Elastic


def bulk(*items: tuple[int, str] | int) -> dict[str, Any]:
    told = [
        {"create": {"status": item}}
        if isinstance(item, int)
        else {"create": {"status": item[0], "error": {"type": item[1], "reason": "why"}}}
        for item in items
    ]
    return {"errors": any(not isinstance(item, int) for item in items), "items": told}


CONFLICT = (409, "version_conflict_engine_exception")
MAPPING = (400, "document_parsing_exception")
BUSY = (429, "es_rejected_execution_exception")
DOWN = (503, "unavailable_shards_exception")
BLOCKED = (403, "cluster_block_exception")
FORBIDDEN = (403, "security_exception")
MISSING = (404, "index_not_found_exception")
WHY_MAPPING = "HTTP 200: item 400, document_parsing_exception: why"
WHY_BUSY = "HTTP 200: item 429, es_rejected_execution_exception: why"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (bulk(201, 201, 201), Delivered()),
        ({"errors": False, "items": []}, Delivered()),
        (bulk(201, CONFLICT, CONFLICT), Delivered()),
        (bulk(201, MAPPING, 201), Partly(bad={1: WHY_MAPPING})),
        (bulk(MAPPING, MAPPING, MAPPING), Partly(bad=dict.fromkeys(range(3), WHY_MAPPING))),
        (bulk(201, BUSY, 201), Partly(retry=frozenset({1}), reason=WHY_BUSY, after=5.0)),
        (
            bulk(MAPPING, CONFLICT, BUSY),
            Partly({0: WHY_MAPPING}, frozenset({2}), WHY_BUSY, 5.0),
        ),
        (bulk(BUSY, BUSY, BUSY), Throttled(WHY_BUSY, 5.0)),
        (
            bulk(BUSY, DOWN, DOWN),
            Unavailable("HTTP 200: item 503, unavailable_shards_exception: why", 5.0),
        ),
        (
            bulk(201, BLOCKED, 201),
            Partly(
                retry=frozenset({1}),
                reason="HTTP 200: item 403, cluster_block_exception: why",
                after=5.0,
            ),
        ),
        (
            bulk(201, FORBIDDEN, MAPPING),
            Unauthorized("HTTP 200: item 403, security_exception: why"),
        ),
        (
            bulk(MISSING, 201, 201),
            Unauthorized("HTTP 200: item 404, index_not_found_exception: why"),
        ),
    ],
)
def test_bulk_items(body: object, expected: Verdict) -> None:
    assert elastic.classify(answer(200, body, 5.0), COUNT) == expected


@pytest.mark.parametrize(
    "body", [b"", b"ok", {}, [], {"errors": True, "items": []}, bulk(MAPPING), {"items": 3}]
)
def test_an_answer_that_tells_nothing_is_asked_again(body: object) -> None:
    assert type(elastic.classify(answer(200, body), COUNT)) is Unavailable


@pytest.mark.parametrize(
    "item", [None, {}, {"create": None}, {"create": {}}, {"create": {"status": "201"}}]
)
def test_an_unreadable_item_is_sent_again(item: object) -> None:
    body = {"errors": True, "items": [{"create": {"status": 201}}, item]}
    verdict = elastic.classify(answer(200, body), 2)
    assert isinstance(verdict, Partly)
    assert not verdict.bad
    assert verdict.retry == {1}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (401, Unauthorized), (413, TooLarge), (429, Throttled), (503, Unavailable)],
)
def test_bulk_requests(status: int, kind: type) -> None:
    assert type(elastic.classify(answer(status, {"error": {}}), COUNT)) is kind


# OTLP


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Delivered),
        (202, Delivered),
        (400, Rejected),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, Unauthorized),
        (408, Rejected),
        (413, TooLarge),
        (429, Throttled),
        (500, Rejected),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (507, Rejected),
    ],
)
def test_otlp_statuses(status: int, kind: type) -> None:
    verdict = otlp.classify(answer(status, b"\x08\x03", 2.0), COUNT)
    assert type(verdict) is kind
    if isinstance(verdict, Throttled | Unavailable):
        assert verdict.after == 2.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        {},
        [],
        b"\x0a\x02\x08\x03",
        {"partialSuccess": {}},
        {"partialSuccess": None},
        {"partialSuccess": {"rejectedLogRecords": "0", "errorMessage": "deprecated"}},
        {"partialSuccess": {"rejectedLogRecords": "many"}},
        {"partialSuccess": {"rejectedLogRecords": -1}},
    ],
)
def test_otlp_success(body: object) -> None:
    assert otlp.classify(answer(200, body), COUNT) == Delivered()


@pytest.mark.parametrize("number", [2, "2"])
def test_otlp_keeps_all_of_a_batch_that_was_taken_in_part(number: object) -> None:
    body = {"partialSuccess": {"rejectedLogRecords": number, "errorMessage": "too old"}}
    verdict = otlp.classify(answer(200, body), COUNT)
    assert isinstance(verdict, Partly)
    assert not verdict.retry, "the specification forbids to send it again"
    why = "HTTP 200: 2 of 3 rejected: too old"
    told = f"{why} (which of them is not said; this one may have been taken)"
    assert verdict.bad == dict.fromkeys(range(3), told)
    assert otlp.classify(answer(200, body), 2) == Partly(
        {0: "HTTP 200: 2 of 2 rejected: too old", 1: "HTTP 200: 2 of 2 rejected: too old"}
    )


# Anything

NAMES = (
    *("text", "code", "invalid-event-number", "ackId", "acks"),
    *("errors", "items", "create", "status", "error", "type", "reason"),
    *("partialSuccess", "rejectedLogRecords", "errorMessage"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
BODIES = (
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"[" * 100_000, b"1" * 5000])
)


@given(st.integers(100, 999), BODIES, st.integers(1, 4), st.booleans())
def test_any_answer_has_a_verdict_without_the_secret(
    status: int, body: bytes, count: int, echoes: bool
) -> None:
    if echoes:
        body = json.dumps({"text": f"bad {TOKEN}", "code": 6, "errors": True}).encode()
        body += TOKEN.encode() if status % 2 else b""
    given_answer = answer(status, body)
    verdicts: list[Verdict] = [
        splunk.classify(given_answer, count),
        splunk.classify_ack(given_answer, 1),
        datadog.classify(given_answer),
        elastic.classify(given_answer, count),
        otlp.classify(given_answer, count),
        webhook.classify(given_answer),
    ]
    for verdict in verdicts:
        assert TOKEN not in repr(verdict)
        assert "s3cret" not in repr(verdict)
        if isinstance(verdict, Partly):
            assert {*verdict.bad, *verdict.retry} <= set(range(count))
            assert not {*verdict.bad} & verdict.retry
        if not 200 <= status < 300:
            assert not isinstance(verdict, Delivered), "nothing is taken for delivered"
