"""Any receiver of a POST: JSON array or JSON lines, with an idempotency key and a signature.

Headers are those of Standard Webhooks (standardwebhooks.com), which has libraries for receivers:
``webhook-id`` is made from the ids of the events, so a batch that is sent again has the same one;
``webhook-signature`` is HMAC-SHA256 by the sink's credential over id, time and body. The signature
is over the body before compression, which is what an application behind a web server sees.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from pydantic import SecretStr

from sark.errors import ConfigurationError
from sark.siem.sinks.answers import Answer, by_status
from sark.siem.sinks.base import Entry, SinkLimits
from sark.siem.sinks.http import HttpClient
from sark.siem.sinks.json_entries import as_json
from sark.siem.sinks.kind import SinkKind, SinkPlan
from sark.siem.sinks.options import choice, flag
from sark.siem.sinks.tls import TLS_OPTIONS
from sark.siem.sinks.verdict import Unavailable, Verdict

__all__ = ["SINK", "WebhookSink", "batch_id", "classify", "sign"]

LARGEST_BYTES: Final = 1_000_000
MOST_EVENTS: Final = 1000
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - tells how the secret behind it is written


class WebhookSink:
    """Posts to any receiver.

    Args:
        plan: Its options are those of ``SINK``.

    Raises:
        ConfigurationError: The credential begins like one in Base64 and is none.
    """

    def __init__(self, plan: SinkPlan) -> None:
        self._lines = plan.options["body"] == "ndjson"
        kind = "application/x-ndjson" if self._lines else "application/json"
        self._client = HttpClient(
            plan,
            f"{plan.address.transport}://{plan.address.location}{plan.address.path}",
            {"Content-Type": kind},
            gzip_bodies=plan.options["gzip"],
        )
        self._json = plan.is_json
        self._key = _key(plan.token)

    @property
    def limits(self) -> SinkLimits:
        """What one request may hold."""
        escaped = 1 if self._json else 2
        largest = (LARGEST_BYTES - 4 * MOST_EVENTS) // escaped
        return SinkLimits(events=MOST_EVENTS, bytes=largest, event_bytes=largest)

    async def open(self) -> None:
        """Prepare the client."""
        await self._client.open()

    async def send(self, entries: Sequence[Entry]) -> Verdict:
        """Send a batch in one request."""
        events = [as_json(entry, self._json) for entry in entries]
        body = b"".join(b"%b\n" % event for event in events)
        if not self._lines:
            body = b"[%b]" % b",".join(events)
        key = batch_id(entries)
        answer = await self._client.post(body, headers=self._signed(key, body))
        return answer if isinstance(answer, Unavailable) else classify(answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _signed(self, key: str, body: bytes) -> dict[str, str]:
        headers = {"Idempotency-Key": key, "webhook-id": key}
        if self._key:
            now = int(time.time())
            headers["webhook-timestamp"] = str(now)
            headers["webhook-signature"] = sign(self._key, key, now, body)
        return headers


def classify(answer: Answer) -> Verdict:
    """Judge an answer; statuses mean what HTTP says.

    Conflict is what a receiver answers that is still busy with a request of the same idempotency
    key (draft-ietf-httpapi-idempotency-key-header, 2.6): ours, when its answer came too late.
    """
    if answer.status == HTTPStatus.CONFLICT:
        return Unavailable(answer.said(), answer.after)
    return by_status(answer)


def batch_id(entries: Sequence[Entry]) -> str:
    """Make an id of a batch: the same events in the same order give the same."""
    digest = hashlib.sha256("\n".join(entry.id for entry in entries).encode())
    return f"msg_{digest.hexdigest()[:40]}"


def sign(key: bytes, message_id: str, now: int, body: bytes) -> str:
    """Sign a body by HMAC-SHA256 (Standard Webhooks, version 1).

    Args:
        key: The key that the receiver has as well.
        message_id: Id of the message.
        now: Time of sending, in seconds since the epoch.
        body: The body before compression.
    """
    digest = hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), now, body), "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(token: SecretStr | None) -> bytes:
    if token is None:
        return b""
    secret = token.get_secret_value()
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ConfigurationError("expected Base64 behind whsec_ in its credential") from None


SINK = SinkKind(
    schemes=("webhook+https", "webhook+http"),
    formats=("ocsf", "ecs", "sark", "cef"),
    make=WebhookSink,
    options={
        **TLS_OPTIONS,
        "body": choice("array", "ndjson", default="array"),
        "gzip": flag(),
    },
)
