"""Every key that SARK writes, as one table, and the only functions that build key names.

The table is read by the code, the documentation (``sark keyspace``), memory analysis, metrics and
the doctor. Key names follow the guide; ids come from outside and are encoded, so that no id can
forge another key.

**Encoding of ids.** An id made of ``A-Z a-z 0-9 - _ . ~ @ + = , /`` stands as it is. Any other
byte of its UTF-8 form becomes ``%XX`` (so ``:``, ``{``, ``}``, ``*``, spaces, control and
non-ASCII characters never appear raw). What would exceed ``MAX_ENCODED_BYTES`` becomes ``#`` and
its SHA-256 in hex; ``#`` itself is always escaped. Two different ids therefore never share a form.

**Cluster.** One script may only touch keys of one slot. With ``cluster=True`` the builders put the
part that is named in the table's ``tag`` column in braces (a hash tag, see the Valkey cluster
specification); without it the names are exactly the guide's.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from urllib.parse import quote

from sark.errors import InvalidRequestError

__all__ = [
    "MAIN_SINK",
    "TABLE",
    "KeyPattern",
    "Keyspace",
    "Role",
    "SinkKeys",
    "classify",
    "encode_id",
    "encode_rule",
    "is_permanent",
]

MAIN_SINK = "main"
MAX_ENCODED_BYTES = 200
MAX_RULE_CHARACTERS = 12

_SAFE = "-_.~@+=,/"
_PLAIN = re.compile(rf"[A-Za-z0-9\-_.~@+=,/]{{1,{MAX_ENCODED_BYTES}}}").fullmatch


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
)


@dataclass(frozen=True, slots=True)
class SinkKeys:
    """The keys of one sink's events; in a cluster all in one slot.

    Attributes:
        queue: Events that wait.
        failed: Dead letters.
        leases: Who has leased which events.
        account: Counts and bytes.
        expiries: How many leases an event outlived.
    """

    queue: str
    failed: str
    leases: str
    account: str
    expiries: str
    _inflight: str

    def inflight(self, worker: str) -> str:
        """Name the list of events that a worker has leased."""
        return self._inflight + encode_id(worker, field="worker")


def encode_id(value: str, *, field: str = "id") -> str:
    """Encode an id from outside as one part of a key.

    Args:
        value: The id. Unicode forms are kept apart: nothing is normalised.
        field: The name to report when the id is refused.

    Returns:
        A string of safe characters without ``:``, braces or ``#`` (but for the marker of a hash).

    Raises:
        InvalidRequestError: The id is empty or not encodable as UTF-8 (lone surrogates).
    """
    if _PLAIN(value):
        return value
    if not value:
        raise InvalidRequestError(field, "got an empty string, expected an id")
    try:
        encoded = quote(value, safe=_SAFE)
    except UnicodeEncodeError:
        raise InvalidRequestError(field, "is not valid Unicode (a lone surrogate)") from None
    if len(encoded) <= MAX_ENCODED_BYTES:
        return encoded
    return "#" + sha256(value.encode()).hexdigest()


def encode_rule(name: str) -> str:
    """Spell the name of a rule as one part of a key: a long one as ``~`` and part of its SHA-256.

    Every counter of the rule has it in its key, so it must not be long. Names have no ``~``.
    """
    if len(name) <= MAX_RULE_CHARACTERS:
        return name
    digest = urlsafe_b64encode(sha256(name.encode()).digest()).decode()
    return "~" + digest[: MAX_RULE_CHARACTERS - 1]


class Keyspace:
    """Builds key names.

    Args:
        cluster: Put hash tags in the names, so that what one script touches shares a slot.
    """

    __slots__ = (
        "_siem",
        "_tag",
        "cluster",
        "generation_prefixes",
        "policy_changes",
        "policy_generation",
        "policy_hot_requests",
        "ratelimit_top",
        "siem_refusal_counts",
        "siem_refusals",
        "siem_refusals_due",
    )

    def __init__(self, *, cluster: bool = False) -> None:
        self.cluster = cluster
        self._tag = "{%s}" if cluster else "%s"
        siem = self._tag % "siem"
        self._siem = siem
        self.policy_generation = "policy:generation"
        self.policy_hot_requests = "policy:hot_requests"
        self.ratelimit_top = "ratelimit:top"
        # A channel, not a key: each invalidation is published there with its token.
        self.policy_changes = "policy:changes"
        self.generation_prefixes = (
            "policy:generation",
            "policy:version:",
            "policy:user_version:",
        )
        self.siem_refusals = f"{siem}:refusals"
        self.siem_refusal_counts = f"{siem}:refusals:count"
        self.siem_refusals_due = f"{siem}:refusals:due"

    def session_user(self, user_id: str, session_id: str) -> str:
        """Name the hash of one session."""
        return f"session:user:{self._tag % encode_id(user_id)}:{encode_id(session_id)}"

    def session_token(self, user_id: str, jti: str) -> str:
        """Name the string that maps a token id to its session.

        In cluster mode the user's id stands before it, because both are touched by one script.
        """
        token = encode_id(jti, field="jti")
        if self.cluster:
            return f"session:token:{self._tag % encode_id(user_id, field='user_id')}.{token}"
        return f"session:token:{token}"

    def session_index(self, user_id: str) -> str:
        """Name the sorted set of a user's sessions."""
        return f"session:index:{self._tag % encode_id(user_id)}"

    def session_not_before(self, user_id: str) -> str:
        """Name the time at which all sessions of a user were ended."""
        return f"session:not_before:{self._tag % encode_id(user_id)}"

    def policy_decision(self, digest: str) -> str:
        """Name a cached decision. ``digest`` is hex or base64url and stands as it is."""
        return f"policy:decision:{digest}"

    def policy_version(self, policy: str) -> str:
        """Name the generation token of a policy."""
        return f"policy:version:{encode_id(policy)}"

    def policy_user_version(self, user_id: str) -> str:
        """Name the generation token of a user."""
        return f"policy:user_version:{encode_id(user_id, field='user_id')}"

    def ratelimit(self, kind: str, identity: str, window_seconds: int) -> str:
        """Name the counter of one identity. ``kind`` is ``user``, ``ip`` or ``apikey``."""
        head, tail = self.ratelimit_parts(kind, window_seconds)
        return head + encode_id(identity) + tail

    def ratelimit_rule(self, kind: str, identity: str, window_seconds: int, rule: str) -> str:
        """Name what one identity has used of a rule, whose name ``encode_rule`` spells."""
        head, tail = self.ratelimit_parts(kind, window_seconds, rule)
        return head + encode_id(identity) + tail

    def ratelimit_parts(self, kind: str, window_seconds: int, rule: str = "") -> tuple[str, str]:
        """Tell what stands before and after the encoded identity in the names above."""
        opening, closing = ("{", "}") if self.cluster else ("", "")
        named = f":{encode_rule(rule)}" if rule else ""
        return f"ratelimit:{kind}:{opening}", f"{closing}:{window_seconds}{named}"

    def siem(self, sink: str = MAIN_SINK) -> SinkKeys:
        """Name the keys of one sink; ``main`` owns the guide's names."""
        siem = self._siem
        tail = "" if sink == MAIN_SINK else f":{encode_id(sink, field='sink')}"
        return SinkKeys(
            queue=f"{siem}:event_queue{tail}",
            failed=f"{siem}:failed_events{tail}",
            leases=f"{siem}:leases{tail}",
            account=f"{siem}:account{tail}",
            expiries=f"{siem}:expiries{tail}",
            _inflight=f"{siem}:inflight{tail}:",
        )

    def breaker_state(self, name: str) -> str:
        """Name a breaker's state."""
        return f"circuit_breaker:{self._tag % encode_id(name)}:state"

    def breaker_failure_count(self, name: str) -> str:
        """Name a breaker's count of consecutive failures."""
        return f"circuit_breaker:{self._tag % encode_id(name)}:failure_count"

    def breaker_last_failure(self, name: str) -> str:
        """Name the time of a breaker's last failure."""
        return f"circuit_breaker:{self._tag % encode_id(name)}:last_failure"


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
