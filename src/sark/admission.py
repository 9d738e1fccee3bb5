"""Access tokens on the request path: who asks, whether the session is alive, what is recorded.

Refused tokens are audited like requests over a limit: the first refusal of a user for a reason
within a minute is an event, accepted before the answer leaves; its repeats are a count. A token
that could not be verified speaks for nobody, so its refusals belong to the address that sent it.
"""

from __future__ import annotations

import asyncio

from sark.errors import InvalidRequestError, SessionError, UserMismatchError
from sark.events import Hub
from sark.sessions import AccessClaims, Grant, Sessions
from sark.sessions.checks import NO_CHECK, SessionCheck
from sark.sessions.verdicts import refused
from sark.siem import AuditEvent, Refusals, new_event_id, now

__all__ = ["UNVERIFIED", "Admission"]

REFUSALS_WINDOW_SECONDS = 60
UNVERIFIED = "unverified"


class Admission:
    """Admits callers by their tokens.

    Args:
        sessions: The sessions; without them no token is accepted.
        refusals: Records who was refused.
        hub: Where events go.
        budget: Seconds for the round trips of one call.
    """

    def __init__(
        self, sessions: Sessions | None, refusals: Refusals, hub: Hub, *, budget: float
    ) -> None:
        self._sessions = sessions
        self._refusals = refusals
        self._hub = hub
        self._budget = budget

    async def identify(
        self,
        access_token: str | None,
        *,
        user_id: str | None,
        ip: str | None,
        user_agent: str | None,
        deadline: float,
    ) -> AccessClaims:
        """Verify an access token, and that it speaks for the user whom its request names, if any.

        No I/O, unless it is an outside issuer's and begins a session; see ``Sessions.adopt``.

        Raises:
            InvalidRequestError: It is no string, or there are no sessions here.
            TokenError: It isn't accepted.
            UserMismatchError: It is another user's.
            SessionError: Its session can't begin.
        """
        if not isinstance(access_token, str):
            kind = type(access_token).__name__
            raise InvalidRequestError("access_token", f"got {kind}, expected a string")
        sessions = self._open()
        claims = await sessions.checks.verify(access_token)
        if user_id is not None and user_id != claims.user_id:
            error = UserMismatchError("user", "the request names another user than its token")
            raise refused(self._hub, error, claims.user_id)
        await sessions.adopt(claims, ip=ip, user_agent=user_agent, deadline=deadline)
        return claims

    def prepare(
        self, claims: AccessClaims | None, ip: str | None, user_agent: str | None
    ) -> SessionCheck:
        """Prepare the check of a session in round trip 1; without a token there is none.

        Raises:
            BindingError: The request doesn't say what sessions are bound to.
        """
        return NO_CHECK if claims is None else self._open().checks.prepare(claims, ip, user_agent)

    def judge(self, user_id: str, verdict: bytes) -> None:
        """Interpret what round trip 1 says of the session; raises what it was refused for."""
        if self._sessions is not None:
            self._sessions.checks.judge(user_id, verdict)

    async def record(self, error: SessionError, event: AuditEvent, deadline: float) -> None:
        """Record a refusal, and note the event's id in the error.

        Raises:
            AuditError: It could not be recorded.
        """
        identity = f"user:{error.user_id}" if error.user_id else f"ip:{event.ip or UNVERIFIED}"
        error.decision_id = await self._refusals.record(
            f"{event.reason}:{identity}",
            event,
            identity=identity,
            seconds_left=REFUSALS_WINDOW_SECONDS,
            deadline=deadline,
        )

    async def authenticate(
        self, access_token: str, *, ip: str | None = None, user_agent: str | None = None
    ) -> AccessClaims:
        """Accept an access token alone; as ``Sessions.authenticate``, but refusals are recorded.

        Raises:
            AuditError: A refusal could not be recorded.
        """
        deadline = self._deadline()
        try:
            return await self._open().authenticate(
                access_token, ip=ip, user_agent=user_agent, deadline=deadline
            )
        except SessionError as error:
            await self.record(error, _event("session:authenticate", error, ip), self._deadline())
            raise

    async def refresh(
        self, refresh_token: str, *, ip: str | None = None, user_agent: str | None = None
    ) -> Grant:
        """Trade a refresh token; as ``Sessions.refresh``, but refusals are recorded.

        Raises:
            AuditError: A refusal could not be recorded.
        """
        deadline = self._deadline()
        try:
            return await self._open().refresh(
                refresh_token, ip=ip, user_agent=user_agent, deadline=deadline
            )
        except SessionError as error:
            await self.record(error, _event("session:refresh", error, ip), self._deadline())
            raise

    def _open(self) -> Sessions:
        if self._sessions is None:
            raise InvalidRequestError("access_token", "this deployment has no sessions")
        return self._sessions

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._budget


def _event(action: str, error: SessionError, ip: str | None) -> AuditEvent:
    return AuditEvent(
        id=new_event_id(),
        time=now(),
        type="refusal",
        policy="",
        user_id=error.user_id,
        action=action,
        resource="",
        context={},
        allow=False,
        reason=f"session:{error.code}",
        ip=ip,
    )
