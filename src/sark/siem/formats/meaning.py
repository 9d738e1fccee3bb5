"""What an event means, in the few terms that all formats have words for.

Each format turns these into its own vocabulary; which event means what is decided here alone, so
that the same event is not a failed login in one SIEM and a denied access in the other.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from sark.siem.record import AuditRecord

__all__ = ["Address", "Meaning", "Severity", "Verb", "address_of", "meaning_of", "verb_of"]

REMEMBERED = 4096
"""Actions and addresses of which the outcome is kept at hand."""


class Meaning(Enum):
    """What was answered, and on what grounds."""

    ALLOWED = auto()
    """A policy allows it."""
    DENIED = auto()
    """A policy denies it, or none could decide."""
    LIMITED = auto()
    """A rate limit or the deny-list refuses it, whatever the policy says."""
    UNAUTHENTICATED = auto()
    """A token, session or credential is not accepted, so no policy was asked."""
    SESSION = auto()
    """A session began or ended."""


class Verb(Enum):
    """What an action does to its resource."""

    CREATE = auto()
    READ = auto()
    UPDATE = auto()
    DELETE = auto()
    OTHER = auto()


class Severity(Enum):
    """How much attention an event deserves."""

    INFORMATIONAL = auto()
    """Somebody may do what was asked."""
    LOW = auto()
    """Somebody may not."""
    MEDIUM = auto()
    """Somebody went on asking after a refusal."""
    HIGH = auto()
    """A token is in the hands of two: one of them has stolen it."""

    @classmethod
    def of(cls, record: AuditRecord, meaning: Meaning) -> Severity:
        """Rate an event."""
        if meaning is Meaning.ALLOWED or meaning is Meaning.SESSION:
            return cls.INFORMATIONAL
        if record.reason == REASON_REUSED:
            return cls.HIGH
        return cls.MEDIUM if record.identity else cls.LOW


REASON_REUSED = "session:reuse"
REASON_LIMITED = "rate_limit:"

_WORDS = {
    Verb.READ: "read list get view describe search head show query find fetch download export",
    Verb.CREATE: "create add insert upload register post new import",
    Verb.UPDATE: "update write edit modify patch put set change rename enable disable refresh",
    Verb.DELETE: "delete remove destroy drop purge revoke terminate",
}
_VERBS = {word: verb for verb, words in _WORDS.items() for word in words.split()}
# The first word of "read", "GetObject", "list_all" and "DELETE".
_FIRST_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


class Address(NamedTuple):
    """A caller's address.

    Attributes:
        text: As it was named.
        ip: The same if it is an IP address, without the zone that only the machine itself
            understands; else None.
        version: 4 or 6; 0 without an IP address.
    """

    text: str
    ip: str | None
    version: int


@lru_cache(REMEMBERED)
def address_of(text: str) -> Address:
    """Read a caller's address, which may be any text."""
    try:
        parsed: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return Address(text, None, 0)
    return Address(text, str(parsed), parsed.version)


@lru_cache(REMEMBERED)
def verb_of(action: str) -> Verb:
    """Tell what an action does, by the first word of its last segment.

    ``server:read`` and ``s3:GetObject`` read, ``user:delete_all`` deletes. What no word tells is
    ``OTHER``.
    """
    word = _FIRST_WORD.match(action.rpartition(":")[2])
    return Verb.OTHER if word is None else _VERBS.get(word[0].lower(), Verb.OTHER)


def meaning_of(record: AuditRecord) -> Meaning:
    """Tell what an event means. One of a type that this version does not know is a decision."""
    if record.type in {"refusal", "refusals"}:
        limited = record.reason.startswith(REASON_LIMITED)
        return Meaning.LIMITED if limited else Meaning.UNAUTHENTICATED
    if record.type == "session":
        return Meaning.SESSION
    return Meaning.ALLOWED if record.allow else Meaning.DENIED
