"""The builders of key names."""

from __future__ import annotations

from dataclasses import dataclass

from sark.keyspace.ids import encode_id, encode_rule

__all__ = ["MAIN_SINK", "Keyspace", "SinkKeys"]

MAIN_SINK = "main"


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


class Keyspace:
    """Builds key names.

    Args:
        cluster: Put hash tags in the names, so that what one script touches shares a slot.
    """

    __slots__ = (
        "_siem",
        "_tag",
        "breaker_names",
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
        self.breaker_names = "circuit_breaker:names"
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

    def breaker_details(self, name: str) -> str:
        """Name what else is known of a breaker."""
        return f"circuit_breaker:{self._tag % encode_id(name)}:details"
