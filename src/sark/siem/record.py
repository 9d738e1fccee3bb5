"""What stands in a queue, read back.

A queue holds the JSON of all kinds of events, written by whichever versions of the service run at
the time. They are read as one type: what a kind does not have stays empty, and members that this
version does not know are passed over. The context is not taken apart: formats carry its JSON on as
it is, which is what makes reading an event cheaper than the network that follows.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec

from sark.errors import UnreadableEventError

__all__ = ["AuditRecord", "decode", "one_line"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EMPTY = msgspec.Raw(b"{}")
_NULL = msgspec.Raw(b"null")
UUID_VERSION = 7
_MILLISECONDS_SHIFT = 80
"""A UUIDv7 begins with 48 bits of milliseconds since the epoch (RFC 9562)."""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event of any kind; see ``AuditEvent`` and ``ClosingEvent`` for what the members mean.

    Attributes:
        id: Stable id of the event.
        time: When it happened.
        type: ``decision``, ``refusal``, ``session`` or ``refusals``; a later version may write
            others.
        policy: See ``AuditEvent``.
        user_id: See ``AuditEvent``.
        action: See ``AuditEvent``.
        resource: See ``AuditEvent``.
        context: JSON of the context, on one line.
        allow: The answer; false for refusals.
        reason: See ``AuditEvent``.
        cached: See ``AuditEvent``.
        revision: See ``AuditEvent``.
        engine_decision_id: See ``AuditEvent``.
        ip: See ``AuditEvent``.
        api_key_id: See ``AuditEvent``.
        truncated: JSON of what was cut off, on one line.
        first_id: Of a closing event: the event of the first refusal.
        identity: Of a closing event: who was refused, as ``kind:id``.
        count: How many refusals a closing event stands for; 1 for all others.
        v: Version of the event's format.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    type: str
    policy: str = ""
    user_id: str = ""
    action: str = ""
    resource: str = ""
    context: msgspec.Raw = _EMPTY
    allow: bool = False
    reason: str = ""
    cached: bool | str = False
    revision: str = ""
    engine_decision_id: str = ""
    ip: str | None = None
    api_key_id: str | None = None
    truncated: msgspec.Raw = _NULL
    first_id: str = ""
    identity: str = ""
    count: int = 1
    v: int = 1

    @property
    def milliseconds(self) -> int:
        """When it happened, in milliseconds since the epoch."""
        return (self.time - _EPOCH) // _MILLISECOND

    @property
    def has_context(self) -> bool:
        """Whether the context has members."""
        return self.context not in (_EMPTY, _NULL)

    @property
    def is_truncated(self) -> bool:
        """Whether something was cut off."""
        return self.truncated != _NULL

    @property
    def address(self) -> str | None:
        """The caller's address; of a closing event, the address that was refused."""
        if self.identity.startswith("ip:"):
            return self.identity.removeprefix("ip:")
        return self.ip

    @property
    def credential(self) -> str | None:
        """The caller's api key; of a closing event, the api key that was refused."""
        if self.identity.startswith("apikey:"):
            return self.identity.removeprefix("apikey:")
        return self.api_key_id

    @property
    def session_id(self) -> str:
        """The session that began, ended or was refused; empty for all else."""
        # A policy's actions may have any name, also one that begins like these.
        is_session = not self.policy and self.action.startswith("session:")
        return self.resource if is_session else ""

    @property
    def started(self) -> int | None:
        """Of a closing event: when the first refusal was, in milliseconds since the epoch."""
        if not self.first_id:
            return None
        try:
            first = UUID(self.first_id)
        except ValueError:
            return None
        return first.int >> _MILLISECONDS_SHIFT if first.version == UUID_VERSION else None


_decode = msgspec.json.Decoder(AuditRecord).decode


def decode(raw: bytes) -> AuditRecord:
    """Read an event out of a queue.

    Args:
        raw: Its JSON.

    Raises:
        UnreadableEventError: It is no event.
    """
    try:
        if not raw.isascii():
            # What is not taken apart is not checked by the decoder either.
            raw.decode()
        return _decode(one_line(raw))
    except UnicodeDecodeError as error:
        raise UnreadableEventError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise UnreadableEventError("nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise UnreadableEventError(str(error)) from None


def one_line(raw: bytes) -> bytes:
    """Return JSON without line breaks; what this service has written has none.

    Raises:
        msgspec.DecodeError: It is no JSON.
    """
    if b"\n" in raw or b"\r" in raw:
        return msgspec.json.format(raw, indent=-1)
    return raw
