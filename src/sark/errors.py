"""Every exception that SARK raises on purpose, in one tree.

::

    SarkError
    ├── ConfigurationError          a setting, file or policy is unusable; stops the start
    │   ├── SettingsError           an environment variable
    │   ├── PolicyError             Rego that does not load
    │   └── EmbeddedServerError     the embedded Valkey cannot be started
    ├── InvalidRequestError         the caller's input; names the field
    │   └── UnknownPolicyError      a policy that this deployment does not serve
    ├── StoreError                  Valkey did not do what was asked
    │   ├── StoreUnavailableError   nothing was sent: unreachable, refused, or known to be down
    │   │   └── PoolExhaustedError  no connection came free in time
    │   ├── StoreTimeoutError       no answer within the budget; whether it happened is unknown
    │   ├── ConnectionLostError     the connection broke after sending; likewise unknown
    │   ├── DurabilityError         written, but not yet as safe as required
    │   │   └── ReplicationError    ... because fewer replicas than required have it
    │   └── StoreCommandError       the server answered with an error
    ├── SessionError                a session or token is not accepted
    │   ├── TokenError              the token itself: form, signature, claims, time
    │   ├── SessionEndedError       revoked, expired, idle for too long, or never there
    │   ├── BindingError            used from another network or user agent than it is bound to
    │   ├── RefreshReuseError       a refresh token came a second time; its session is revoked
    │   ├── UserMismatchError       the request names another user than its token
    │   └── SessionCapError         the user has as many sessions as are allowed
    ├── IssuerUnavailableError      an outside issuer's keys cannot be had: nobody's fault here
    ├── EvaluationError             the policy engine failed; never cached, always a denial
    │   └── EvaluatorBusyError      ... was not asked: too many evaluations are under way
    ├── BreakerOpen                 a circuit breaker refuses the call: what it guards is down
    ├── LeaseError                  audit events cannot be leased, or no longer are
    │   ├── LeaseLostError          a worker's lease on audit events has ended
    │   ├── LeaseHeldError          the worker holds a lease already
    │   └── DeadLettersFullError    there is no room for dead letters, so nothing is leased
    ├── SinkError                   a sink of audit events cannot be used
    ├── LimitExceededError          a rate limit refused the request
    │   └── LimitDeniedError        ... because the deny-list names who asks; waiting is no use
    └── AuditError                  an answer's audit event was not accepted
        └── QueueFullError          ... because the queue and the spill store are at their bounds

Errors of the driver are mapped in ``sark.store.failures``; nothing above ``sark.store`` sees one.
"""

from __future__ import annotations

__all__ = [
    "STORE_AWAY",
    "AuditError",
    "BindingError",
    "BreakerOpen",
    "ConfigurationError",
    "ConnectionLostError",
    "DeadLettersFullError",
    "DurabilityError",
    "EmbeddedServerError",
    "EvaluationError",
    "EvaluatorBusyError",
    "InvalidRequestError",
    "IssuerUnavailableError",
    "LeaseError",
    "LeaseHeldError",
    "LeaseLostError",
    "LimitDeniedError",
    "LimitExceededError",
    "PolicyError",
    "PoolExhaustedError",
    "QueueFullError",
    "RefreshReuseError",
    "ReplicationError",
    "SarkError",
    "SessionCapError",
    "SessionEndedError",
    "SessionError",
    "SettingsError",
    "SinkError",
    "StoreCommandError",
    "StoreError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "TokenError",
    "UnknownPolicyError",
    "UserMismatchError",
]


class SarkError(Exception):
    """Base of all errors raised by SARK."""


class ConfigurationError(SarkError):
    """The configuration is unusable. The message is one line fit for a terminal."""


class SettingsError(ConfigurationError):
    """An environment variable has a value that is not accepted."""


class PolicyError(ConfigurationError):
    """A policy does not load. The message names file, line and reason."""


class EmbeddedServerError(ConfigurationError):
    """The embedded Valkey server is missing or did not start."""


class InvalidRequestError(SarkError):
    """A caller's input was refused before any I/O.

    Attributes:
        field: Path of the offending field, such as ``context.ip``; empty for the whole input.
        reason: What came and what was expected.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class UnknownPolicyError(InvalidRequestError):
    """The request names a policy that is not in ``SARK_POLICIES``."""


class StoreError(SarkError):
    """Valkey did not do what was asked."""


class StoreUnavailableError(StoreError):
    """Nothing was sent: the server is unreachable or known to be down.

    Attributes:
        retry_after: Seconds after which asking again makes sense.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PoolExhaustedError(StoreUnavailableError):
    """All connections stayed in use for as long as the caller could wait."""


class StoreTimeoutError(StoreError):
    """No answer came within the budget. Whether the command took effect is unknown."""


class ConnectionLostError(StoreError):
    """The connection broke after the command was sent. Whether it took effect is unknown."""


class StoreCommandError(StoreError):
    """The server answered with an error, for instance ``OOM`` or ``WRONGTYPE``."""


class DurabilityError(StoreError):
    """The server has the write, but may lose it if it is killed now."""


