"""What OPA answers: decisions, provenance and errors, read from bytes without I/O.

Source: OPA's REST API reference, "Data API", "Provenance" and "Errors"; OPA sends

- 200 with ``result``; without it the document is undefined, which is also the answer for a path
  that does not exist and for a bundle that is not activated;
- 200 with ``provenance.bundles.<name>.revision`` when asked for provenance, read in the same
  transaction as the decision (``provenance.revision`` for the single-bundle configuration of old);
- 200 with ``decision_id`` while its decision logs are on: the id of the entry there;
- other statuses with ``code`` and ``message``, and ``errors`` when an evaluation failed.

``message`` is never passed on: it may quote the input.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from sark.errors import EvaluationError
from sark.policy.decision import Decision
from sark.policy.evaluators.base import decision_from_json

__all__ = [
    "PENDING_REVISION",
    "UNKNOWN_REVISION",
    "OpaAnswer",
    "OpaAnswerError",
    "OpaReply",
    "RevisionTracker",
    "read_answer",
    "read_health",
]

PENDING_REVISION = "pending"
"""Before OPA has answered for the first time. No evaluation carries it, so no stamp matches."""

UNKNOWN_REVISION = "unknown"
"""OPA names no bundles, so that a change of its policies can't be seen."""

# OPA makes UUIDs; a plugin may make other ids, but nothing that would swell every audit event.
LONGEST_DECISION_ID = 128

# Hexadecimal digits of a revision: 128 bits.
REVISION_DIGITS = 32

_CODE = re.compile(r"[a-z_]{1,40}")
_FILE = re.compile(r"[A-Za-z0-9_./-]{1,120}")


class OpaReply(NamedTuple):
    """A response, read completely."""

    status: int
    body: bytes


class OpaAnswerError(EvaluationError):
    """OPA, or something in its place, answered with something else than a decision.

    Attributes:
        status: The HTTP status of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class OpaAnswer(msgspec.Struct, frozen=True):
    """A successful answer of the data API.

    Attributes:
        result: JSON of the document; empty when it is undefined.
        revision: The bundles that it was evaluated under.
        decision_id: Its entry in OPA's decision log; empty without one.
    """

    result: bytes
    revision: str
    decision_id: str = ""

    def decision(self, policy: str) -> Decision | None:
        """Read the decision; None when it is undefined.

        Raises:
            EvaluationError: It has the wrong form.
        """
        return decision_from_json(policy, self.result) if self.result else None


class RevisionTracker:
    """Which revision is in force, learned from answers that may overtake each other.

    An answer tells the revision of some moment between its request's departure and its arrival. One
    that was asked for before the current revision was learned may be older than it, and would bring
    back a revision that has been replaced, with all decisions cached under it. So it is not
    believed; if it was right, the next answer says so again.

    Attributes:
        revision: The revision in force.
    """

    def __init__(self) -> None:
        self.revision = PENDING_REVISION
        self._learned_at = float("-inf")

    def observe(self, revision: str, *, sent_at: float, now: float) -> bool:
        """Take note of an answer's revision; True when this replaces the one in force.

        Args:
            revision: What the answer carries.
            sent_at: When its request left, in seconds on a monotonic clock.
            now: When it was received, on the same clock.
        """
        if revision == self.revision or sent_at < self._learned_at:
            return False
        self.revision, self._learned_at = revision, now
        return True


class _Bundle(msgspec.Struct):
    revision: str = ""


class _Provenance(msgspec.Struct):
    # The version of OPA and its build are left out on purpose: see docs/opa.md.
    bundles: dict[str, _Bundle] = {}
    revision: str = ""


class _Document(msgspec.Struct):
    # ``Raw`` is empty only when the member is missing: a result of ``null`` is ``b"null"``.
    result: msgspec.Raw = msgspec.Raw()
    provenance: msgspec.Raw = msgspec.Raw()
    decision_id: str = ""


class _Location(msgspec.Struct):
    file: str = ""
    row: int = 0


class _Detail(msgspec.Struct):
    code: str = ""
    location: _Location | None = None


class _Error(msgspec.Struct):
    code: str = ""
    errors: list[_Detail] = []


class _Health(msgspec.Struct):
    error: str = ""


_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decode_document = msgspec.json.Decoder(_Document).decode
_decode_provenance = msgspec.json.Decoder(_Provenance).decode
_decode_error = msgspec.json.Decoder(_Error).decode
_decode_health = msgspec.json.Decoder(_Health).decode


def read_answer(reply: OpaReply) -> OpaAnswer:
    """Read a response of the data API.

    Raises:
        OpaAnswerError: OPA answered with an error, or it is not OPA that answered.
    """
    status, body = reply
    if status != HTTPStatus.OK:
        raise OpaAnswerError(f"OPA answers {status}{_why(status, body)}", status)
    try:
        document = _decode_document(body)
        revision = revision_of(bytes(document.provenance))
    except _NOT_JSON:
        raise OpaAnswerError("OPA answers 200, but not in OPA's form", status) from None
    decision_id = document.decision_id
    if len(decision_id) > LONGEST_DECISION_ID:
        decision_id = ""
    return OpaAnswer(bytes(document.result), revision, decision_id)


def read_health(reply: OpaReply) -> str | None:
    """Read a response of ``/health?bundles=true``.

    Returns:
        None when OPA is healthy and its bundles are activated, else what is wrong.
    """
    status, body = reply
    if status == HTTPStatus.OK:
        return None
    if status != HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"OPA answers {status} to /health{_why(status, body)}"
    try:
        error = _decode_health(body).error
    except _NOT_JSON:
        error = ""
    # Releases before 0.47 give no reason.
    return f"OPA is not ready: {_printable(error) or 'its bundles are not activated'}"


@lru_cache(maxsize=8)
def revision_of(provenance: bytes) -> str:
    """Digest the bundles that an answer was evaluated under.

    Args:
        provenance: JSON of the answer's provenance; the same for every answer until it changes.

    Returns:
        ``opa-`` and a digest of the bundles' names and revisions; ``unknown-`` and a digest when a
        bundle has no revision; ``unknown`` when there are no bundles.

    Raises:
        msgspec.MsgspecError: It is not OPA's form.
    """
    found = _decode_provenance(provenance) if provenance else _Provenance()
    bundles = sorted((name, bundle.revision) for name, bundle in found.bundles.items())
    if not bundles and not found.revision:
        return UNKNOWN_REVISION
    digest = sha256(msgspec.json.encode([found.revision, bundles])).hexdigest()[:REVISION_DIGITS]
    is_known = all(revision for _, revision in bundles)
    return f"opa-{digest}" if is_known else f"{UNKNOWN_REVISION}-{digest}"


def _why(status: int, body: bytes) -> str:
    """Say why OPA refused, from members that can't hold parts of the input."""
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return ", a redirect; they are not followed"
    try:
        error = _decode_error(body)
    except _NOT_JSON:
        return ""
    words = [error.code, *(word for detail in error.errors[:1] for word in _detail(detail))]
    return "".join(f" {word}" for word in words if _CODE.fullmatch(word) or word[:3] == "at ")


def _detail(detail: _Detail) -> list[str]:
    location = detail.location
    if location is None or not _FILE.fullmatch(location.file):
        return [detail.code]
    return [detail.code, f"at {location.file}:{location.row}"]


def _printable(text: str) -> str:
    return "".join(letter for letter in text[:120] if letter.isprintable())
