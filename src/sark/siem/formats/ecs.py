"""Elastic Common Schema 8.17, which 9.x has not changed in what is used here.

What the schema has no field for is under ``sark``, the vendor's own name, as the schema asks for.
``sark.context`` is whatever callers name: an index should map it as ``flattened``, or each new name
becomes a field of the index.

https://www.elastic.co/docs/reference/ecs
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from sark.siem.formats.meaning import REMEMBERED, Meaning, Verb, address_of, meaning_of, verb_of
from sark.siem.record import AuditRecord

__all__ = ["Ecs"]

_encode = msgspec.json.Encoder().encode

_ACCESS: Final = {
    Verb.CREATE: "creation",
    Verb.READ: "access",
    Verb.UPDATE: "change",
    Verb.DELETE: "deletion",
    Verb.OTHER: "access",
}
_SESSION: Final = {"session:create": "start", "session:revoke": "end"}


class _Schema(msgspec.Struct, frozen=True):
    version: str = "8.17.0"


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    kind: str = "event"
    category: tuple[str, ...]
    type: tuple[str, ...]
    action: str | UnsetType
    outcome: str
    reason: str | UnsetType
    module: str = "sark"
    dataset: str = "sark.audit"


class _User(msgspec.Struct, frozen=True):
    id: str


class _Source(msgspec.Struct, frozen=True):
    address: str
    ip: str | UnsetType


class _Rule(msgspec.Struct, frozen=True):
    name: str
    version: str | UnsetType


class _Related(msgspec.Struct, frozen=True):
    user: tuple[str, ...] | UnsetType
    ip: tuple[str, ...] | UnsetType


class _Own(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    resource: str | UnsetType
    session_id: str | UnsetType
    context: msgspec.Raw | UnsetType
    cached: bool | str
    engine_decision_id: str | UnsetType
    api_key_id: str | UnsetType
    identity: str | UnsetType
    first_id: str | UnsetType
    count: int | UnsetType
    truncated: msgspec.Raw | UnsetType
    v: int


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    timestamp: datetime = msgspec.field(name="@timestamp")
    ecs: _Schema = _Schema()
    event: _Event
    user: _User | UnsetType
    source: _Source | UnsetType
    rule: _Rule | UnsetType
    related: _Related | UnsetType
    sark: _Own


class Ecs:
    """The Elastic Common Schema."""

    name = "ecs"
    content_type = "application/json"

    def encode(self, record: AuditRecord, raw: bytes) -> bytes:  # noqa: ARG002 - see Format
        """Write an event as a document."""
        meaning = meaning_of(record)
        category, types = _categories(meaning, record.action)
        source = _source(record.address) if record.address else UNSET
        allowed = meaning in {Meaning.ALLOWED, Meaning.SESSION}
        return _encode(
            _Document(
                timestamp=record.time,
                event=_Event(
                    id=record.id,
                    category=category,
                    type=types,
                    action=record.action or UNSET,
                    outcome="success" if allowed else "failure",
                    reason=record.reason or UNSET,
                ),
                user=_User(record.user_id) if record.user_id else UNSET,
                source=source,
                rule=_Rule(record.policy, record.revision or UNSET) if record.policy else UNSET,
                related=_related(record.user_id, source),
                sark=_own(record),
            )
        )


def _own(record: AuditRecord) -> _Own:
    return _Own(
        type=record.type,
        resource=record.resource or UNSET,
        session_id=record.session_id or UNSET,
        context=record.context if record.has_context else UNSET,
        cached=record.cached,
        engine_decision_id=record.engine_decision_id or UNSET,
        api_key_id=record.credential or UNSET,
        identity=record.identity or UNSET,
        first_id=record.first_id or UNSET,
        count=record.count if record.identity else UNSET,
        truncated=record.truncated if record.is_truncated else UNSET,
        v=record.v,
    )


@lru_cache(REMEMBERED)
def _categories(meaning: Meaning, action: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return category and type of an event, of the values that the schema lists."""
    match meaning:
        case Meaning.SESSION:
            return ("session",), (_SESSION.get(action, "info"),)
        case Meaning.UNAUTHENTICATED:
            return ("authentication",), ("start",)
        case Meaning.ALLOWED:
            return ("api",), (_ACCESS[verb_of(action)], "allowed")
        case Meaning.DENIED | Meaning.LIMITED:
            return ("api",), (_ACCESS[verb_of(action)], "denied")


@lru_cache(REMEMBERED)
def _source(address: str) -> _Source:
    return _Source(address, address_of(address).ip or UNSET)


def _related(user_id: str, source: _Source | UnsetType) -> _Related | UnsetType:
    """Return all users and addresses of an event, by which a SIEM finds it from either."""
    users = (user_id,) if user_id else UNSET
    ips = (source.ip,) if source is not UNSET and source.ip is not UNSET else UNSET
    return UNSET if users is UNSET and ips is UNSET else _Related(users, ips)
