"""Recording the ends of sessions, which can't wait for their record.

An end is an event for each session that was alive. One that found nothing to end is an event too:
it may repeat one whose event was lost with its process. So is one whose outcome nobody knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from sark.admission_events import Actor, session_event
from sark.errors import AuditError, StoreError
from sark.sessions import Revocation
from sark.siem import AuditEvent, LateEvents

__all__ = ["ALL_SESSIONS", "SessionEnds"]

ALL_SESSIONS = "*"
"""What an event names when all sessions were to end, and none was alive."""


class SessionEnds:
    """Records ends of sessions.

    Args:
        late: Takes the events, at once or later.
        budget: Seconds until an event is left for later.
    """

    def __init__(self, late: LateEvents, *, budget: float) -> None:
        self._late = late
        self._budget = budget

    async def record(
        self, ending: Awaitable[Revocation], user_id: str, named: str, *, by: Actor, ip: str | None
    ) -> Revocation:
        """End sessions, and record it.

        Args:
            ending: Ends them.
            user_id: Whose sessions.
            named: The session that was to end, or ``ALL_SESSIONS``.
            by: Who ends them.
            ip: From where.

        Raises:
            AuditError: They have ended, but that could not be recorded yet; tells what has ended.
            StoreError: They may not have ended, or may come back after a crash.
        """

        def event(session_id: str, reason: str) -> AuditEvent:
            return session_event("session:revoke", user_id, session_id, reason, ip)

        try:
            revocation = await ending
        except StoreError:
            # That it isn't known is what the caller has to hear, recorded or not.
            with contextlib.suppress(AuditError):
                await self._append(event(named, f"by {by}, outcome unknown"))
            raise
        except asyncio.CancelledError:
            # Nor does anybody know it when the caller has gone.
            self._late.keep([event(named, f"by {by}, outcome unknown")])
            raise
        events = [event(session_id, f"by {by}") for session_id in revocation.ended]
        try:
            await self._append(*(events or [event(named, f"by {by}, nothing was alive")]))
        except AuditError as error:
            error.ended, error.freshness = revocation.ended, revocation.freshness
            raise
        return revocation

    async def _append(self, *events: AuditEvent) -> None:
        # Ending took as long as it took to be safe; recording it has a time of its own.
        deadline = asyncio.get_running_loop().time() + self._budget
        await self._late.append(events, deadline=deadline)
