"""The table of all keys, and what it says of a key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["TABLE", "KeyPattern", "Role", "classify", "is_permanent"]


class Role(StrEnum):
    """What a server may do with the keys it holds.

    ``STATE`` never evicts and survives restarts; ``CACHE`` may evict and forget.
    """

    STATE = "state"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class KeyPattern:
    """One row of the keyspace table.

    Attributes:
        name: Short name, unique in the table; also the name of the builder in ``Keyspace``.
        pattern: The key with its variable parts in angle brackets.
        type: Valkey's type of the value.
        ttl: What bounds the key's life, for people; ``none`` when permanent.
        role: Which role of server holds it.
        owner: The package whose code writes it.
        value: What is stored.
        tag: What is put in braces in cluster mode; empty when the key stands alone.
    """

    name: str
    pattern: str
    type: str
    ttl: str
    role: Role
    owner: str
    value: str
    tag: str = ""

    @property
    def permanent(self) -> bool:
        """Whether the key is declared to live without a TTL."""
        return self.ttl == "none"

    @property
    def evictable(self) -> bool:
        """Whether a server with a ``volatile-*`` eviction policy may take the key."""
        return not self.permanent


_S, _C = Role.STATE, Role.CACHE


TABLE: tuple[KeyPattern, ...] = (
    KeyPattern(
        "session_user",
        "session:user:<user_id>:<session_id>",
        "hash",
        "7 days",
        _S,
        "sessions",
        "access_token_jti, refresh_token_hash, times, client, ip, user agent",
        "user_id",
    ),
    KeyPattern(
        "session_token",
        "session:token:<jti>",
        "string",
        "15 minutes",
        _S,
        "sessions",
        "session id; empty when the token alone was revoked",
        "user_id",
    ),
    KeyPattern(
        "session_not_before",
        "session:not_before:<user_id>",
        "string",
        "longest life of an outside token",
        _S,
        "sessions",
        "when all sessions of the user were ended; no token from before begins one",
        "user_id",
    ),
    KeyPattern(
        "session_index",
        "session:index:<user_id>",
        "zset",
        "7 days",
        _S,
        "sessions",
        "session ids by when they end unless used; a session lives only while listed here",
        "user_id",
    ),
    KeyPattern(
        "policy_decision",
        "policy:decision:<hash>",
        "string",
        "300 to 3600 s",
        _C,
        "policy",
        "JSON decision with its stamp",
    ),
    KeyPattern(
        "policy_generation",
        "policy:generation",
        "string",
        "none",
        _S,
        "policy",
        "generation token of everything",
    ),
    KeyPattern(
        "policy_version",
        "policy:version:<policy_name>",
        "string",
        "none",
        _S,
        "policy",
        "generation token of one policy",
    ),
    KeyPattern(
        "policy_user_version",
        "policy:user_version:<user_id>",
        "string",
        "2x the longest decision TTL",
        _S,
        "policy",
        "generation token of one user",
    ),
    KeyPattern(
        "policy_hot_requests",
        "policy:hot_requests",
        "zset",
        "7 days after the last count",
        _C,
        "policy",
        "the most asked questions by sampled, decayed count; a cache is warmed from it",
    ),
    KeyPattern(
        "ratelimit",
        "ratelimit:<kind>:<id>:<window>",
        "string",
        "to the end of its use",
        _S,
        "ratelimit",
        "request count; <kind> is user, ip or apikey, <window> seconds",
        "id",
    ),
    KeyPattern(
        "ratelimit_rule",
        "ratelimit:<kind>:<id>:<window>:<rule>",
        "string",
        "to the end of its use",
        _S,
        "ratelimit",
        "the same of a named rule: a count, or the state of another algorithm",
        "id",
    ),
    KeyPattern(
        "ratelimit_top",
        "ratelimit:top",
        "zset",
        "to the end of the last window in it",
        _S,
        "ratelimit",
        "the limits that are most used, at most 100",
    ),
    KeyPattern(
        "siem_event_queue",
        "siem:event_queue",
        "list",
        "none",
        _S,
        "siem",
        "JSON audit events for the sink main, oldest first, at most 100,000",
        "siem",
    ),
    KeyPattern(
        "siem_failed_events",
        "siem:failed_events",
        "list",
        "none",
        _S,
        "siem",
        "its dead letters: events with the reason",
        "siem",
    ),
    KeyPattern(
        "siem_inflight",
        "siem:inflight:<worker>",
        "list",
        "none",
        _S,
        "siem",
        "its events that one worker has leased",
        "siem",
    ),
    KeyPattern(
        "siem_leases",
        "siem:leases",
        "hash",
        "none",
        _S,
        "siem",
        "its leases with their fencing tokens",
        "siem",
    ),
    KeyPattern(
        "siem_account",
        "siem:account",
        "hash",
        "none",
        _S,
        "siem",
        "its counts and bytes, kept by the scripts that move events",
        "siem",
    ),
    KeyPattern(
        "siem_expiries",
        "siem:expiries",
        "hash",
        "7 days after the last expiry",
        _S,
        "siem",
        "how many leases an event outlived, of those that did",
        "siem",
    ),
    KeyPattern(
        "siem_sink_event_queue",
        "siem:event_queue:<sink>",
        "list",
        "none",
        _S,
        "siem",
        "the same of a further sink",
        "siem",
    ),
    KeyPattern(
        "siem_sink_failed_events",
        "siem:failed_events:<sink>",
        "list",
        "none",
        _S,
        "siem",
        "the same of a further sink",
        "siem",
    ),
    KeyPattern(
        "siem_sink_inflight",
        "siem:inflight:<sink>:<worker>",
        "list",
        "none",
        _S,
        "siem",
        "the same of a further sink",
        "siem",
    ),
    KeyPattern(
        "siem_sink_leases",
        "siem:leases:<sink>",
        "hash",
        "none",
        _S,
        "siem",
        "the same of a further sink",
        "siem",
    ),
    KeyPattern(
        "siem_sink_account",
        "siem:account:<sink>",
        "hash",
        "none",
        _S,
        "siem",
        "the same of a further sink",
        "siem",
    ),
    KeyPattern(
        "siem_sink_expiries",
        "siem:expiries:<sink>",
        "hash",
        "7 days after the last expiry",
        _S,
        "siem",
        "the same of a further sink",
        "siem",
    ),
    KeyPattern(
        "siem_refusals",
        "siem:refusals",
        "hash",
        "none",
        _S,
        "siem",
        "closing event in preparation, per refused identity and window",
        "siem",
    ),
    KeyPattern(
        "siem_refusal_counts",
        "siem:refusals:count",
        "hash",
        "none",
        _S,
        "siem",
        "refusals so far, per refused identity and window",
        "siem",
    ),
    KeyPattern(
        "siem_refusals_due",
        "siem:refusals:due",
        "zset",
        "none",
        _S,
        "siem",
        "refused identities by the end of their window",
        "siem",
    ),
    KeyPattern(
        "breaker_state",
        "circuit_breaker:<name>:state",
        "string",
        "none",
        _S,
        "breaker",
        "closed, open or half_open",
        "name",
    ),
    KeyPattern(
        "breaker_failure_count",
        "circuit_breaker:<name>:failure_count",
        "string",
        "none",
        _S,
        "breaker",
        "consecutive failures",
        "name",
    ),
    KeyPattern(
        "breaker_last_failure",
        "circuit_breaker:<name>:last_failure",
        "string",
        "none",
        _S,
        "breaker",
        "ISO 8601 time",
        "name",
    ),
    KeyPattern(
        "breaker_details",
        "circuit_breaker:<name>:details",
        "hash",
        "none",
        _S,
        "breaker",
        "the rest: times, period, probes with leases and tokens, the window, what is forced",
        "name",
    ),
    KeyPattern(
        "breaker_names",
        "circuit_breaker:names",
        "set",
        "none",
        _S,
        "breaker",
        "the breakers that have been in use",
    ),
)


def _matcher(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(<\w+>)", pattern)
    return re.compile("".join("[^:]+" if p.startswith("<") else re.escape(p) for p in parts))


_MATCHERS = tuple((_matcher(row.pattern), row) for row in TABLE)


def classify(key: bytes | str) -> KeyPattern | None:
    """Find the table's row of a key, with or without hash tags; None for a foreign key."""
    text = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
    bare = text.replace("{", "").replace("}", "")
    return next((row for matcher, row in _MATCHERS if matcher.fullmatch(bare)), None)


def is_permanent(key: bytes | str) -> bool:
    """Whether the table declares that this key lives without a TTL."""
    row = classify(key)
    return row is not None and row.permanent
