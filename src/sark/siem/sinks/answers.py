"""What the answers of HTTP receivers mean where no vendor's documentation says otherwise."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from sark.siem.sinks.verdict import (
    Delivered,
    Rejected,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
    Verdict,
)

__all__ = ["Answer", "by_status", "retry_after"]

QUOTED_CHARACTERS = 200
MASK = "***"

_NOT_PRINTABLE = re.compile(r"[^ -~\xa1-\U0010ffff]+")
_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?")
_REFUSALS_OF_US = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.PAYMENT_REQUIRED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.NOT_ACCEPTABLE,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.GONE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.MISDIRECTED_REQUEST,
        HTTPStatus.UPGRADE_REQUIRED,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        HTTPStatus.NOT_IMPLEMENTED,
        HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    }
)
_TRANSIENT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a receiver.

    Attributes:
        status: HTTP status.
        body: Its body, or the beginning of a long one.
        after: Seconds that it asks to wait, by ``Retry-After``, at most as many as are allowed.
        secrets: What is masked wherever the body is quoted: a receiver may echo a credential.
    """

    status: int
    body: bytes = b""
    after: float | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status says that all went well."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    def json_object(self) -> dict[str, Any]:
        """Return the body as a JSON object; an empty one for everything else.

        Proxies in between answer with plain text or HTML.
        """
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def said(self, text: str | None = None) -> str:
        """Return status and text on one short line, without secrets.

        Args:
            text: What to quote; the body by default.
        """
        quoted = self.body.decode("utf-8", "replace") if text is None else text
        # Masked before it is cut, or the cut could leave a part of a secret.
        for secret in self.secrets:
            quoted = quoted.replace(secret, MASK)
        quoted = " ".join(_NOT_PRINTABLE.sub(" ", quoted).split())
        if len(quoted) > QUOTED_CHARACTERS:
            quoted = f"{quoted[:QUOTED_CHARACTERS]}..."
        return f"HTTP {self.status}: {quoted}" if quoted else f"HTTP {self.status}"


def by_status(answer: Answer, reason: str | None = None) -> Verdict:
    """Judge an answer by its status alone (RFC 9110).

    A status that would meet every event alike, such as that of a wrong path, counts as a refusal
    of us: dead letters are for events that are to blame themselves.

    Args:
        answer: What came.
        reason: What it says; status and body by default.
    """
    status, told = answer.status, reason or answer.said()
    if answer.is_success:
        return Delivered()
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLarge(told)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Throttled(told, answer.after)
    if status in _REFUSALS_OF_US or status < HTTPStatus.BAD_REQUEST:
        return Unauthorized(told)
    if status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(told, answer.after)
    return Rejected(told)


def retry_after(value: str | None, date: str | None, cap: float) -> float | None:
    """Read ``Retry-After``, in seconds or as a date (RFC 9110, 10.2.3).

    Args:
        value: The header.
        date: The answer's ``Date``; what a date is relative to, so that the receiver's clock may
            differ from ours. Without one, ours counts.
        cap: Longest wait, in seconds.

    Returns:
        Seconds, or ``None`` if nothing is asked or it cannot be read.
    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return min(float(value), cap)
    until = _date(value)
    if until is None:
        return None
    seconds = (until - (_date(date) or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), cap) if math.isfinite(seconds) else None


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
