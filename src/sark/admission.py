"""Sessions and access tokens as callers meet them: who is admitted, and what is recorded of it.

Refused tokens are audited like requests over a limit: the first refusal of a user for a reason
within a minute is an event, accepted before the answer leaves; its repeats are a count. A token
that could not be verified speaks for nobody, so its refusals belong to the address that sent it.
A copied refresh token ends its session, so each is an event of its own.

Who guesses is limited: a refusal is charged to the address that it came from, and 429 takes its
place when that is over its limit. So are refreshes, to their address, and what users read of their
sessions, to them and their address. Ends are not: nobody's flood keeps anybody from logging out.

Logins and ends of sessions are events too: one for each session that began or ended, and one for a
revocation that found nothing to end, since it may repeat one whose event was lost. Refreshes that
succeed are not.

A login that can't be recorded is taken back. An end that can't be recorded stays: a full queue must
not keep a stolen token alive. Its event waits in this process, and whoever asked is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from sark.admission_events import Actor, refusal_event, refused_event, session_event
from sark.errors import (
    AuditError,
    InvalidRequestError,
    LimitExceededError,
    SessionCapError,
    SessionEndedError,
    SessionError,
    StoreError,
    UserMismatchError,
)
from sark.events import Hub
from sark.ratelimit import Identity, RateLimiter, canonical_ip
from sark.session_ends import ALL_SESSIONS, SessionEnds
from sark.sessions import AccessClaims, Grant, Revocation, Session, Sessions
from sark.sessions.checks import NO_CHECK, SessionCheck
from sark.sessions.verdicts import error_of, refused
from sark.siem import AuditEvent, EventQueue, LateEvents, Refusals

__all__ = ["AUTHENTICATE", "READ", "REFRESH", "UNVERIFIED", "Actor", "Admission"]

REFUSALS_WINDOW_SECONDS = 60
UNVERIFIED = "unverified"
AUTHENTICATE, REFRESH, READ = "session:authenticate", "session:refresh", "session:read"
"""What the limits are asked about; rules may name it."""


class Admission:
    """Admits callers by their tokens, and records logins, refusals and ends of sessions.

    Args:
        sessions: The sessions; without them no token is accepted.
        refusals: Records who was refused.
        queue: Takes the events of logins.
        late: Takes the events of what has ended already.
        limiter: Limits who guesses tokens, and what is done with sessions.
        hub: Where events go.
        budget: Seconds for the round trips of one call.
    """

    def __init__(
        self,
        sessions: Sessions | None,
        *,
        refusals: Refusals,
        queue: EventQueue,
        late: LateEvents,
        limiter: RateLimiter,
        hub: Hub,
        budget: float,
    ) -> None:
        self._sessions = sessions
        self._limiter = limiter
        self._refusals = refusals
        self._queue = queue
        self._late = late
        self._hub = hub
        self._budget = budget
        self._ends = SessionEnds(late, budget=budget)

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
        ``deadline`` is on the event loop's clock, in seconds.

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
        self._require_user(claims, user_id)
        if claims.outside:
            try:
                await sessions.adopt(claims, ip=ip, user_agent=user_agent, deadline=deadline)
            except SessionCapError as error:
                raise _never_began(error) from None
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
        """Record a refusal, and note the event's id in the error; charge where it came from.

        Raises:
            LimitExceededError: That address is refused too often; recorded.
            AuditError: It could not be recorded.
            StoreError: The server did not answer, and limits are to be closed then.
        """
        if event.ip is not None:
            await self.charge(
                [("ip", event.ip)], action=AUTHENTICATE, ip=event.ip, deadline=deadline
            )
        await self._record(error, event, deadline)

    async def _record(self, error: SessionError, event: AuditEvent, deadline: float) -> None:
        """Record a refusal; if it ended a session and can't be recorded, its event waits."""
        identity = f"user:{error.user_id}" if error.user_id else f"ip:{event.ip or UNVERIFIED}"
        # A refusal that ended a session stands for itself: it happens but once.
        window = f"{event.reason}:{identity}" + (f":{error.session_id}" if error.session_id else "")
        try:
            error.decision_id = await self._refusals.record(
                window,
                event,
                identity=identity,
                seconds_left=REFUSALS_WINDOW_SECONDS,
                deadline=deadline,
            )
        except AuditError:
            if error.session_id:
                # Asked again, the session has ended already: nobody else would raise the alarm.
                self._late.keep([event])
            raise

    async def charge(
        self,
        identities: Sequence[Identity],
        *,
        action: str,
        ip: str | None,
        deadline: float,
        tier: str = "",
    ) -> None:
        """Charge something that is done with sessions or tokens against the rate limits.

        Args:
            identities: Who does it.
            action: What; selects rules as actions of requests do.
            ip: Where it comes from, for the audit event.
            deadline: On the event loop's clock, in seconds.
            tier: The user's plan.

        Raises:
            LimitExceededError: A limit refuses; recorded.
            AuditError: The refusal could not be recorded.
            StoreError: The server did not answer, and limits are to be closed then.
        """
        charge = await self._limiter.check(identities, action=action, tier=tier, deadline=deadline)
        if charge.refused is None:
            return
        kind, identity = charge.refused
        user_id = identity if kind == "user" else ""
        event = refused_event(action, user_id, "", f"rate_limit:{kind}", ip)
        recorded_as = await self._refusals.record(
            charge.name,
            event,
            identity=f"{kind}:{identity}",
            seconds_left=charge.refused_for,
            deadline=deadline,
        )
        raise LimitExceededError(
            kind,
            retry_after=charge.retry_after,
            limits=charge.states,
            decision_id=recorded_as,
            policy=charge.policy,
        )

    async def create(
        self,
        user_id: str,
        *,
        client_id: str = "",
        ip: str | None = None,
        user_agent: str | None = None,
        tier: str = "",
        by: Actor = "service",
    ) -> Grant:
        """Begin a session; as ``Sessions.create``, but recorded.

        Raises:
            AuditError: It could not be recorded; there is no session.
        """
        deadline = self._deadline()
        # A login that can't be recorded must not end the oldest session to make room.
        await self._queue.require_room(deadline=deadline)
        try:
            grant = await self._open().create(
                user_id,
                client_id=client_id,
                ip=ip,
                user_agent=user_agent,
                tier=tier,
                deadline=deadline,
            )
        except SessionError as error:
            await self._record(error, refusal_event("session:create", error, ip), deadline)
            raise
        event = session_event("session:create", user_id, grant.session_id, f"by {by}", ip)
        try:
            await self._queue.append(event, deadline=deadline)
        except BaseException:
            # Nobody will hold its tokens, so it must not count; also when the caller has gone.
            await asyncio.shield(self._take_back(user_id, grant.session_id, ip))
            raise
        return grant

    async def authenticate(
        self,
        access_token: str,
        *,
        user_id: str | None = None,
        ip: str | None = None,
        user_agent: str | None = None,
        action: str = "",
        deadline: float | None = None,
    ) -> AccessClaims:
        """Accept an access token alone; as ``Sessions.authenticate``, but refusals are recorded.

        Args:
            access_token: The token.
            user_id: Whose it has to be; None accepts anybody's.
            ip: Where it comes from.
            user_agent: What it comes with.
            action: What it is to be used for, which is charged to the user and the address; empty
                charges nothing.
            deadline: On the event loop's clock, in seconds; left out, now plus the budget.

        Raises:
            UserMismatchError: It is another user's.
            LimitExceededError: The user does this too often, or the address is refused too often.
            AuditError: A refusal could not be recorded.
        """
        if deadline is None:
            deadline = self._deadline()
        try:
            try:
                claims = await self._open().authenticate(
                    access_token, ip=ip, user_agent=user_agent, deadline=deadline
                )
            except SessionCapError as error:
                raise _never_began(error) from None
            self._require_user(claims, user_id)
        except SessionError as error:
            await self.record(error, refusal_event(AUTHENTICATE, error, ip), deadline)
            raise
        if action:
            who = self._limiter.identities(claims.user_id, ip, None)
            await self.charge(who, action=action, ip=ip, deadline=deadline, tier=claims.tier)
        return claims

    async def session(
        self, access_token: str, *, ip: str | None = None, user_agent: str | None = None
    ) -> Session:
        """Read the session of an access token; errors as in ``authenticate``."""
        deadline = self._deadline()
        claims = await self.authenticate(
            access_token, ip=ip, user_agent=user_agent, action=READ, deadline=deadline
        )
        found = await self._open().get(claims.user_id, claims.session_id, deadline=deadline)
        if found is None:  # it has ended since the check
            error = refused(self._hub, error_of("ended"), claims.user_id)
            await self.record(error, refusal_event(AUTHENTICATE, error, ip), deadline)
            raise error
        return found

    async def refresh(
        self, refresh_token: str, *, ip: str | None = None, user_agent: str | None = None
    ) -> Grant:
        """Trade a refresh token; as ``Sessions.refresh``, but refusals are recorded.

        Raises:
            LimitExceededError: The address does this too often; nothing was traded.
            AuditError: A refusal could not be recorded.
        """
        deadline = self._deadline()
        if ip is not None:
            ip = canonical_ip(ip)
            await self.charge([("ip", ip)], action=REFRESH, ip=ip, deadline=deadline)
        try:
            return await self._open().refresh(
                refresh_token, ip=ip, user_agent=user_agent, deadline=deadline
            )
        except SessionError as error:
            # Making the end of a copied token's session safe takes longer than a request may.
            ended = error.session_id != ""
            until = self._deadline() if ended else deadline
            await self._record(error, refusal_event(REFRESH, error, ip), until)
            raise

    async def revoke(
        self, user_id: str, session_id: str, *, by: Actor, ip: str | None = None
    ) -> Revocation:
        """End one session; as ``Sessions.revoke``, but recorded.

        Raises:
            AuditError: It has ended, but that could not be recorded yet; tells what has ended.
            StoreError: It may not have ended, or may come back after a crash; ask again.
        """
        ending = self._open().revoke(user_id, session_id)
        return await self._ends.record(ending, user_id, session_id, by=by, ip=ip)

    async def revoke_user(
        self, user_id: str, *, except_session: str | None = None, by: Actor, ip: str | None = None
    ) -> Revocation:
        """End all sessions of a user, or all but one; as ``revoke``."""
        ending = self._open().revoke_user(user_id, except_session=except_session)
        return await self._ends.record(ending, user_id, ALL_SESSIONS, by=by, ip=ip)

    async def _take_back(self, user_id: str, session_id: str, ip: str | None) -> None:
        """End a session whose login could not be recorded."""
        self._late.keep(
            [session_event("session:revoke", user_id, session_id, "login not recorded", ip)]
        )
        # If this fails too, it is left to expire: nobody was given its tokens.
        with contextlib.suppress(StoreError):
            await self._open().revoke(user_id, session_id)

    def _require_user(self, claims: AccessClaims, user_id: str | None) -> None:
        if user_id is not None and user_id != claims.user_id:
            error = UserMismatchError("user", "the request names another user than its token")
            raise refused(self._hub, error, claims.user_id)

    def _open(self) -> Sessions:
        if self._sessions is None:
            raise InvalidRequestError("access_token", "this deployment has no sessions")
        return self._sessions

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._budget


def _never_began(error: SessionCapError) -> SessionEndedError:
    """Tell who shows an outside token, and logs in nowhere, that its session found no place."""
    refusal = SessionEndedError(error.code, error.reason)
    refusal.user_id = error.user_id
    return refusal
