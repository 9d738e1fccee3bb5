"""OCSF 1.5.0: API Activity (class 6003) with the security-control profile.

What was asked for is the activity, and what was answered is the profile's action and disposition.
What is not one decision keeps the class: a session that begins or ends is the creation or deletion
of a session, and refusals that were counted together are one event with a ``count`` and the period
that it covers. What the schema has no attribute for is in ``unmapped``.

The meaning of each attribute: https://schema.ocsf.io/1.5.0/classes/api_activity
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from sark.siem.formats.meaning import (
    REMEMBERED,
    Meaning,
    Severity,
    Verb,
    address_of,
    meaning_of,
    verb_of,
)
from sark.siem.formats.ocsf_objects import (
    Actor,
    Api,
    ApiActivity,
    Endpoint,
    Metadata,
    Policy,
    Resource,
    Service,
    Session,
    Unmapped,
    User,
)
from sark.siem.record import AuditRecord

__all__ = ["Ocsf"]

UNKNOWN: Final = "unknown"
"""Stands where the schema asks for something that the event does not know."""

MANY_OPERATIONS: Final = "*"
"""The operation of refusals that were counted together, whatever they asked for."""

_encode = msgspec.json.Encoder().encode


class _Choice(NamedTuple):
    """One of the values that the schema lists for an attribute, and its caption."""

    id: int
    caption: str


class _Activity(NamedTuple):
    """What an operation is, in the terms of the class."""

    verb: _Choice
    type_uid: int
    type_name: str
    api: Api


_ACTIVITIES: Final = {
    Verb.CREATE: _Choice(1, "Create"),
    Verb.READ: _Choice(2, "Read"),
    Verb.UPDATE: _Choice(3, "Update"),
    Verb.DELETE: _Choice(4, "Delete"),
    Verb.OTHER: _Choice(99, "Other"),
}
_SEVERITIES: Final = {
    Severity.INFORMATIONAL: _Choice(1, "Informational"),
    Severity.LOW: _Choice(2, "Low"),
    Severity.MEDIUM: _Choice(3, "Medium"),
    Severity.HIGH: _Choice(4, "High"),
}
_SUCCESS, _FAILURE = _Choice(1, "Success"), _Choice(2, "Failure")
_ALLOWED, _DENIED = _Choice(1, "Allowed"), _Choice(2, "Denied")
# "Unauthorized" is the schema's word for a failed authorization check, "Blocked" for all else that
# a control keeps from happening.
_OUTCOMES: Final = {
    Meaning.ALLOWED: (_SUCCESS, _ALLOWED, _Choice(1, "Allowed")),
    Meaning.SESSION: (_SUCCESS, _ALLOWED, _Choice(1, "Allowed")),
    Meaning.DENIED: (_FAILURE, _DENIED, _Choice(26, "Unauthorized")),
    Meaning.UNAUTHENTICATED: (_FAILURE, _DENIED, _Choice(26, "Unauthorized")),
    Meaning.LIMITED: (_FAILURE, _DENIED, _Choice(2, "Blocked")),
}


class Ocsf:
    """The Open Cybersecurity Schema Framework."""

    name = "ocsf"
    content_type = "application/json"

    def encode(self, record: AuditRecord, raw: bytes) -> bytes:  # noqa: ARG002 - see Format
        """Write an event as API Activity."""
        verb, type_uid, type_name, api = _activity_of(record.action)
        meaning = meaning_of(record)
        status, action, disposition = _OUTCOMES[meaning]
        severity = _SEVERITIES[Severity.of(record, meaning)]
        time = record.milliseconds
        is_sum = bool(record.identity)
        session = record.session_id
        return _encode(
            ApiActivity(
                metadata=Metadata(
                    uid=record.id,
                    event_code=record.type,
                    correlation_uid=record.engine_decision_id or UNSET,
                    log_version=str(record.v),
                ),
                time=time,
                activity_id=verb.id,
                activity_name=verb.caption,
                type_uid=type_uid,
                type_name=type_name,
                severity_id=severity.id,
                severity=severity.caption,
                status_id=status.id,
                status=status.caption,
                status_detail=record.reason or UNSET,
                action_id=action.id,
                action=action.caption,
                disposition_id=disposition.id,
                disposition=disposition.caption,
                actor=Actor(_user(record), Session(session) if session else UNSET),
                api=api,
                resources=_resources(record),
                src_endpoint=_endpoint(record.address or UNKNOWN),
                policy=Policy(record.policy, record.revision or UNSET) if record.policy else UNSET,
                count=record.count if is_sum else UNSET,
                start_time=(record.started or time) if is_sum else UNSET,
                end_time=time if is_sum else UNSET,
                unmapped=Unmapped(
                    type=record.type,
                    context=record.context if record.has_context else UNSET,
                    cached=record.cached,
                    identity=record.identity or UNSET,
                    first_id=record.first_id or UNSET,
                    truncated=record.truncated if record.is_truncated else UNSET,
                ),
            )
        )


@lru_cache(REMEMBERED)
def _activity_of(action: str) -> _Activity:
    verb = _ACTIVITIES[verb_of(action)]
    service, separator, _ = action.rpartition(":")
    api = Api(action or MANY_OPERATIONS, Service(service) if service and separator else UNSET)
    return _Activity(verb, 600_300 + verb.id, f"API Activity: {verb.caption}", api)


@lru_cache(REMEMBERED)
def _endpoint(address: str) -> Endpoint:
    ip = address_of(address).ip
    return Endpoint(name=address) if ip is None else Endpoint(ip=ip)


def _user(record: AuditRecord) -> User:
    credential = record.credential or UNSET
    if record.user_id:
        return User(uid=record.user_id, credential_uid=credential)
    return User(name=UNKNOWN, credential_uid=credential)


def _resources(record: AuditRecord) -> tuple[Resource, ...] | msgspec.UnsetType:
    if not record.resource:
        return UNSET
    return (Resource(record.resource, "session" if record.session_id else UNSET),)