class ReplicationError(DurabilityError):
    """The primary has the write, but too few replicas acknowledged it: a failover may lose it."""


STORE_AWAY = (StoreUnavailableError, StoreTimeoutError, ConnectionLostError)
"""What speaks of a server that is away, and not of what it was asked."""


class SessionError(SarkError):
    """A session or token is not accepted.

    Attributes:
        code: The kind of reason, such as ``expired``: a label for metrics and audit events.
        reason: Why, for people; never the token or a part of it.
        decision_id: Id of the audit event, once the refusal has been recorded.
        user_id: Whom the token speaks for, once that was verified; else empty.
        session_id: The session that the refusal has ended; else empty.
    """

    def __init__(self, code: str, reason: str, *, decision_id: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.decision_id = decision_id
        self.user_id = ""
        self.session_id = ""


class TokenError(SessionError):
    """The token cannot be accepted, whatever the session: its form, signature, claims or time."""


class SessionEndedError(SessionError):
    """The session was revoked, has expired, was idle for too long, or never existed."""


class BindingError(SessionError):
    """The session is used from another network or user agent than it is bound to."""


class RefreshReuseError(SessionError):
    """A refresh token was used again after its successor was: the session is revoked (RFC 9700)."""


class UserMismatchError(SessionError):
    """The request names another user than its token."""


class SessionCapError(SessionError):
    """The user has as many sessions as are allowed, and a new one ends none of them."""


class IssuerUnavailableError(SarkError):
    """A token's issuer does not give its keys, so nobody can tell whether the token is good.

    Attributes:
        issuer: Who does not answer.
        reason: Why, without addresses.
        retry_after: Seconds after which asking again makes sense.
    """

    def __init__(self, issuer: str, reason: str, *, retry_after: float = 1.0) -> None:
        super().__init__(f"the keys of {issuer} are not available: {reason}")
        self.issuer = issuer
        self.reason = reason
        self.retry_after = retry_after


class EvaluationError(SarkError):
    """The policy engine failed to give a decision. Never cached, always a denial."""


class EvaluatorBusyError(EvaluationError):
    """The policy engine was not asked: others kept it busy for longer than one may wait."""


class BreakerOpen(SarkError):  # noqa: N818 - the field's name for it
    """A circuit breaker refuses a call, because what it guards is down.

    Attributes:
        name: Which breaker.
        retry_after: Seconds after which asking again makes sense.
    """

    def __init__(self, name: str, *, retry_after: float) -> None:
        super().__init__(f"the circuit breaker {name} is open; retry in {retry_after:.1f} s")
        self.name = name
        self.retry_after = retry_after


class LeaseError(SarkError):
    """Audit events cannot be leased, or no longer are."""


class LeaseLostError(LeaseError):
    """A worker's lease has ended, so its events are another's now; nothing was changed."""


class LeaseHeldError(LeaseError):
    """The worker holds a lease already, perhaps one whose answer it did not get."""


class DeadLettersFullError(LeaseError):
    """There is no room for another dead letter, so nothing is leased: replay or purge them."""


class SinkError(SarkError):
    """A sink of audit events cannot be used. The message is one line without secrets."""


class LimitExceededError(SarkError):
    """A rate limit refused the request. The refusal has been recorded.

    Attributes:
        kind: Which identity is at its limit: ``user``, ``ip`` or ``apikey``.
        retry_after: Seconds until the request would be admitted; 0 when waiting is no use.
        limits: Every limit's state, as in an answer.
        decision_id: Id of the audit event under which the refusal is recorded; empty where
            refusals aren't recorded.
        policy: Name of the limit; the kind for the default limit, ``deny`` for the deny-list.
    """

    def __init__(
        self,
        kind: str,
        *,
        retry_after: int,
        limits: tuple[object, ...],
        decision_id: str = "",
        policy: str = "",
    ) -> None:
        named = f" ({policy})" if policy not in {"", kind} else ""
        super().__init__(
            f"the rate limit of this {kind}{named} is exhausted; retry in {retry_after} s"
        )
        self.kind = kind
        self.policy = policy or kind
        self.retry_after = retry_after
        self.limits = limits
        self.decision_id = decision_id


class LimitDeniedError(LimitExceededError):
    """The deny-list names who asks, so nothing was charged and waiting is no use."""

    def __init__(self, kind: str, *, decision_id: str = "") -> None:
        super().__init__(kind, retry_after=0, limits=(), decision_id=decision_id, policy="deny")
        # The message of its base names a wait.
        self.args = (f"this {kind} is on the deny-list",)


class AuditError(SarkError):
    """The audit event of an answer was not accepted, so the answer may not leave.

    Attributes:
        retry_after: Seconds after which asking again makes sense.
        ended: Where an end of sessions could not be recorded: those that have ended all the same.
        freshness: Likewise: makes later requests at least as fresh. Empty when nothing was done.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.ended: tuple[str, ...] = ()
        self.freshness = ""


class QueueFullError(AuditError):
    """The queue of a sink is at its bound, and the spill store has no room either."""
