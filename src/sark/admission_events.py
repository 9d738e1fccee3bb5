"""The audit events of sessions and tokens."""

from __future__ import annotations

from typing import Literal

from sark.errors import SessionError
from sark.siem import AuditEvent, new_event_id, now

__all__ = ["Actor", "refusal_event", "refused_event", "session_event"]

Actor = Literal["user", "admin", "service"]
"""Who began or ended a session."""


def session_event(
    action: str, user_id: str, session_id: str, reason: str, ip: str | None
) -> AuditEvent:
    """Tell that a session began or ended."""
    return AuditEvent(
        id=new_event_id(),
        time=now(),
        type="session",
        policy="",
        user_id=user_id,
        action=action,
        resource=session_id,
        context={},
        allow=True,
        reason=reason,
        ip=ip,
    )


def refusal_event(action: str, error: SessionError, ip: str | None) -> AuditEvent:
    """Tell that a session or token was refused."""
    return refused_event(action, error.user_id, error.session_id, f"session:{error.code}", ip)


def refused_event(
    action: str, user_id: str, session_id: str, reason: str, ip: str | None
) -> AuditEvent:
    """Tell that something around sessions was refused, for a reason of any kind."""
    return AuditEvent(
        id=new_event_id(),
        time=now(),
        type="refusal",
        policy="",
        user_id=user_id,
        action=action,
        resource=session_id,
        context={},
        allow=False,
        reason=reason,
        ip=ip,
    )
