"""Reading OPA's answers: what is a decision, which revision, and what is told of errors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import EvaluationError
from sark.policy import Decision
from sark.policy.evaluators.opa_answers import (
    PENDING_REVISION,
    UNKNOWN_REVISION,
    OpaAnswerError,
    OpaReply,
    RevisionTracker,
    read_answer,
    read_health,
    revision_of,
)

BUILD = {"version": "1.9.0", "build_commit": "c", "build_timestamp": "t", "build_hostname": "h"}


def revision(provenance: dict[str, Any]) -> str:
    return revision_of(msgspec.json.encode(provenance))


def bundles(**revisions: str) -> dict[str, Any]:
    return {"bundles": {name: {"revision": each} for name, each in revisions.items()}}


def refused(status: int, body: bytes) -> str:
    with pytest.raises(OpaAnswerError) as caught:
        read_answer(OpaReply(status, body))
    assert caught.value.status == status
    return str(caught.value)


# Decisions


def test_a_missing_result_is_undefined_and_null_is_not() -> None:
    assert read_answer(OpaReply(200, b"{}")).decision("p") is None
    with pytest.raises(EvaluationError, match=r"data\.sark\.p\.decision"):
        read_answer(OpaReply(200, b'{"result":null}')).decision("p")


def test_the_decision_is_in_the_result() -> None:
    body = b'{"decision_id":"d","metrics":{},"result":{"allow":true},"warning":{"code":"w"}}'
    assert read_answer(OpaReply(200, body)).decision("p") == Decision(allow=True)


# Revisions


def test_without_bundles_it_is_unknown() -> None:
    assert read_answer(OpaReply(200, b'{"result":1}')).revision == UNKNOWN_REVISION
    assert revision(BUILD) == revision({"bundles": {}}) == UNKNOWN_REVISION


def test_names_and_revisions_count_and_nothing_else() -> None:
    known = revision(bundles(a="1", b="2"))
    assert known.startswith("opa-")
    assert known == revision({**bundles(b="2", a="1"), **BUILD, "more": 1})
    others = [
        bundles(a="1"),
        bundles(a="2", b="1"),
        bundles(a="1", c="2"),
        bundles(a="12", b=""),
        {**bundles(a="1", b="2"), "revision": "old"},
    ]
    assert len({known, *map(revision, others)}) == len(others) + 1


def test_a_bundle_without_revision_makes_it_unknown() -> None:
    assert revision(bundles(a="1", b="")).startswith("unknown-")
    assert revision({"bundles": {"a": {}}}).startswith("unknown-")
    assert revision(bundles(a="1", b="")) != revision(bundles(a="2", b=""))


def test_the_single_bundle_of_old_counts() -> None:
    assert revision({"revision": "1"}) != revision({"revision": "2"})
    assert revision({"revision": "1"}).startswith("opa-")


@given(
    st.dictionaries(st.text(), st.text(), max_size=4),
    st.dictionaries(st.text(), st.text(), max_size=4),
)
def test_different_bundles_have_different_revisions(
    one: dict[str, str], other: dict[str, str]
) -> None:
    assert (one == other) == (revision(bundles_of(one)) == revision(bundles_of(other)))


def bundles_of(revisions: dict[str, str]) -> dict[str, Any]:
    return {"bundles": {name: {"revision": each} for name, each in revisions.items()}}


# Which revision is in force


def test_it_begins_pending_and_takes_the_first() -> None:
    tracker = RevisionTracker()
    assert tracker.revision == PENDING_REVISION
    assert tracker.observe("a", sent_at=0, now=1)
    assert not tracker.observe("a", sent_at=2, now=3)
    assert tracker.revision == "a"


def test_an_answer_asked_for_before_the_current_was_learned_is_not_believed() -> None:
    tracker = RevisionTracker()
    tracker.observe("a", sent_at=0, now=1)
    assert tracker.observe("b", sent_at=2, now=4)
    assert not tracker.observe("a", sent_at=3, now=9)
    assert tracker.revision == "b"
    assert tracker.observe("a", sent_at=4, now=10), "this one is a change back"


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 3), st.floats(0, 1)), max_size=30))
def test_time_never_runs_backwards(calls: list[tuple[float, float, float]]) -> None:
    """OPA's revision is the whole second; each call sees one of a moment during its way."""
    tracker, last = RevisionTracker(), -1
    answers = sorted((sent + took, sent, int(sent + took * moment)) for sent, took, moment in calls)
    for received, sent, second in answers:
        tracker.observe(str(second), sent_at=sent, now=received)
        current = int(tracker.revision)
        assert current >= last
        last = current


# Errors


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (400, b'{"code":"invalid_parameter","message":"m"}', "400 invalid_parameter"),
        (401, b'{"code":"undefined_document"}', "401 undefined_document"),
        (500, b'{"code":"internal_error","errors":[]}', "500 internal_error"),
        (500, b"", "500"),
        (500, b"[]", "500"),
        (500, b'{"code":7}', "500"),
        (500, b'{"code":"Secret Text"}', "500"),
        (404, b"404 page not found", "404"),
        (204, b"", "204"),
        (302, b"", "302, a redirect; they are not followed"),
        (200, b"nothing", "200, but not in OPA's form"),
    ],
)
def test_refusals(status: int, body: bytes, text: str) -> None:
    assert refused(status, body) == f"OPA answers {text}"


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ({"code": "eval_conflict_error", "location": {"file": "a/b.rego", "row": 3}}, True),
        ({"code": "eval_conflict_error", "message": "m", "location": None}, False),
        ({"code": "eval_conflict_error", "location": {"file": "a b\n", "row": 3}}, False),
    ],
)
def test_where_an_evaluation_failed(detail: dict[str, Any], told: bool) -> None:
    body = msgspec.json.encode({"code": "internal_error", "errors": [detail, detail]})
    expected = "OPA answers 500 internal_error eval_conflict_error"
    assert refused(500, body) == expected + (" at a/b.rego:3" if told else "")


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.integers(100, 599))
def test_any_bytes_are_an_answer_or_a_short_error(body: bytes, status: int) -> None:
    try:
        read_answer(OpaReply(status, body))
    except OpaAnswerError as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 200
    reason = read_health(OpaReply(status, body))
    assert (reason is None) == (status == 200)
    assert reason is None or (reason.isprintable() and len(reason) < 200)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"error":"one or more bundles are not activated"}', None),
        (b"{}", "its bundles are not activated"),
        (b"oops", "its bundles are not activated"),
        (b'{"error":"a\\nb"}', "ab"),
    ],
)
def test_unhealthy(body: bytes, why: str | None) -> None:
    expected = why or "one or more bundles are not activated"
    assert read_health(OpaReply(500, body)) == f"OPA is not ready: {expected}"
